"""What a ticket is: events, commands and decisions. Standard library and pydantic only; no I/O."""
