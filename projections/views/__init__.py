"""What events add to each view, which is pure, and the form in which the views are stored."""
