"""Usage: tokens of audio, sums of modalities, and what cannot be."""

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

# As seen on the wire 2026-07: a spoken answer of 6.8 seconds.
SEEN: dict[str, Any] = {
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
    """Any usage that can be."""
    read = draw(_tokens)
    cached = Tokens(*(draw(st.integers(0, most)) for most in (read.text, read.audio, read.image)))
    text = draw(_counts)
    reasoning = draw(st.none() | st.integers(0, text))
    return Usage(read, Tokens(text, draw(_counts)), cached, reasoning)


@pytest.mark.parametrize(("milliseconds", "tokens"), [(0, 0), (99, 0), (100, 1), (1_630, 16), (2_800, 28)])
def test_a_user_speaks_ten_tokens_a_second(milliseconds: int, tokens: int) -> None:
    """Each whole 100 ms is a token."""
    assert user_audio_tokens(milliseconds) == tokens


@pytest.mark.parametrize(("milliseconds", "tokens"), [(0, 0), (49, 0), (50, 1), (6_800, 136)])
def test_the_assistant_speaks_twenty_tokens_a_second(milliseconds: int, tokens: int) -> None:
    """Each whole 50 ms is a token."""
    assert assistant_audio_tokens(milliseconds) == tokens


def test_what_was_seen_is_written_the_same() -> None:
    """A usage of the wire is read and written back, its keys in the same order."""
    written = parse_usage(SEEN).as_counts()
    assert written == SEEN
    assert list(written) == list(SEEN)
    assert list(written["input_token_details"]) == list(SEEN["input_token_details"])  # type: ignore[arg-type] # an object


@given(usages())
def test_any_usage_survives_the_wire(usage: Usage) -> None:
    """Writing and reading gives the same usage."""
    assert parse_usage(usage.as_counts()) == usage


@given(usages(), usages())
def test_usages_add_up(one: Usage, other: Usage) -> None:
    """The sum of two is consistent, and totals what they total together."""
    both = one + other
    assert both.total == one.total + other.total == both.input.total + both.output.total
    assert parse_usage(both.as_counts()) == both


def test_nothing_used_is_zero() -> None:
    """No usage at all is read as zero, as a failed response has it."""
    assert parse_usage({}) == Usage()
    assert parse_usage(Usage().as_counts()).total == 0


def test_reasoning_is_part_of_the_text() -> None:
    """Of 57 tokens written, 52 were thoughts; the total counts them once."""
    usage = Usage(output=Tokens(text=57), reasoning=52)
    assert usage.total == 57
    assert usage.as_counts()["output_token_details"] == {"text_tokens": 57, "audio_tokens": 0, "reasoning_tokens": 52}


@pytest.mark.parametrize("name", ["total_tokens", "input_tokens", "output_tokens"])
@pytest.mark.parametrize("wrong", [1, -1, "205", 205.0, True, None])
def test_a_total_that_does_not_add_up_is_refused(name: str, wrong: object) -> None:
    """A total that is not the sum of its parts, or no number, is inconsistent."""
    with pytest.raises(UsageInconsistent):
        parse_usage({**SEEN, name: wrong})


def test_a_cache_that_does_not_add_up_is_refused() -> None:
    """The cached total is the sum of its details."""
    wrong = copy.deepcopy(SEEN)
    wrong["input_token_details"]["cached_tokens"] = 8
    with pytest.raises(UsageInconsistent, match="cached_tokens"):
        parse_usage(wrong)


def test_details_that_are_no_object_are_refused() -> None:
    """Anything but an object of counts is inconsistent."""
    with pytest.raises(UsageInconsistent, match="not an object"):
        parse_usage({**SEEN, "input_token_details": [1]})


@pytest.mark.parametrize(
    "impossible",
    [
        lambda: Tokens(text=-1),
        lambda: Usage(Tokens(text=1), cached=Tokens(text=2)),
        lambda: Usage(output=Tokens(image=1)),
        lambda: Usage(output=Tokens(text=1), reasoning=2),
    ],
)
def test_an_impossible_usage_cannot_be_made(impossible: Callable[[], object]) -> None:
    """Negative counts, more cached than read, drawn images and thoughts beyond the text are refused."""
    with pytest.raises(UsageInconsistent):
        impossible()
