"""Spreads the ends of many connections over turns of the event loop.

A network or a proxy that fails ends thousands of connections at once, and the loop reports all of them within one turn. Each
wakes a task that cancels a dial, or closes a session, its other side and its log line, in a third of a millisecond. So a turn
reports a few of them to their owners; the others wait, while the loop serves the connections that are left. A turn that takes
long, as one of asyncio's in which hundreds of clients connect again, reports for as long as it took: else the lost sessions
would fill the relay, which refuses newcomers, which connect again.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from time import perf_counter
from typing import Final
from weakref import WeakKeyDictionary

LOSSES_PER_TURN: Final = 8
MAX_SECONDS: Final = 0.1
"""How long a turn reports losses at most, however long it took."""


class LossQueue:
    """Calls the reports of an event loop in their order. The first `LOSSES_PER_TURN` of a turn are not delayed.

    A turn calls more only within the time that everything else took since the turn before.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self._reported = 0  # in this turn
        self._served_at = 0.0  # the end of the last call
        self._is_scheduled = False
        self._is_reporting = False

    def report(self, call: Callable[[], None]) -> None:
        """Call `call` now, or in a later turn. A report within a report is a part of it."""
        if self._is_reporting:
            call()
            return
        self._waiting.append(call)
        self._serve(0.0)

    def _next_turn(self) -> None:
        self._is_scheduled, self._reported = False, 0
        if self._waiting:
            now = perf_counter()
            self._serve(now + min(now - self._served_at, MAX_SECONDS))

    def _serve(self, until: float) -> None:
        while self._waiting and (self._reported < LOSSES_PER_TURN or self._served_at < until):
            self._reported += 1
            call = self._waiting.popleft()
            self._is_reporting = True
            try:
                call()
            finally:
                self._is_reporting = False
                self._served_at = perf_counter()
                if not self._is_scheduled:
                    self._is_scheduled = True
                    self._loop.call_soon(self._next_turn)


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, LossQueue] = WeakKeyDictionary()


def losses_of(loop: asyncio.AbstractEventLoop) -> LossQueue:
    """The queue that all connections of an event loop share."""
    if loop not in _queues:
        _queues[loop] = LossQueue(loop)
    return _queues[loop]
