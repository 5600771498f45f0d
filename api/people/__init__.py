"""What is held on persons, and their erasure."""
