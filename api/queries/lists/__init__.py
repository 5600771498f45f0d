"""Lists of tickets: filters, search, sorts, pages."""
