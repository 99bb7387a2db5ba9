"""Doors for servers: the HTTP API and the health pages."""
