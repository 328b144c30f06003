"""Twirling and error mitigation: programs run where operations go wrong."""
