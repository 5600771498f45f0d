"""How what is left of a promise comes about."""
