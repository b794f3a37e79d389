"""Token usage of a response, by modality. Arithmetic only; `pricing.py` knows what tokens cost.

Source: the provider's guide "Managing Realtime costs" and usage objects on the wire in 2026-09. The rules:
total = input + output; input = text + audio + image; output = text + audio; cached tokens are part of the input;
reasoning tokens are part of the output's text.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

USER_AUDIO_MS_PER_TOKEN = 100
ASSISTANT_AUDIO_MS_PER_TOKEN = 50

Counts: TypeAlias = "dict[str, int | Counts]"


def user_audio_tokens(milliseconds: float) -> int:
    """Return the tokens of user audio: one for each whole 100 ms (1.63 s was 16 on the wire)."""
    return int(milliseconds // USER_AUDIO_MS_PER_TOKEN)


def assistant_audio_tokens(milliseconds: float) -> int:
    """Return the tokens of assistant audio: one for each whole 50 ms (6.8 s was 136 on the wire)."""
    return int(milliseconds // ASSISTANT_AUDIO_MS_PER_TOKEN)


class UsageInconsistent(ValueError):
    """A usage object whose values are not counts or do not add up."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token counts by modality. Raises UsageInconsistent if one is negative."""

    text: int = 0
    audio: int = 0
    image: int = 0

    def __post_init__(self) -> None:
        if min(self.text, self.audio, self.image) < 0:
            raise UsageInconsistent(f"a count is negative: {self}")

    @property
    def total(self) -> int:
        """The sum over all modalities."""
        return self.text + self.audio + self.image

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.text + other.text, self.audio + other.audio, self.image + other.image)

    def within(self, other: "Tokens") -> bool:
        """Whether no modality exceeds that of `other`."""
        return self.text <= other.text and self.audio <= other.audio and self.image <= other.image


@dataclass(frozen=True, slots=True)
class Usage:
    """The usage of one response. Raises UsageInconsistent if the counts contradict each other."""

    input: Tokens = Tokens()
    output: Tokens = Tokens()
    cached: Tokens = Tokens()  # part of `input`
    reasoning: int | None = None  # part of `output.text`; None for models that do not reason

    def __post_init__(self) -> None:
        if not self.cached.within(self.input):
            raise UsageInconsistent(f"cached tokens exceed the input: {self.cached} of {self.input}")
        if self.output.image:
            raise UsageInconsistent("image tokens in the output")
        if self.reasoning is not None and not 0 <= self.reasoning <= self.output.text:
            raise UsageInconsistent(f"{self.reasoning} reasoning tokens in {self.output.text} of text")

    @property
    def total(self) -> int:
        """The sum of input and output."""
        return self.input.total + self.output.total

    def __add__(self, other: "Usage") -> "Usage":
        reasoning = (self.reasoning, other.reasoning)
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cached + other.cached,
            None if reasoning == (None, None) else sum(count or 0 for count in reasoning),
        )

    def as_counts(self) -> Counts:
        """Return the usage object of ``response.done``, its keys in the order of the wire."""
        output: Counts = {"text_tokens": self.output.text, "audio_tokens": self.output.audio}
        if self.reasoning is not None:
            output["reasoning_tokens"] = self.reasoning
        return {
            "total_tokens": self.total,
            "input_tokens": self.input.total,
            "output_tokens": self.output.total,
            "input_token_details": {
                **_by_modality(self.input),
                "cached_tokens": self.cached.total,
                "cached_tokens_details": _by_modality(self.cached),
            },
            "output_token_details": output,
        }


def parse_usage(counts: Mapping[str, object]) -> Usage:
    """Parse the usage object of ``response.done``; absent details count as zero.

    Raises UsageInconsistent if a value is not a count, or if totals and details disagree.
    """
    input_details = _details(counts, "input_token_details")
    output_details = _details(counts, "output_token_details")
    reasoning = _count(output_details, "reasoning_tokens") if "reasoning_tokens" in output_details else None
    cached = _tokens(_details(input_details, "cached_tokens_details"))
    usage = Usage(_tokens(input_details), _tokens(output_details), cached, reasoning)
    stated = (
        (counts, "total_tokens"),
        (counts, "input_tokens"),
        (counts, "output_tokens"),
        (input_details, "cached_tokens"),
    )
    summed = usage.total, usage.input.total, usage.output.total, usage.cached.total
    for (container, name), expected in zip(stated, summed, strict=True):
        if _count(container, name) != expected:
            raise UsageInconsistent(f"{name} is {container.get(name)!r}, its parts add up to {expected}")
    return usage


def _by_modality(tokens: Tokens) -> Counts:
    return {"text_tokens": tokens.text, "audio_tokens": tokens.audio, "image_tokens": tokens.image}


def _details(counts: Mapping[str, object], name: str) -> Mapping[str, object]:
    details = counts.get(name)
    if details is None:
        return {}
    if not isinstance(details, Mapping):
        raise UsageInconsistent(f"{name} is not an object: {details!r}")
    return details


def _tokens(details: Mapping[str, object]) -> Tokens:
    return Tokens(_count(details, "text_tokens"), _count(details, "audio_tokens"), _count(details, "image_tokens"))


def _count(counts: Mapping[str, object], name: str) -> int:
    value = counts.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageInconsistent(f"{name} is not a count: {value!r}")
    return value
