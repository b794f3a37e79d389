"""Programs for the repository itself: generated files, demo, scans, validation. Not part of the distribution."""
