"""What a relay alone can see of the conversations: how soon is answered, how answers end, what they take.

Rare beside the messages: a few for each turn, so that these are Prometheus' own instruments (compare `traffic.py`).
"""

import math
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from service.realtime.incidents import OTHER, RATE_LIMIT_NAMES
from service.realtime.pricing import MODELS, cost_usd, uncached
from service.realtime.server_events import INTERRUPTION_REASONS, RESPONSE_STATUSES, ResponseResult
from service.realtime.usage import Tokens

# An answer that begins within half a second feels like talk, one that takes two like a bad line; a tool call may take tens.
_ANSWER_BUCKETS: Final = (0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30)
_MODALITIES: Final = ("text", "audio", "image")
_KINDS: Final = ("input", "cached_input", "output")
_SPOKEN: Final = ("text", "audio")  # a response holds no images


class ConversationMetrics:
    """The instruments, on the relay's registry."""

    def __init__(self, prefix: str, registry: CollectorRegistry) -> None:
        self.speech_to_audio = Histogram(
            f"{prefix}_speech_to_audio_seconds",
            "From the end of the user's speech, as the provider tells it or the client commits it, to the first audio.",
            buckets=_ANSWER_BUCKETS,
            registry=registry,
        )
        self.first_delta = Histogram(
            f"{prefix}_response_first_delta_seconds",
            "From the client's response.create to the first delta of the response.",
            buckets=_ANSWER_BUCKETS,
            registry=registry,
        )
        self._responses = Counter(
            f"{prefix}_responses_total", "Responses that ended, by status.", ("status",), registry=registry
        )
        self._interruptions = Counter(
            f"{prefix}_interruptions_total",
            "Responses that were cancelled: the user spoke (turn_detected), or the client asked for it.",
            ("reason",),
            registry=registry,
        )
        self._tokens = Counter(
            f"{prefix}_tokens_total",
            "Tokens of responses; input is what was not cached, so that the sum over all kinds is what was used.",
            ("model", "kind", "modality"),
            registry=registry,
        )
        self._cost = Counter(
            f"{prefix}_estimated_cost_usd_total",
            "What responses cost by the provider's public prices, without the transcription of the input.",
            ("model",),
            registry=registry,
        )
        self._unpriced = Counter(
            f"{prefix}_unpriced_responses_total",
            "Responses without an estimate: the model's price is not known, or the usage cannot be read.",
            registry=registry,
        )
        self._remaining_ratios = Gauge(
            f"{prefix}_rate_limit_remaining_ratio",
            "The share of a rate limit that was left when the provider last told; NaN until it has.",
            ("limit",),
            registry=registry,
        )
        self._start_at_zero()

    def _start_at_zero(self) -> None:
        for status in RESPONSE_STATUSES:
            self._responses.labels(status)
        for reason in INTERRUPTION_REASONS:
            self._interruptions.labels(reason)
        for limit in (*RATE_LIMIT_NAMES, OTHER):
            self._remaining_ratios.labels(limit).set(math.nan)
        for model in MODELS:
            for kind in _KINDS:
                for modality in _SPOKEN if kind == "output" else _MODALITIES:
                    self._tokens.labels(model, kind, modality)
            if model != OTHER:
                self._cost.labels(model)

    def count_response(self, model: str, end: ResponseResult) -> None:
        """A response has ended; `model` is one of `MODELS`."""
        self._responses.labels(end.status).inc()
        if end.interruption is not None:
            self._interruptions.labels(end.interruption).inc()
        usage = end.usage
        if usage is None:
            if end.status != "failed":  # which cost nothing
                self._unpriced.inc()
            return
        for kind, tokens in zip(_KINDS, (uncached(usage), usage.cached, usage.output), strict=True):
            self._count(model, kind, tokens)
        cost = cost_usd(model, usage)
        if cost is None:
            self._unpriced.inc()
        else:
            self._cost.labels(model).inc(cost)

    def _count(self, model: str, kind: str, tokens: Tokens) -> None:
        for modality in _MODALITIES:
            count = getattr(tokens, modality)
            if count:
                self._tokens.labels(model, kind, modality).inc(count)

    def set_remaining_ratio(self, limit: str, left: float) -> None:
        """The provider told what share of a limit is left, 0 to 1."""
        self._remaining_ratios.labels(limit).set(left)
