"""Sessions that outlive their upstream connection: renewal before the provider's limit, recovery after a loss."""
