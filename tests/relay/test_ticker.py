"""The ticker: every session ticks at the interval, in groups; without sessions there is no timer."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from service.relay import ticker
from service.relay.ticker import Ticker
from tests.support.harness import eventually

TICK = 0.05


class RecordingSession:
    """Records the times of its ticks."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.stalls: list[tuple[float, int]] = []

    def tick(self) -> None:
        """Record the time."""
        self.at.append(asyncio.get_running_loop().time())

    def stalled(self, seconds: float) -> None:
        """Record the length of a stall, and the number of ticks before it."""
        self.stalls.append((seconds, len(self.at)))


@pytest.fixture(autouse=True)
def fast_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tick ten times as often."""
    monkeypatch.setattr(ticker, "TICK_SECONDS", TICK)


async def wait_for_ticks(sessions: list[RecordingSession], times: int) -> None:
    """Wait until each session has ticked this number of times."""
    await eventually(lambda: min(len(session.at) for session in sessions) >= times, 5)


async def test_every_session_ticks_once_per_interval() -> None:
    """Whatever their number."""
    session_ticker, sessions = Ticker(), [RecordingSession() for _ in range(35)]
    for session in sessions:
        session_ticker.add(session)
    await wait_for_ticks(sessions, 4)
    for session in sessions:
        session_ticker.remove(session)

    counts = [len(session.at) for session in sessions]
    assert max(counts) - min(counts) <= 1
    for session in sessions:
        assert all(later - earlier > TICK / 3 for earlier, later in zip(session.at, session.at[1:], strict=False))


async def test_sessions_tick_in_groups() -> None:
    """All in one iteration of the event loop would delay the frames of all."""
    session_ticker, sessions = Ticker(), [RecordingSession() for _ in range(40)]
    for session in sessions:
        session_ticker.add(session)
    await wait_for_ticks(sessions, 1)
    for session in sessions:
        session_ticker.remove(session)

    moments = [session.at[0] for session in sessions]
    assert max(moments.count(moment) for moment in moments) <= 2 * 40 / ticker._GROUPS


async def test_costly_ticks_are_spread_over_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions that have much to do at a tick do it in one turn of the event loop each; one that is removed does nothing."""
    now, turn, ticks = 0.0, 0, list[tuple[int, int]]()
    monkeypatch.setattr(ticker, "perf_counter", lambda: now)
    session_ticker = Ticker()

    class Costly(RecordingSession):
        def tick(self) -> None:
            nonlocal now
            now += ticker.TURN_SECONDS
            ticks.append((id(self), turn))
            session_ticker.remove(removed)
            super().tick()

    sessions: list[RecordingSession] = [Costly() for _ in range(40)]
    removed = RecordingSession()
    for session in (*sessions, removed):
        session_ticker.add(session)
    session_ticker._groups = [{*sessions, removed}, *session_ticker._groups[1:]]
    loop = asyncio.get_running_loop()

    def count() -> None:
        nonlocal turn
        turn += 1
        counting[0] = loop.call_soon(count)

    counting = [loop.call_soon(count)]
    await wait_for_ticks(sessions, 1)
    counting[0].cancel()
    for session in sessions:
        session_ticker.remove(session)

    assert len(ticks) == len({turn for _, turn in ticks})
    assert len(removed.at) <= 1


async def test_timer_stops_without_sessions_and_restarts() -> None:
    """An idle relay does not wake up."""
    session_ticker, first, second = Ticker(), RecordingSession(), RecordingSession()
    session_ticker.add(first)
    assert session_ticker._timer is not None
    session_ticker.remove(first)
    assert session_ticker._timer is None
    session_ticker.remove(first)  # without effect
    session_ticker.add(second)
    await wait_for_ticks([second], 1)
    session_ticker.remove(second)

    assert [] == first.at


def test_ticks_do_not_drift_and_skip_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event loop that is late each time keeps the interval; after a stall there is no burst of ticks."""
    now, timers = 0.0, list[tuple[float, Callable[[], None]]]()
    loop = SimpleNamespace(time=lambda: now, call_at=lambda at, callback: timers.append((at, callback)))
    monkeypatch.setattr(ticker, "asyncio", SimpleNamespace(get_running_loop=lambda: loop))

    class Session(RecordingSession):
        def tick(self) -> None:
            self.at.append(now)

    def run_until(end: float, *, late: float) -> None:
        nonlocal now
        while now < end:
            at, callback = timers.pop()
            now = max(now, at) + late
            callback()

    session_ticker, session = Ticker(), Session()
    session_ticker.add(session)
    run_until(10 * TICK, late=TICK / 25)
    regular = len(session.at)
    now += 20 * TICK  # the loop has stalled for that time
    run_until(now + TICK, late=0.0)

    assert 9 <= regular <= 10
    assert 1 <= len(session.at) - regular <= 2


async def test_stall_is_reported_to_every_session_before_its_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tick that is a little late reports none."""
    session_ticker, sessions = Ticker(), [RecordingSession() for _ in range(25)]
    for session in sessions:
        session_ticker.add(session)
    await wait_for_ticks(sessions, 1)
    monkeypatch.setattr(ticker, "STALL_SECONDS", 10 * TICK)
    before = [len(session.at) for session in sessions]
    session_ticker._due -= 30 * TICK
    await eventually(lambda: all(session.stalls for session in sessions), 5)
    for session in sessions:
        session_ticker.remove(session)

    assert all(len(session.stalls) == 1 and session.stalls[0][0] >= 29 * TICK for session in sessions)
    assert before == [session.stalls[0][1] for session in sessions]
