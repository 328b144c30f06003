"""The runtime protocol: from untrusted typed JSON to programs, from results to typed JSON."""
