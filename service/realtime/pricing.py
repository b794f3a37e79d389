"""What tokens cost, for an estimate that an operator can watch. Pure.

Source: the provider's pricing page as of November 2026, in USD for a million tokens. It changes without notice and knows
nothing of an account's discounts, which is why the metric is called an estimate. What transcription of the input costs is not
in it: the events do not say which model does it.
"""

import re
from dataclasses import dataclass
from typing import Final

from service.realtime.usage import Tokens, Usage

OTHER: Final = "other"
_MILLION: Final = 1_000_000
_DATED: Final = re.compile(r"-20\d\d-\d\d-\d\d$")


@dataclass(frozen=True, slots=True)
class Price:
    """USD for a million tokens, by modality: what goes in, what goes in and was cached, what comes out."""

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
MODELS: Final = (*PRICES, OTHER)
"""The models by which tokens are counted: a closed set, since a model's name comes from outside."""


def model_label(name: str | None) -> str:
    """The model of `MODELS` that a name stands for, dated names by their family; `other` for what has no known price."""
    family = _DATED.sub("", name or "")
    return family if family in PRICES else OTHER


def cost_usd(model: str, usage: Usage) -> float | None:
    """What a response cost, None if the model's price is not known. `model` is one of `MODELS`."""
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
    """The input that was not cached."""
    whole, cached = usage.input, usage.cached
    return Tokens(whole.text - cached.text, whole.audio - cached.audio, whole.image - cached.image)
