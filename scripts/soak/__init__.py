"""The log's promises under stress: `python -m scripts.soak --help`."""
