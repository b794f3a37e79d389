"""Tests of `service/failures.py`."""
