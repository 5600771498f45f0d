"""Pure: what events add to each view, and the form in which the views are stored."""
