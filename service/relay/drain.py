"""The drain: a relay that stops refuses new clients, lets open sessions finish, then closes the rest.

The stages, and what each waits for:

1. `is_draining` is set, so that admission and readiness refuse. Clients that asked for it get an event that announces the
   drain. Sessions and dials may finish until the deadline, or until `DrainSignals.close_now`.
2. Dials in flight end with `relay_draining`, and so does a session that one of them still starts. The remaining sessions end
   at random times within the spread; `close_now` ends all of them immediately.
3. The closing handshakes have their own deadlines. After `close_now` they have `FAST_CLOSE_SECONDS`, after `abort_now` none;
   then the remaining sessions are aborted.
"""

import asyncio
import random
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Final

import structlog

from service.failures import Level
from service.relay.live_call import SETTLE_SECONDS
from service.relay.registry import SessionRegistry
from service.relay.session import Session
from service.upstream.dials import DialsInFlight

CLOSES_PER_SECOND: Final = 50
"""Sessions are closed no faster than this where the spread allows: their clients reconnect immediately, and to relays that
are still warming up."""
END_SECONDS: Final = 30.0
"""Longer than any closing handshake: 15 seconds for the last event of a GPT-Live session."""
FAST_CLOSE_SECONDS: Final = 1.0
"""Upper bound on closing handshakes after a second signal."""
_ABORTED: Final = {
    "message": "Sessions were aborted before their clients received a close frame.",
    "remedy": "No action is needed for clients that do not read. Otherwise do not shorten the drain with further signals.",
}


@dataclass(frozen=True, slots=True)
class DrainTiming:
    """How long sessions may go on, and over how long the remaining ones are then closed."""

    drain_seconds: float
    close_spread_seconds: float

    def spread_seconds(self, sessions: int) -> float:
        """The time over which this number of sessions is closed."""
        return min(self.close_spread_seconds, sessions / CLOSES_PER_SECOND)


@dataclass(slots=True)
class DrainSignals:
    """Requests that may arrive during a drain.

    `close_now` closes all sessions immediately, `abort_now` aborts them without waiting for a closing handshake.
    """

    close_now: asyncio.Event = field(default_factory=asyncio.Event)
    abort_now: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class DrainResult:
    """How the sessions ended: by themselves, closed by the relay, aborted before the client was informed."""

    finished: int = 0
    closed: int = 0
    aborted: int = 0

    def count(self, reason: str, *, client_informed: bool) -> None:
        """Count a session that ended."""
        if reason != "relay_draining":
            self.finished += 1
        elif client_informed:
            self.closed += 1
        else:
            self.aborted += 1


