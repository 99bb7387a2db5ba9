"""Carry publications between nodes and keep their short history."""
