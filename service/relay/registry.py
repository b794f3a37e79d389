"""All live sessions, and the drain."""

import asyncio
import random
from collections.abc import Awaitable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from service.failures import Failure
from service.relay.drain import HURRY_SECONDS, DrainResult, DrainSignals, DrainTiming
from service.relay.session import Session
from service.relay.ticker import Ticker
from service.upstream.dial import Connected


class Registry:
    """Keeps every session's task until its end, so that none is forgotten by a cancelled handler."""

    def __init__(self) -> None:
        self._sessions: dict[asyncio.Task[str], Session] = {}
        self._dials: set[object] = set()
        self._ticker = Ticker()
        self.draining = False
        self._deadline = 0.0  # of the drain, by the loop's time
        self._cut = False  # the drain's time is over: what starts now ends at once
        self._scopes: set[asyncio.Timeout] = set()  # of the dials that are awaited
        self._empty = asyncio.Event()  # neither session nor dial is left
        self._empty.set()
        self._tally = DrainResult()

    @contextmanager
    def dialling(self) -> Iterator[None]:
        """While a dial is under way the drain waits for it: it may become a session."""
        dial = object()
        self._dials.add(dial)
        self._empty.clear()
        try:
            yield
        finally:
            self._dials.discard(dial)
            self._look_whether_empty()

    async def dial(self, work: Coroutine[Any, Any, Connected]) -> Connected:
        """Await a dial, but not beyond the drain's time: raises Failure with relay_draining then."""
        scope = asyncio.timeout(None)
        self._scopes.add(scope)
        try:
            async with scope:
                if self._cut:
                    scope.reschedule(0)
                return await work
        except TimeoutError:
            if scope.expired():
                raise Failure("relay_draining") from None
            raise
        finally:
            self._scopes.discard(scope)

    def __len__(self) -> int:
        return len(self._sessions)

    def upstream_sockets(self) -> int:
        """How many sockets towards upstream are open or being opened."""
        return len(self._sessions) + len(self._dials)

    def start(self, session: Session) -> asyncio.Task[str]:
        """Run a session in a task of its own."""
        task = asyncio.get_running_loop().create_task(session.run(), name=f"session {session.facts.session_id}")
        self._sessions[task] = session
        self._empty.clear()
        self._ticker.add(session)
        task.add_done_callback(self._forget)
        if self._cut:
            session.end("relay_draining")
        elif self.draining:
            session.tell_drain(self._deadline - asyncio.get_running_loop().time())
        return task

    def _forget(self, task: asyncio.Task[str]) -> None:
        session = self._sessions.pop(task, None)
        if session is not None:
            self._ticker.remove(session)
            if self.draining:
                failed = task.cancelled() or task.exception() is not None
                self._tally.count("internal_error" if failed else task.result(), was_told=session.was_told)
        self._look_whether_empty()

    def _end_taking(self) -> None:
        """The time of dials is over, too."""
        self.draining = True
        if not self._cut:
            self._cut = True
            for scope in self._scopes:
                scope.reschedule(0)

    def _look_whether_empty(self) -> None:
        if not (self._sessions or self._dials):
            self._empty.set()

    async def drain(self, times: DrainTiming, haste: DrainSignals) -> DrainResult:
        """Take nobody new, let sessions finish until the deadline, end the rest with 1001 a few at a time."""
        log, loop = structlog.get_logger(), asyncio.get_running_loop()
        started = loop.time()
        self.draining = True
        self._deadline = started + times.drain_seconds
        for session in self._sessions.values():
            session.tell_drain(times.drain_seconds)
        log.info("drain.started", sessions=len(self), dials=len(self._dials), seconds=times.drain_seconds)
        await _first_of(self._empty.wait(), haste.hurry.wait(), seconds=times.drain_seconds)
        self._end_taking()
        await self._close_in_waves(times, haste.hurry)
        await self._until_closed(haste)
        tally = self._tally
        log.log(
            30 if tally.aborted else 20,
            "drain.finished",
            finished=tally.finished,
            closed=tally.closed,
            aborted=tally.aborted,
            hurried=haste.hurry.is_set(),
            seconds=round(loop.time() - started, 3),
        )
        return tally

    async def _close_in_waves(self, times: DrainTiming, hurry: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        left = list(self._sessions.values())
        random.shuffle(left)
        start, spread = loop.time(), times.spread_seconds(len(left))
        moments = sorted(start + random.uniform(0, spread) for _ in left)  # noqa: S311 - jitter
        for moment, session in zip(moments, left, strict=True):
            if moment > loop.time() and not hurry.is_set():
                await _first_of(hurry.wait(), seconds=moment - loop.time())
            session.end("relay_draining")

    async def _until_closed(self, haste: DrainSignals) -> None:
        """Wait until the goodbyes are said: their own deadlines bound it, and haste more so."""
        ended = asyncio.ensure_future(self.finish())
        await _first_of(asyncio.shield(ended), haste.hurry.wait())
        await _first_of(asyncio.shield(ended), haste.quit.wait(), seconds=HURRY_SECONDS)
        for session in tuple(self._sessions.values()):
            session.abort()
        await ended

    async def finish(self) -> None:
        """End all sessions, also those that a late dial still starts, and wait for that."""
        self._end_taking()
        for session in tuple(self._sessions.values()):
            session.end("relay_draining")
        await self._empty.wait()


async def _first_of(*waits: Awaitable[object], seconds: float | None = None) -> None:
    """Until one of them is over, or the time is."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
