"""Real relays, a real Prometheus, a real Alertmanager: every alert by its real cause, every panel's query."""
