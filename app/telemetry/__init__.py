"""What an operator sees: logs and metrics, each declared once."""
