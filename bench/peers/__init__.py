"""Contenders that are part of this benchmark, written idiomatically for their library."""
