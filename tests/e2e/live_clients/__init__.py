"""Unmodified clients of GPT-Live, each through the relay in front of the built-in simulator."""
