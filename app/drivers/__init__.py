"""How are devices used that are not ours? The driver manager: gRPC in front, drivers behind.

A driver is a plugin that runs in processes of its own; each of its devices is a backend
``DEVICE@DRIVER``. The manager is a second front door to the dispatcher, and a worker of its
drivers' queues. Only ``app.drivers.translation`` and what drivers bring may import Qiskit.
"""
