"""Tests of `service/failures`."""
