"""What happens to tickets when its time has come."""
