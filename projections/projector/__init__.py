"""Keeps the views current: partitions, leases, batches, parked tickets, health."""
