"""A ticket by itself and its history."""
