"""What a backend claims to be: its name, its configuration and its properties."""
