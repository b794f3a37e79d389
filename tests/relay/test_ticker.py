"""The clock of all sessions: everybody is looked at, in turns, at the pace; nobody there, no timer."""

import asyncio
import time

import pytest

from service.relay import ticker
from service.relay.ticker import Ticker
from tests.support.harness import eventually

TICK = 0.05


class Looked:
    """A session that notes when it was looked at."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def tick(self) -> None:
        """Now."""
        self.at.append(asyncio.get_running_loop().time())


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the pace."""
    monkeypatch.setattr(ticker, "TICK_SECONDS", TICK)


async def until_looked(sessions: list[Looked], times: int) -> None:
    """Until each of them was looked at so often."""
    await eventually(lambda: min(len(session.at) for session in sessions) >= times, 5)


async def test_everybody_is_looked_at_once_a_tick() -> None:
    """Each session is looked at in each tick, whatever their number, and none more often than another."""
    watch, sessions = Ticker(), [Looked() for _ in range(35)]
    for session in sessions:
        watch.add(session)
    await until_looked(sessions, 4)
    for session in sessions:
        watch.remove(session)

    counts = [len(session.at) for session in sessions]
    assert max(counts) - min(counts) <= 1
    for session in sessions:
        assert all(later - earlier > TICK / 3 for earlier, later in zip(session.at, session.at[1:], strict=False))


async def test_they_are_looked_at_in_turns() -> None:
    """Many are not looked at all in the same instant: that would hold up the frames of all."""
    watch, sessions = Ticker(), [Looked() for _ in range(40)]
    for session in sessions:
        watch.add(session)
    await until_looked(sessions, 1)
    for session in sessions:
        watch.remove(session)

    moments = [session.at[0] for session in sessions]
    assert max(moments.count(moment) for moment in moments) <= 2 * 40 / ticker._GROUPS


async def test_it_stands_still_while_nobody_is_there() -> None:
    """A relay without sessions wakes up for none; the next session is looked at again."""
    watch, first, second = Ticker(), Looked(), Looked()
    watch.add(first)
    assert watch._timer is not None
    watch.remove(first)
    assert watch._timer is None
    watch.remove(first)  # twice does no harm
    watch.add(second)
    await until_looked([second], 1)
    watch.remove(second)

    assert [] == first.at


async def test_lateness_does_not_add_up() -> None:
    """A loop that is late each time still looks at the pace, and after a stall the clock does not catch up with a burst."""
    watch, session = Ticker(), Looked()
    watch.add(session)
    loop = asyncio.get_running_loop()
    began = loop.time()
    while loop.time() < began + 10 * TICK:
        await asyncio.sleep(TICK / 25)
        time.sleep(TICK / 25)  # noqa: ASYNC251 - a loop that is late is what is tested
    regular = len(session.at)
    watch._due -= 20 * TICK  # as if the loop had stood still for so long
    stalled_at = loop.time()
    await until_looked([session], regular + 1)
    watch.remove(session)

    assert 7 <= regular <= 11
    assert sum(at >= stalled_at for at in session.at) <= 2
