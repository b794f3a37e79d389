"""What operators see: metrics, logs, redaction."""