class Drainer:
    """Drains the sessions and dials of one relay. Owns the registry of its sessions.

    `drain` is called at most once and then `end_all`; `end_all` alone stops a relay without a drain. `is_draining` never
    returns to False.
    """

    def __init__(self, dials: DialsInFlight) -> None:
        self.sessions = SessionRegistry(self._session_started, self._session_ended)
        self.is_draining = False
        self._dials = dials
        self._deadline = 0.0  # loop time
        self._is_past_deadline = False
        self._must_settle = False
        self._result = DrainResult()

    @property
    def seconds_left(self) -> float | None:
        """The seconds until open sessions are closed; None while the relay does not drain."""
        return max(0.0, self._deadline - asyncio.get_running_loop().time()) if self.is_draining else None

    async def drain(self, timing: DrainTiming, signals: DrainSignals) -> DrainResult:
        """Refuse new clients, let sessions finish until the deadline, end the rest; returns once no session is open."""
        log, loop = structlog.get_logger(), asyncio.get_running_loop()
        started_at = loop.time()
        self.is_draining = True
        self._deadline = started_at + timing.drain_seconds
        for session in self.sessions:
            session.announce_drain(timing.drain_seconds)
        log.info("drain.started", sessions=len(self.sessions), dials=len(self._dials), seconds=timing.drain_seconds)
        await self._wait_for_end(signals, started_at + timing.drain_seconds)
        self._pass_deadline()
        await self._close_spread_out(timing, signals.close_now)
        await self._wait_closed(signals)
        result = self._result
        log.log(
            Level.WARNING if result.aborted else Level.INFO,
            "drain.finished",
            **(_ABORTED if result.aborted else {}),
            finished=result.finished,
            closed=result.closed,
            aborted=result.aborted,
            hurried=signals.close_now.is_set(),
            seconds=round(loop.time() - started_at, 3),
        )
        return result

    async def _wait_for_end(self, signals: DrainSignals, deadline: float) -> None:
        """Wait until no session is open, until the deadline or until `close_now`.

        Sessions that take time to close upstream are ended earlier by that time.
        """
        loop = asyncio.get_running_loop()
        early = max(0.0, deadline - SETTLE_SECONDS - loop.time())
        await _wait_first(self._wait_empty(), signals.close_now.wait(), timeout_seconds=early)
        self._must_settle = True
        for session in self.sessions:
            if session.settle_seconds:
                session.end("relay_draining")
        remaining = max(0.0, deadline - loop.time())
        await _wait_first(self._wait_empty(), signals.close_now.wait(), timeout_seconds=remaining)

    async def end_all(self) -> None:
        """End all sessions immediately, those that a dial in flight still starts included; returns once none is open.

        A session or dial that misses all its own deadlines holds this for END_SECONDS at most.
        """
        self._pass_deadline()
        for session in self.sessions:
            session.end("relay_draining")
        await _wait_first(self._wait_empty(), timeout_seconds=END_SECONDS)
        if self._dials or self.sessions:
            structlog.get_logger().error(
                "drain.incomplete",
                message="Sessions or dials did not end in time; the process ends without them.",
                remedy="Report this line, with the lines of the log about these sessions.",
                sessions=len(self.sessions),
                dials=len(self._dials),
            )

    def _session_started(self, session: Session) -> None:
        if self._is_past_deadline or (self._must_settle and session.settle_seconds):
            session.end("relay_draining")
        elif self.is_draining:
            session.announce_drain(self._deadline - asyncio.get_running_loop().time())

    def _session_ended(self, session: Session, task: asyncio.Task[str]) -> None:
        if self.is_draining:
            failed = task.cancelled() or task.exception() is not None
            self._result.count("internal_error" if failed else task.result(), client_informed=session.client_informed)

    def _pass_deadline(self) -> None:
        self.is_draining = self._is_past_deadline = True
        self._dials.expire()

    async def _wait_empty(self) -> None:
        # A dial is tracked until its session is registered, so at least one of the two counts is always above zero.
        while self._dials or self.sessions:
            await self._dials.wait_empty()
            await self.sessions.wait_empty()

    async def _close_spread_out(self, timing: DrainTiming, close_now: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        remaining = list(self.sessions)
        random.shuffle(remaining)
        start, spread = loop.time(), timing.spread_seconds(len(remaining))
        times = sorted(start + random.uniform(0, spread) for _ in remaining)  # noqa: S311 - jitter
        for close_at, session in zip(times, remaining, strict=True):
            if close_at > loop.time() and not close_now.is_set():
                await _wait_first(close_now.wait(), timeout_seconds=close_at - loop.time())
            session.end("relay_draining")

    async def _wait_closed(self, signals: DrainSignals) -> None:
        closed = asyncio.ensure_future(self.end_all())
        await _wait_first(asyncio.shield(closed), signals.close_now.wait(), timeout_seconds=END_SECONDS)
        await _wait_first(asyncio.shield(closed), signals.abort_now.wait(), timeout_seconds=FAST_CLOSE_SECONDS)
        for session in self.sessions:
            session.abort()
        await closed


async def _wait_first(*waits: Awaitable[object], timeout_seconds: float) -> None:
    """Wait until one of them is done or the time has passed, and cancel the others."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
