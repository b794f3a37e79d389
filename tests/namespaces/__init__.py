"""Network faults: black holes, resets, loss. `make test-faults` runs these tests in a network namespace of their own."""
