"""Health checks of the upstream: the key, the handshake and, if enabled, a response."""
