"""Tests of service/realtime."""
