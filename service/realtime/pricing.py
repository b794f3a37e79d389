"""Estimates the cost of responses from token counts, and of GPT-Live from seconds. Pure.

Source: the provider's pricing pages of November 2026, in USD per million tokens and per minute. They change without notice
and list no discounts, so the metric is an estimate. Not included are the transcription of the input, since no event names the
model that does it, and the backend models and tools of GPT-Live, whose prices are not in the table.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from service.realtime.server_events import TranscriptionUsage
from service.realtime.usage import Tokens, Usage

OTHER: Final = "other"
_MILLION: Final = 1_000_000
_DATED: Final = re.compile(r"-20\d\d-\d\d-\d\d$")


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens by modality: input, cached input, output."""

    text: tuple[float, float, float]
    audio: tuple[float, float, float]
    image: tuple[float, float]


_LARGE_2: Final = Price((4.00, 0.40, 24.00), (32.00, 0.40, 64.00), (5.00, 0.50))
_LARGE_1: Final = Price((4.00, 0.40, 16.00), (32.00, 0.40, 64.00), (5.00, 0.50))
_MINI: Final = Price((0.60, 0.06, 2.40), (10.00, 0.30, 20.00), (0.80, 0.08))

PRICES: Final = {
    "gpt-realtime-2.1": _LARGE_2,
    "gpt-realtime-2": _LARGE_2,
    "gpt-realtime-1.5": _LARGE_1,
    "gpt-realtime": _LARGE_1,
    "gpt-realtime-2.1-mini": _MINI,
    "gpt-realtime-mini": _MINI,
}
LIVE_PRICES: Final = {"gpt-live-1": (0.05, 0.02), "gpt-live-1.1": (0.05, 0.02)}
"""USD per minute of a session: active (speech and silence), paused. Launch prices of 2026-09-10 and 2026-11-20; the page of
2026-11 lists the same. Only gpt-live-1.1 pauses, and only over WebRTC."""
_TRANSCRIPTION_TOKENS: Final = (2.50, 10.00)  # gpt-4o-transcribe: input, output, per million
_TRANSCRIPTION_MINUTE: Final = 0.017  # gpt-realtime-whisper
_TRANSLATION_MINUTE: Final = {"gpt-realtime-translate": 0.034}
LIVE_MODELS: Final = (*LIVE_PRICES, OTHER)
"""Values of the `model` label for GPT-Live."""
_MINUTE: Final = 60

MODELS: Final = (*PRICES, OTHER)
"""Values of the `model` label: a closed set, because clients choose model names."""


def model_label(name: str | None) -> str:
    """Return the value of `MODELS` for a model name: a dated name counts as its family, a name without a price as `other`."""
    return _family(name, PRICES)


def live_model_label(name: str | None) -> str:
    """Return the value of `LIVE_MODELS` for the model name of a session of GPT-Live."""
    return _family(name, LIVE_PRICES)


def live_cost_usd(model: str, active_seconds: float, paused_seconds: float) -> float | None:
    """Return the cost of seconds in USD, or None if the price is unknown. `model` is one of `LIVE_MODELS`."""
    if model not in LIVE_PRICES:
        return None
    active, paused = LIVE_PRICES[model]
    return (active_seconds * active + paused_seconds * paused) / _MINUTE


def transcription_cost_usd(usage: TranscriptionUsage) -> float:
    """Return the cost of the transcription of an item in USD, at the most that a model costs, since no event names it."""
    input_price, output_price = _TRANSCRIPTION_TOKENS
    tokens = (usage.input_tokens * input_price + usage.output_tokens * output_price) / _MILLION
    return tokens + usage.seconds * _TRANSCRIPTION_MINUTE / _MINUTE


def translation_usd_per_second(model: str | None) -> float | None:
    """Return what a translation session costs, silence included; None if the price is unknown."""
    price = _TRANSLATION_MINUTE.get(_DATED.sub("", model or ""))
    return None if price is None else price / _MINUTE


def _family(name: str | None, prices: Mapping[str, object]) -> str:
    family = _DATED.sub("", name or "")
    return family if family in prices else OTHER


def cost_usd(model: str, usage: Usage) -> float | None:
    """Return the cost of a response in USD, or None if the price is unknown. `model` is one of `MODELS`."""
    price = PRICES.get(model)
    if price is None:
        return None
    fresh = uncached(usage)
    millionths = (
        fresh.text * price.text[0]
        + usage.cached.text * price.text[1]
        + usage.output.text * price.text[2]
        + fresh.audio * price.audio[0]
        + usage.cached.audio * price.audio[1]
        + usage.output.audio * price.audio[2]
        + fresh.image * price.image[0]
        + usage.cached.image * price.image[1]
    )
    return millionths / _MILLION


def uncached(usage: Usage) -> Tokens:
    """Return the input tokens that were not cached."""
    whole, cached = usage.input, usage.cached
    return Tokens(whole.text - cached.text, whole.audio - cached.audio, whole.image - cached.image)
