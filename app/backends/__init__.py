"""What a device claims to be: backend names."""
