"""What an operator types, beside what starts a process."""
