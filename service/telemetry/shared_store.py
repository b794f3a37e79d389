"""Metrics of the store that pods share."""

from typing import Final

from prometheus_client import CollectorRegistry

from service.telemetry.series import Counter, Gauge, Histogram

CALLS: Final = (
    "register",
    "hold",
    "heartbeat",
    "acquire",
    "leave",
    "spend",
    "totals",
    "put_secret",
    "read_secret",
    "take_secret",
)
RESULTS: Final = ("ok", "timeout", "error", "skipped")
LOSSES: Final = ("data", "spending")

# A script takes well under a millisecond; a call is given up after 0.25 s.
_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)


class StoreMetrics:
    """The metrics; every series starts at 0, `store_up` at 1: the store in memory never fails."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self.up = Gauge(
            f"{prefix}_store_up",
            "1 while the store of RELAY_STORE_URL answers, 0 after three failed calls in a row; always 1 for memory:.",
            registry=registry,
        )
        self.calls = Counter(
            f"{prefix}_store_calls_total",
            "Calls to the store by result: ok, timeout, error, or skipped while it is known to fail.",
            ("call", "result"),
            registry=registry,
        )
        self.duration = Histogram(
            f"{prefix}_store_call_duration_seconds",
            "Duration of calls to the store.",
            ("call",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self.journal = Gauge(
            f"{prefix}_store_journal_records",
            "Records whose spending waits in this process until the store has it.",
            registry=registry,
        )
        self.losses = Counter(
            f"{prefix}_store_losses_total",
            "What the store has lost: data (it came back empty), or spending of a record that the journal could not keep.",
            ("kind",),
            registry=registry,
        )
        self.over_limit = Counter(
            f"{prefix}_store_sessions_over_limit_total",
            "Sessions that had no free place when their process registered them at the store again.",
            registry=registry,
        )
        self.up.set(1)
        self.duration.start_at_zero(CALLS)
        self.calls.start_at_zero(CALLS, RESULTS)
        self.losses.start_at_zero(LOSSES)
