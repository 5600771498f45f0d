"""Events sent to others."""
