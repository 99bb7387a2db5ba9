"""The demo: rooms in the browser."""
