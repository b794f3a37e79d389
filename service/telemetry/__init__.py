"""Metrics, logs and the redaction of logs."""
