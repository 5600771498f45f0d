"""What operators watch: health, metrics, stored documents that cannot be read."""
