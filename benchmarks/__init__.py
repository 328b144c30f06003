"""Measurements. Every figure in the documentation comes from here."""
