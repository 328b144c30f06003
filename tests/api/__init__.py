"""The HTTP face, on a dispatcher that keeps its jobs in memory."""
