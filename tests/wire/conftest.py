"""A scheduler of turns that a test drives."""

from collections.abc import Callable

import pytest

from service.wire import turns
from tests.support.turns import FakeClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Replace the clock of the scheduler."""
    fake = FakeClock()
    monkeypatch.setattr(turns, "time", fake)
    return fake


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Collect what is scheduled for the next turn of the loop, instead of running it."""
    return []
