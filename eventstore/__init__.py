"""The append-only log: what is stored of an event, how it is appended, read and watched."""
