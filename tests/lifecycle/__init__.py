"""Tests of the real process: start, signals, drain, exit code, and behaviour on a machine under stress."""
