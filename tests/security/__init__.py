"""Secrets: where they must not appear."""
