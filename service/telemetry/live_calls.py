"""Metrics of GPT-Live: start, billed seconds, backend models, context window, latency of speech.

Most change at most a few times a second for each session, so they are plain Prometheus metrics (compare `traffic.py`).
"""

from typing import Final

from prometheus_client import CollectorRegistry

from service.failures import DIAL_FAILURES, START_FAILURES
from service.realtime.live_events import RESPONSE_ENDS, RESPONSE_FAILED, BackendResponse, Decision
from service.realtime.live_usage import Charge, LiveMeter
from service.realtime.pricing import LIVE_MODELS, OTHER, live_cost_usd, uncached
from service.telemetry.conversations import ConversationMetrics
from service.telemetry.series import Counter, Histogram

# A start takes 0.3 to 0.8 s, with a long history 1.2 s.
_START_BUCKETS: Final = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 4, 8, 15, 30)
# Transcripts lie on a grid of 0.2 s. An answer within 0.6 s is normal; delegated work can take tens of seconds.
_ANSWER_BUCKETS: Final = (0.2, 0.4, 0.6, 0.8, 1, 1.5, 2, 3, 5, 10, 30)
# Above 0.9 the provider compacts the context.
_RATIO_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1)
_KINDS: Final = ("active", "paused")
_TOKEN_KINDS: Final = ("input", "cached_input", "output")
_DECISION: Final = "decision.completed"
_REFUSED_EVENTS: Final = ("start_repeated", "start_invalid", "model_refused")
_RESULTS: Final = ("confirmed", "unconfirmed")


class LiveMetrics:
    """The metrics of GPT-Live, on the registry of the relay. Cost and responses without a price count with the others."""

    def __init__(self, prefix: str, registry: CollectorRegistry, conversations: ConversationMetrics) -> None:
        self._cost, self._unpriced = conversations.cost, conversations.unpriced
        self.start_seconds = Histogram(
            f"{prefix}_live_start_seconds",
            "GPT-Live: time from session.start to session.started, for sessions that started.",
            buckets=_START_BUCKETS,
            registry=registry,
        )
        self.start_failures = Counter(
            f"{prefix}_live_start_failures_total",
            "GPT-Live: sessions of admitted clients that did not start, by reason: those that the dial or the breaker "
            "refused, and those that session.start did not start.",
            ("reason",),
            registry=registry,
        )
        self.speech_to_speech = Histogram(
            f"{prefix}_live_speech_to_speech_seconds",
            "GPT-Live: time from the end of the user's speech to the start of the answer, by the times of the transcripts.",
            buckets=_ANSWER_BUCKETS,
            registry=registry,
        )
        self._seconds = Counter(
            f"{prefix}_billed_seconds_total",
            "GPT-Live: seconds of sessions that the provider reported as used: active (silence included) or paused.",
            ("model", "kind"),
            registry=registry,
        )
        self._final_usage = Counter(
            f"{prefix}_live_final_usage_total",
            "GPT-Live: ended sessions by final usage: confirmed (session.closed reported it) or unconfirmed (it never came, "
            "so that the provider may have billed more).",
            ("result",),
            registry=registry,
        )
        self._context_ratio = Histogram(
            f"{prefix}_live_context_ratio",
            "GPT-Live: greatest used share of the context window in an ended session.",
            buckets=_RATIO_BUCKETS,
            registry=registry,
        )
        self._backend = Counter(
            f"{prefix}_live_backend_responses_total",
            "GPT-Live: ended responses and decisions of backend models, by the provider's event.",
            ("event",),
            registry=registry,
        )
        self._tokens = Counter(
            f"{prefix}_live_backend_tokens_total",
            "GPT-Live: tokens of backend models. The kind input excludes cached tokens.",
            ("kind",),
            registry=registry,
        )
        self.refused_events = Counter(
            f"{prefix}_live_events_refused_total",
            "GPT-Live: events of clients within a session that the relay did not forward, by reason.",
            ("reason",),
            registry=registry,
        )
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        self._seconds.start_at_zero(LIVE_MODELS, _KINDS)
        self._cost.start_at_zero(model for model in LIVE_MODELS if model != OTHER)
        # What the clients cause, alerts and dashboards leave out.
        self.start_failures.start_at_zero((*DIAL_FAILURES, *START_FAILURES))
        self.refused_events.start_at_zero(_REFUSED_EVENTS)
        self._final_usage.start_at_zero(_RESULTS)
        self._backend.start_at_zero((*RESPONSE_ENDS, _DECISION))
        self._tokens.start_at_zero(_TOKEN_KINDS)

    def count_charge(self, model: str, charge: Charge) -> None:
        """Count what an event adds to the usage of its session; `model` is one of `LIVE_MODELS`."""
        if charge.active_seconds or charge.paused_seconds:
            self.count_seconds(model, charge.active_seconds, charge.paused_seconds)
        if charge.backend is not None:
            self._count_backend(charge.backend)

    def count_seconds(self, model: str, active: float, paused: float) -> None:
        """Count billed seconds and their cost. Without a price of the model only the seconds count."""
        for kind, seconds in zip(_KINDS, (active, paused), strict=True):
            self._seconds.labels(model, kind).inc(seconds)
        cost = live_cost_usd(model, active, paused)
        if cost is not None:
            self._cost.labels(model).inc(cost)

    def _count_backend(self, ended: BackendResponse | Decision) -> None:
        self._backend.labels(ended.event if isinstance(ended, BackendResponse) else _DECISION).inc()
        usage = ended.usage
        if usage is None and isinstance(ended, BackendResponse) and ended.event == RESPONSE_FAILED:
            return  # it costs nothing
        self._unpriced.inc()
        if usage is None:
            return
        for kind, tokens in zip(_TOKEN_KINDS, (uncached(usage), usage.cached, usage.output), strict=True):
            self._tokens.labels(kind).inc(tokens.total)

    def count_end(self, meter: LiveMeter) -> None:
        """Count the end of a session that had started, or may have."""
        self._final_usage.labels(_RESULTS[not meter.is_confirmed]).inc()
        if meter.usage_ratio is not None:
            self._context_ratio.observe(meter.usage_ratio)
