"""The clients file that RELAY_CLIENTS_FILE names: its format, its mistakes, and reading it again while the relay runs."""
