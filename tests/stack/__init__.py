"""A stack that runs, seen from outside."""
