"""Builds the views anew beside the live ones, proves them, and switches."""
