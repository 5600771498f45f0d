"""What is shown: pure folds from events to views, and the process that keeps the views current."""
