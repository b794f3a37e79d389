"""Tests of service/health."""
