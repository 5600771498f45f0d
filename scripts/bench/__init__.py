"""Measurements, compared with what one would do otherwise."""
