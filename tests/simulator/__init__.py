"""Tests of service/simulator."""
