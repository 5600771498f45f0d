"""Command lines. Each module is one command: `python -m scripts.<name> --help`."""
