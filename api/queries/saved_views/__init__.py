"""Named filters with a count that is kept."""
