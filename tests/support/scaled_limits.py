"""Limits of a session in fractions of a second, by a clock that a busy machine cannot run ahead of the peers."""

import asyncio

from service.relay import ticker
from service.relay.ending import Ending
from service.relay.session import Session
from service.relay.session_watch import SessionWatch
from service.relay.watchdog import SessionLimits


class StretchedClock:
    """An event loop's clock on which no stall takes longer than two ticks: what it delays, peers included, has its turn."""

    def __init__(self) -> None:
        self._longest_step = 2 * ticker.TICK_SECONDS
        self._loop = asyncio.get_running_loop()
        self._read_at = self._now = self._loop.time()

    def time(self) -> float:
        """Its seconds, never more than those of the event loop."""
        read_at = self._loop.time()
        self._now += min(read_at - self._read_at, self._longest_step)
        self._read_at = read_at
        return self._now


class _StretchedWatch(SessionWatch):
    """Judges by the clock of the legs."""

    __slots__ = ()

    def _time(self, now: float) -> float:
        return min(now, self._client._loop.time())

    def is_quiet(self, now: float) -> bool:
        return super().is_quiet(self._time(now))

    def note_activity(self, now: float, activity: int) -> None:
        super().note_activity(self._time(now), activity)

    def due_ending(self, now: float, frames: int, size: int, upstream_frames: int) -> Ending | None:
        return super().due_ending(self._time(now), frames, size, upstream_frames)

    def rest(self, now: float, *, is_waiting: bool) -> None:
        super().rest(self._time(now), is_waiting=is_waiting)

    def probe(self, now: float) -> float | None:
        return super().probe(self._time(now))

    def failed_probe(self, now: float) -> Ending | None:
        return super().failed_probe(self._time(now))

    def credit_stall(self, now: float, seconds: float) -> None:
        """The clock has credited it already."""


def scale_limits(session: Session, limits: SessionLimits) -> StretchedClock:
    """Give an open session limits that are short enough for a test; returns the clock by which they are judged."""
    watch, clock = session._watch, StretchedClock()
    for leg in (session._client, session._upstream):
        leg._loop = clock  # type: ignore[assignment]  # of which a leg needs the time alone
    watch._limits = limits
    watch.quiet_until = 0.0
    watch.__class__ = _StretchedWatch
    return clock
