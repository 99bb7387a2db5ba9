"""Who is in a channel."""
