"""Tests of service/realtime/continuity."""
