"""The HTTP door: commands in, views and timelines out."""
