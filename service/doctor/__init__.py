"""Walks the chain that a connection walks, rung by rung, and explains the first one that breaks."""
