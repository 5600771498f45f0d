"""Proofs that the log is what it was: a tree over all heads, and signed checkpoints."""
