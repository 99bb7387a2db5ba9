"""Doors for clients: bytes to and from a connection, nothing else."""
