"""What soaks and benchmarks work with: processes, clients, a browser. Not installed."""
