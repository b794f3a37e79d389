"""Tests of service/relay/continuity."""
