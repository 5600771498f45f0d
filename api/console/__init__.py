"""The console, and the API's own pages."""
