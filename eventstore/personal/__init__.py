"""Personal fields, sealed with a key for each person; where the keys are, and what wraps them."""
