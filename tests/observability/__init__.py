"""Runs relays, Prometheus and Alertmanager, causes every alert, and runs the query of every dashboard panel."""
