"""State that several pods share: leases of sessions, spending, single-use secrets."""
