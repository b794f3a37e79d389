"""Faults that only a network can make: black holes, resets, loss. Run by `make test-faults` in a network of their own."""
