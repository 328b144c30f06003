"""What is run: programs, params and results as values. No I/O."""
