"""Metrics of continuity: how often a session got another upstream connection, how long that took, and what it lost."""

from typing import Final, Literal

from prometheus_client import CollectorRegistry

from service.telemetry.series import Counter, Gauge, Histogram

SwapCause = Literal["renewal", "forced", "loss"]
SwapResult = Literal["ok", "failed", "postponed", "ended"]
CAUSES: Final[tuple[SwapCause, ...]] = ("renewal", "forced", "loss")
RESULTS: Final[tuple[SwapResult, ...]] = ("ok", "failed", "postponed", "ended")
ITEM_RESULTS: Final = ("sent", "refused", "omitted")
LOST_TURNS: Final = ("no_transcript", "audio_over_limit", "format_changed", "items_over_limit", "refused", "other")
NOT_RENEWABLE: Final = (
    "kept_event_too_large",
    "kept_event_too_intricate",
    "items_over_limit",
    "unsupported_session",
    "over_budget",
    "no_room",
    "other",
)
_SECONDS: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 8, 15, 30)


class ContinuityMetrics:
    """The metrics of continuity, on the registry of the relay."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self._swaps = Counter(
            f"{prefix}_swaps_total",
            "Upstream connections of sessions that the relay replaced, or tried to, by cause (renewal: before the provider's "
            "limit, forced: at the limit, loss) and result (ok; failed: the session stays on its connection; postponed: it "
            "waits for a call or an approval of a tool; ended: the session ended).",
            ("cause", "result"),
            registry=registry,
        )
        self.seconds = Histogram(
            f"{prefix}_swap_seconds",
            "Time from the start of a swap, which is the dial of a renewal and the loss of a connection, to the switch.",
            ("cause",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.gap = Histogram(
            f"{prefix}_swap_gap_seconds",
            "Time during which a session that was continued had no upstream connection.",
            ("cause",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._items = Counter(
            f"{prefix}_replayed_items_total",
            "Items of conversations at swaps: sent to the new upstream, of these refused, or omitted (cannot be sent).",
            ("result",),
            registry=registry,
        )
        self._lost_turns = Counter(
            f"{prefix}_lost_turns_total",
            "Turns of users that a swap lost, by the reason for which they could not be sent again.",
            ("reason",),
            registry=registry,
        )
        self._not_renewable = Counter(
            f"{prefix}_not_renewable_total",
            "Sessions that go on without continuity, or began without it for lack of memory (no_room), by reason.",
            ("reason",),
            registry=registry,
        )
        self.text_answers = Counter(
            f"{prefix}_text_drift_total",
            "Answers in text only after a swap, where speech was due: the new upstream knows earlier answers as text.",
            registry=registry,
        )
        self.kept_bytes = Gauge(
            f"{prefix}_continuity_bytes", "Bytes of conversations that are kept for swaps.", registry=registry
        )
        self._swaps.start_at_zero(CAUSES, RESULTS)
        self.seconds.start_at_zero(CAUSES)
        self.gap.start_at_zero(CAUSES)
        self._items.start_at_zero(ITEM_RESULTS)
        self._lost_turns.start_at_zero(LOST_TURNS)
        self._not_renewable.start_at_zero(NOT_RENEWABLE)

    def count_swap(self, cause: SwapCause, result: SwapResult) -> None:
        """Count a swap, or an attempt that failed."""
        self._swaps.labels(cause, result).inc()

    def count_items(self, *, sent: int, refused: int, omitted: int) -> None:
        """Count the items of one swap."""
        for result, count in zip(ITEM_RESULTS, (sent, refused, omitted), strict=True):
            self._items.labels(result).inc(count)

    def count_lost_turns(self, reason: str, count: int) -> None:
        """Count turns that a swap lost."""
        self._lost_turns.labels(reason if reason in LOST_TURNS else "other").inc(count)

    def count_not_renewable(self, reason: str) -> None:
        """Count a session that goes on without continuity."""
        self._not_renewable.labels(reason if reason in NOT_RENEWABLE else "other").inc()
