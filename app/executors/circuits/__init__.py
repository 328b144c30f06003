"""Circuits on their way to a simulator: flat, small, and by the method that suits them."""
