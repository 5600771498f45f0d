"""From a request to events in the log."""
