"""Tests of `service/settings/`."""
