"""The demo: one room in the browser."""
