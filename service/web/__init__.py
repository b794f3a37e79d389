"""The HTTP listeners and their handlers."""
