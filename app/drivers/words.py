"""What does the manager ask a sandbox for? Three words in front of a program's id."""

#: Read the program: circuits for a device. The request's target is the gates of the device.
READ = "read:"
#: Write the result of a sampler or an estimator.
WRITE = "write:"
#: Run the program on one of our executors.
RUN = "run:"
