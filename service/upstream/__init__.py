"""Connecting to the provider: targets, dials, breaker and retry, key rotation."""
