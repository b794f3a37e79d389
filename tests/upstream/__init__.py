"""Tests of service/upstream."""
