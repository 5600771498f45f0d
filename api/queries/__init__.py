"""Tickets, lists, history and the dashboard, as clients see them."""
