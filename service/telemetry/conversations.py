"""Metrics of conversations: latency of answers, results of responses, tokens and cost.

They change a few times per turn, so they are plain Prometheus metrics (compare `traffic.py`).
"""

import math
from typing import Final

from prometheus_client import CollectorRegistry

from service.realtime.incidents import OTHER, RATE_LIMIT_NAMES
from service.realtime.pricing import MODELS, cost_usd, uncached
from service.realtime.server_events import INTERRUPTION_REASONS, RESPONSE_STATUSES, ResponseResult
from service.realtime.usage import Tokens
from service.telemetry.series import Counter, Gauge, Histogram

# An answer within 0.5 s feels like conversation, one after 2 s like a bad connection; tool calls can take tens of seconds.
_ANSWER_BUCKETS: Final = (0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_MODALITIES: Final = ("text", "audio", "image")
_KINDS: Final = ("input", "cached_input", "output")
_OUTPUT_MODALITIES: Final = ("text", "audio")  # a response contains no images

_REFUSED_EVENTS: Final = ("instructions_locked", "field_locked", "bad_request")


class ConversationMetrics:
    """The metrics of conversations, on the registry of the relay."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self.speech_to_audio = Histogram(
            f"{prefix}_speech_to_audio_seconds",
            "Time from the end of the user's speech (seen by the provider or committed by the client) to the first audio.",
            buckets=_ANSWER_BUCKETS,
            registry=registry,
        )
        self.first_delta = Histogram(
            f"{prefix}_response_first_delta_seconds",
            "Time from the client's response.create to the first delta of the response.",
            buckets=_ANSWER_BUCKETS,
            registry=registry,
        )
        self._responses = Counter(
            f"{prefix}_responses_total", "Ended responses by status.", ("status",), registry=registry
        )
        self._interruptions = Counter(
            f"{prefix}_interruptions_total",
            "Cancelled responses by reason: the user spoke (turn_detected) or the client cancelled (client_cancelled).",
            ("reason",),
            registry=registry,
        )
        self._tokens = Counter(
            f"{prefix}_tokens_total",
            "Tokens of responses. The kind input excludes cached tokens, so the sum over all kinds is the total usage.",
            ("model", "kind", "modality"),
            registry=registry,
        )
        self.cost = Counter(
            f"{prefix}_estimated_cost_usd_total",
            "Estimated cost of responses, and of seconds of GPT-Live, at the provider's public prices, without transcription "
            "of the input and without backend models.",
            ("model",),
            registry=registry,
        )
        self.unpriced = Counter(
            f"{prefix}_unpriced_responses_total",
            "Responses without a cost estimate: the price of the model is unknown, as that of each backend model of "
            "GPT-Live, or the usage is missing or invalid.",
            registry=registry,
        )
        self._remaining_ratios = Gauge(
            f"{prefix}_rate_limit_remaining_ratio",
            "Remaining share of a rate limit in the provider's last report; NaN before the first report.",
            ("limit",),
            registry=registry,
        )
        self.refused_events = Counter(
            f"{prefix}_policy_events_refused_total",
            "Realtime: events of clients with a locked policy that the relay did not forward, by reason.",
            ("reason",),
            registry=registry,
        )
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        self.refused_events.start_at_zero(_REFUSED_EVENTS)
        self._responses.start_at_zero(RESPONSE_STATUSES)
        self._interruptions.start_at_zero(INTERRUPTION_REASONS)
        for limit in (*RATE_LIMIT_NAMES, OTHER):
            self._remaining_ratios.labels(limit).set(math.nan)
        for kind in _KINDS:
            self._tokens.start_at_zero(MODELS, (kind,), _OUTPUT_MODALITIES if kind == "output" else _MODALITIES)
        self.cost.start_at_zero(model for model in MODELS if model != OTHER)

    def count_response(self, model: str, result: ResponseResult) -> float | None:
        """Count an ended response with its tokens and cost; `model` is one of `MODELS`.

        Returns the cost in USD; None if it is unknown.
        """
        self._responses.labels(result.status).inc()
        if result.interruption is not None:
            self._interruptions.labels(result.interruption).inc()
        usage = result.usage
        if usage is None:
            if result.status == "failed":
                return 0.0  # it costs nothing
            self.unpriced.inc()
            return None
        for kind, tokens in zip(_KINDS, (uncached(usage), usage.cached, usage.output), strict=True):
            self._count(model, kind, tokens)
        cost = cost_usd(model, usage)
        if cost is None:
            self.unpriced.inc()
        else:
            self.cost.labels(model).inc(cost)
        return cost

    def _count(self, model: str, kind: str, tokens: Tokens) -> None:
        for modality in _MODALITIES:
            count = getattr(tokens, modality)
            if count:
                self._tokens.labels(model, kind, modality).inc(count)

    def set_remaining_ratio(self, limit: str, ratio: float) -> None:
        """Set the remaining share of a rate limit, from 0 to 1."""
        self._remaining_ratios.labels(limit).set(ratio)
