"""Measurements beside what one would do otherwise."""
