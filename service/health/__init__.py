"""Can a user talk through us now? The key and handshake checks."""
