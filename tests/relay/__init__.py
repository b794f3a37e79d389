"""Tests of service/relay."""
