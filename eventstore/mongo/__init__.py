"""The door to the database: drivers, limits, the embedded server, and every workaround for it."""
