"""The log of durable channels: written first, announced second."""
