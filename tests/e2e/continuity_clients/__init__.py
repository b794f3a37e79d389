"""Unmodified SDKs of the Realtime API in calls that outlive their upstream connection."""
