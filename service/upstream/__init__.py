"""Reaching the provider."""
