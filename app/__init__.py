"""Qfleet: a self-hosted, distributed Qiskit Runtime."""

__version__ = "0.1.0"
