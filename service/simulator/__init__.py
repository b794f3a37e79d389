"""A faithful local upstream: the embedded default and the tests' peer. Knows only `realtime`."""
