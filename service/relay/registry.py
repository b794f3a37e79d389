"""All live sessions, and the drain."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from service.relay.clock import Clock
from service.relay.session import Session


class Registry:
    """Keeps every session's task until its end, so that none is forgotten by a cancelled handler."""

    def __init__(self) -> None:
        self._sessions: dict[asyncio.Task[str], Session] = {}
        self._dials: set[asyncio.Future[None]] = set()
        self._clock = Clock()
        self.draining = False
        self._cut = False  # the drain's time is over: what starts now ends at once

    @contextmanager
    def dialling(self) -> Iterator[None]:
        """While a dial is under way the drain waits for it: it may become a session."""
        dial: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._dials.add(dial)
        try:
            yield
        finally:
            self._dials.discard(dial)
            dial.cancel()

    def __len__(self) -> int:
        return len(self._sessions)

    def upstream_sockets(self) -> int:
        """How many sockets towards upstream are open or being opened."""
        return len(self._sessions) + len(self._dials)

    def start(self, session: Session) -> asyncio.Task[str]:
        """Run a session in a task of its own."""
        task = asyncio.get_running_loop().create_task(session.run(), name=f"session {session.facts.session_id}")
        self._sessions[task] = session
        self._clock.add(session)
        task.add_done_callback(self._forget)
        if self._cut:
            session.end("relay_draining")
        return task

    def _forget(self, task: asyncio.Task[str]) -> None:
        session = self._sessions.pop(task, None)
        if session is not None:
            self._clock.remove(session)

    def tasks(self) -> Iterable[asyncio.Task[str]]:
        """The tasks of all live sessions."""
        return tuple(self._sessions)

    async def drain(self, seconds: float, hurry: asyncio.Event) -> None:
        """Let sessions finish for so long, or until told to hurry; then end the rest and wait for that."""
        log = structlog.get_logger()
        self.draining = True
        log.info("drain.started", sessions=len(self), seconds=seconds)
        hurried = asyncio.ensure_future(hurry.wait())
        deadline = asyncio.get_running_loop().time() + seconds
        while (self._sessions or self._dials) and not hurried.done():
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            waited: set[asyncio.Future[Any]] = {*self._sessions, *self._dials, hurried}
            await asyncio.wait(waited, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        cut = len(self)
        await self.finish()
        log.info("drain.finished", cut=cut)

    async def finish(self) -> None:
        """End all sessions, also those that a late dial still starts, and wait for that."""
        self.draining = self._cut = True
        for session in tuple(self._sessions.values()):
            session.end("relay_draining")
        while self._sessions:
            await asyncio.wait(self.tasks())
