"""The application: HTTP in front, the handling of commands, and what happens by itself."""
