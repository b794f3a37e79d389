"""service/realtime/usage.py."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.usage import (
    Tokens,
    Usage,
    UsageInconsistent,
    assistant_audio_tokens,
    parse_usage,
    user_audio_tokens,
)

# On the wire in 2026-07: a spoken answer of 6.8 seconds.
WIRE_USAGE: dict[str, Any] = {
    "total_tokens": 205,
    "input_tokens": 41,
    "output_tokens": 164,
    "input_token_details": {
        "text_tokens": 14,
        "audio_tokens": 27,
        "image_tokens": 0,
        "cached_tokens": 0,
        "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0},
    },
    "output_token_details": {"text_tokens": 28, "audio_tokens": 136},
}

_counts = st.integers(0, 10**9)
_tokens = st.builds(Tokens, _counts, _counts, _counts)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """Any consistent usage."""
    read = draw(_tokens)
    cached = Tokens(*(draw(st.integers(0, maximum)) for maximum in (read.text, read.audio, read.image)))
    text = draw(_counts)
    reasoning = draw(st.none() | st.integers(0, text))
    return Usage(read, Tokens(text, draw(_counts)), cached, reasoning)


@pytest.mark.parametrize(("milliseconds", "tokens"), [(0, 0), (99, 0), (100, 1), (1_630, 16), (2_800, 28)])
def test_user_audio_is_ten_tokens_per_second(milliseconds: int, tokens: int) -> None:
    """One token for each whole 100 ms."""
    assert user_audio_tokens(milliseconds) == tokens


@pytest.mark.parametrize(("milliseconds", "tokens"), [(0, 0), (49, 0), (50, 1), (6_800, 136)])
def test_assistant_audio_is_twenty_tokens_per_second(milliseconds: int, tokens: int) -> None:
    """One token for each whole 50 ms."""
    assert assistant_audio_tokens(milliseconds) == tokens


def test_usage_of_the_wire_is_written_unchanged() -> None:
    """A usage object is parsed and written back with its keys in the same order."""
    written = parse_usage(WIRE_USAGE).as_counts()
    assert written == WIRE_USAGE
    assert list(written) == list(WIRE_USAGE)
    assert list(written["input_token_details"]) == list(WIRE_USAGE["input_token_details"])  # type: ignore[arg-type] # an object


@given(usages())
def test_usage_round_trip(usage: Usage) -> None:
    """Writing and parsing gives the same usage."""
    assert parse_usage(usage.as_counts()) == usage


@given(usages(), usages())
def test_sum_of_usages_is_consistent(one: Usage, other: Usage) -> None:
    """The total of a sum is the sum of the totals."""
    both = one + other
    assert both.total == one.total + other.total == both.input.total + both.output.total
    assert parse_usage(both.as_counts()) == both


def test_absent_usage_is_zero() -> None:
    """A failed response has an empty usage object."""
    assert parse_usage({}) == Usage()
    assert parse_usage(Usage().as_counts()).total == 0


def test_reasoning_tokens_are_part_of_the_text() -> None:
    """52 of 57 text tokens are reasoning; the total counts them once."""
    usage = Usage(output=Tokens(text=57), reasoning=52)
    assert usage.total == 57
    assert usage.as_counts()["output_token_details"] == {"text_tokens": 57, "audio_tokens": 0, "reasoning_tokens": 52}


@pytest.mark.parametrize("name", ["total_tokens", "input_tokens", "output_tokens"])
@pytest.mark.parametrize("wrong", [1, -1, "205", 205.0, True, None])
def test_inconsistent_total_raises(name: str, wrong: object) -> None:
    """A total that is not the sum of its parts, or not a count."""
    with pytest.raises(UsageInconsistent):
        parse_usage({**WIRE_USAGE, name: wrong})


def test_inconsistent_cached_total_raises() -> None:
    """The total of cached tokens is the sum of its details."""
    wrong = copy.deepcopy(WIRE_USAGE)
    wrong["input_token_details"]["cached_tokens"] = 8
    with pytest.raises(UsageInconsistent, match="cached_tokens"):
        parse_usage(wrong)


def test_details_that_are_not_an_object_raise() -> None:
    """A list in place of an object of counts."""
    with pytest.raises(UsageInconsistent, match="not an object"):
        parse_usage({**WIRE_USAGE, "input_token_details": [1]})


@pytest.mark.parametrize(
    "impossible",
    [
        lambda: Tokens(text=-1),
        lambda: Usage(Tokens(text=1), cached=Tokens(text=2)),
        lambda: Usage(output=Tokens(image=1)),
        lambda: Usage(output=Tokens(text=1), reasoning=2),
    ],
)
def test_impossible_usage_raises(impossible: Callable[[], object]) -> None:
    """Negative counts, more cached tokens than input, image output and more reasoning tokens than text."""
    with pytest.raises(UsageInconsistent):
        impossible()
