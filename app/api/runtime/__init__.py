"""The Qiskit Runtime REST API, as its unmodified client speaks it."""
