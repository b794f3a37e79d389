"""The real process over its life: start, signals, drain, exit code, and what the machine does to it meanwhile."""
