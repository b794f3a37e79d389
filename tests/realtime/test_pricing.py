"""service/realtime/pricing.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.pricing import (
    LIVE_PRICES,
    MODELS,
    OTHER,
    PRICES,
    cost_usd,
    live_cost_usd,
    live_model_label,
    model_label,
    uncached,
)
from service.realtime.usage import Tokens, Usage
from service.simulator.options import CURRENT_MODELS, TRANSLATION_MODEL


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-realtime", "gpt-realtime"),
        ("gpt-realtime-2025-08-28", "gpt-realtime"),
        ("gpt-realtime-mini-2025-12-15", "gpt-realtime-mini"),
        ("gpt-realtime-2.1-mini", "gpt-realtime-2.1-mini"),
        ("gpt-realtime-2", "gpt-realtime-2"),
        ("gpt-realtime-translate", OTHER),
        ("gpt-realtime-2025", OTHER),
        ("my-deployment", OTHER),
        ("", OTHER),
        (None, OTHER),
    ],
)
def test_model_label_of_a_name(name: str | None, expected: str) -> None:
    """A dated name counts as its family; any name without a known price is `other`."""
    assert expected == model_label(name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-live-1", "gpt-live-1"),
        ("gpt-live-1.1", "gpt-live-1.1"),
        ("gpt-live-1.1-2026-11-20", "gpt-live-1.1"),
        ("gpt-live-2", OTHER),
        ("gpt-realtime", OTHER),
        ("", OTHER),
        (None, OTHER),
    ],
)
def test_live_model_label_of_a_name(name: str | None, expected: str) -> None:
    """A dated name counts as its family; any name without a known price is `other`."""
    assert expected == live_model_label(name)


def test_cost_of_live_seconds() -> None:
    """An hour of speech and silence is $3, an hour of standby $1.20. An unknown model has no price."""
    for model in LIVE_PRICES:
        assert live_cost_usd(model, 3600, 0) == pytest.approx(3)
        assert live_cost_usd(model, 0, 3600) == pytest.approx(1.2)
    assert live_cost_usd(OTHER, 3600, 0) is None


def test_every_current_model_has_a_price() -> None:
    """Translation has no price: it is billed by the minute, which no event reports."""
    assert {OTHER} == {model_label(name) for name in CURRENT_MODELS} - set(PRICES)
    assert OTHER == model_label(TRANSLATION_MODEL)


def test_cost_of_a_spoken_turn() -> None:
    """Calculated by hand for gpt-realtime: input 119 text, 200 cached text, 27 audio; output 28 text, 136 audio."""
    usage = Usage(Tokens(319, 27), Tokens(28, 136), Tokens(200))
    expected = (119 * 4 + 200 * 0.4 + 28 * 16 + 27 * 32 + 136 * 64) / 1e6

    assert expected == pytest.approx(cost_usd("gpt-realtime", usage) or 0)
    assert cost_usd(OTHER, usage) is None


def test_cached_tokens_have_their_own_price() -> None:
    """USD per million cached tokens on the pricing page: text and audio 0.40, images 0.50."""
    for cached, dollars in ((Tokens(1_000_000), 0.4), (Tokens(0, 1_000_000), 0.4), (Tokens(0, 0, 1_000_000), 0.5)):
        assert dollars == cost_usd("gpt-realtime", Usage(cached, cached=cached))


tokens = st.builds(Tokens, *[st.integers(0, 100_000)] * 3)


@given(st.sampled_from(MODELS), tokens, tokens, st.floats(0, 1))
def test_caching_never_costs_more(model: str, whole: Tokens, output: Tokens, share: float) -> None:
    """Cached input is never more expensive, and fresh and cached input add up to the input."""
    cached = Tokens(int(whole.text * share), int(whole.audio * share), int(whole.image * share))
    spoken = Tokens(output.text, output.audio)
    with_cache, without = Usage(whole, spoken, cached), Usage(whole, spoken)

    assert whole == uncached(with_cache) + cached
    if model != OTHER:
        assert 0 <= (cost_usd(model, with_cache) or 0) <= (cost_usd(model, without) or 0)
