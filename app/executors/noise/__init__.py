"""Noise: what goes wrong in a run, and what is known of it."""
