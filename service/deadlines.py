"""Deadlines that do not count a stall of the process, such as a suspended machine or a throttled container, against a peer.

After a stall the event loop runs the timers that are due before it has read what waits in the sockets, and a result that is
available loses against the cancellation of its waiter. So a timer that fires late runs once more, for as long as it was late.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

STALL_SECONDS: Final = 2.0
"""A periodic timer that is later than this was delayed by a stall of the whole process. What the peers sent meanwhile has not
been read, so that the stall must not count as their silence."""


class DeadlineTimer:
    """Calls back after `seconds`; later by the time for which a stall delayed it, though at most by `seconds`."""

    __slots__ = ("_callback", "_due", "_handle", "_loop", "_seconds")

    def __init__(self, seconds: float, callback: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._callback: Callable[[], object] | None = callback
        self._due = self._loop.time() + seconds
        self._handle: asyncio.TimerHandle | None = self._loop.call_at(self._due, self._give_credit)

    @property
    def is_pending(self) -> bool:
        """Whether it has neither called back nor been cancelled."""
        return self._handle is not None

    def cancel(self) -> None:
        """Do not call back; without effect afterwards."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = self._callback = None  # its owner may refer to this timer, and it to the owner

    def _give_credit(self) -> None:
        late = self._loop.time() - self._due
        self._handle = self._loop.call_later(min(late, self._seconds), self._expire)

    def _expire(self) -> None:
        callback, self._handle, self._callback = self._callback, None, None
        if callback is not None:
            callback()


class Deadline:
    """Like `asyncio.timeout`, for waits whose expiry is blamed on a peer; see `DeadlineTimer`."""

    __slots__ = ("_seconds", "_timeout", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)
        self._timer: DeadlineTimer | None = None

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._timer = DeadlineTimer(self._seconds, self._expire)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # it refers to this object
        await self._timeout.__aexit__(exc_type, exc, traceback)

    def _expire(self) -> None:
        self._timeout.reschedule(0)  # long ago: it expires in the next iteration of the event loop
