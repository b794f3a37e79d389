"""The open sessions of a relay."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from service.relay.session import Session
from service.relay.ticker import Ticker
from service.relay.watchdog import Lapse


class Probed(Protocol):
    """A session of a client: open, ending, or about to start."""

    def probe_client(self) -> Lapse | None:
        """See `Session.probe_client`."""


class SessionRegistry:
    """The set of open sessions. It runs each in a task of its own and keeps the task until the session has ended.

    The registry owns the task and never cancels it: a request handler awaits it shielded, and to end a session call
    `Session.end`. `on_start` is called in `start`, after the task has been created and before it runs; `on_end` is called
    with the finished task, after the session has left the set.
    """

    def __init__(
        self, on_start: Callable[[Session], object], on_end: Callable[[Session, asyncio.Task[str]], object]
    ) -> None:
        self._on_start = on_start
        self._on_end = on_end
        self._sessions: dict[asyncio.Task[str], Session] = {}
        self._by_client: dict[str, set[Probed]] = {}
        self._ticker = Ticker()
        self._empty = asyncio.Event()
        self._empty.set()

    def start(self, session: Session) -> asyncio.Task[str]:
        """Run a session; returns its task, whose result is the reason for which the session ended."""
        task = asyncio.get_running_loop().create_task(session.run(), name=f"session {session.info.session_id}")
        self._sessions[task] = session
        self._by_client.setdefault(session.info.limited_as, set()).add(session)
        self._empty.clear()
        self._ticker.add(session)
        task.add_done_callback(self._remove)
        self._on_start(session)
        return task

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        """Iterate over a snapshot, oldest first: sessions may start and end meanwhile."""
        return iter(tuple(self._sessions.values()))

    @contextmanager
    def starting(self, client: str, start: Probed) -> Iterator[None]:
        """Probe the client also where its session is about to start, while the block runs."""
        self._by_client.setdefault(client, set()).add(start)
        try:
            yield
        finally:
            self._forget(client, start)

    def probe_client(self, client: str) -> Lapse | None:
        """Ping the client on each of its sessions; see `Session.probe_client`.

        Returns when the first session that is ending, or of a dead connection, is over; None if all connections are alive.
        """
        lapses = [session.probe_client() for session in self._by_client.get(client, ())]
        return min((lapse for lapse in lapses if lapse is not None), default=None)

    def find(self, session_id: str) -> Session | None:
        """The open session with this id."""
        return next((session for session in self if session.info.session_id == session_id), None)

    def end(self, session_id: str, reason: str) -> None:
        """End the open session with this id, if there is one."""
        session = self.find(session_id)
        if session is not None:
            session.end(reason)

    def end_withdrawn(self, must_end: Callable[[str, str], bool]) -> int:
        """End the sessions whose credential, of the client with a name, has been withdrawn; returns their number."""
        ended = [session for session in self if must_end(session.info.credential, session.info.client)]
        for session in ended:
            session.end("client_disabled")
        return len(ended)

    async def wait_empty(self) -> None:
        """Wait until no session is open."""
        await self._empty.wait()

    def _remove(self, task: asyncio.Task[str]) -> None:
        session = self._sessions.pop(task)
        self._ticker.remove(session)
        self._forget(session.info.limited_as, session)
        self._on_end(session, task)
        if not self._sessions:
            self._empty.set()

    def _forget(self, client: str, session: Probed) -> None:
        of_client = self._by_client[client]
        of_client.discard(session)
        if not of_client:
            del self._by_client[client]
