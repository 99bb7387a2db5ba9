"""What an application writes in Python: channel classes, RPCs, back-end handlers, and who is who."""
