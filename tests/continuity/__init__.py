"""Sessions that outlive their upstream connections: recovery, renewal, and what the client sees of them."""
