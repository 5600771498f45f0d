"""Erasing a person: how far it has come, and its last step, in the views."""
