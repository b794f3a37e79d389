"""Checks a connection step by step and explains the first step that fails."""
