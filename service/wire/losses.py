"""Spreads the ends of many connections over turns of the event loop.

A network or a proxy that fails ends thousands of connections at once, and the loop reports all of them within one turn. Each
wakes a task that cancels a dial, or closes a session, its other side and its log line, in a third of a millisecond. So a turn
reports a few of them to their owners; the others wait, while the loop serves the connections that are left.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

LOSSES_PER_TURN: Final = 8


class LossQueue:
    """Calls the reports of an event loop in their order, at most `LOSSES_PER_TURN` in a turn. The first are not delayed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], None]] = deque()
        self._reported = 0  # in this turn
        self._is_scheduled = False
        self._is_reporting = False

    def report(self, call: Callable[[], None]) -> None:
        """Call `call` now, or in a later turn. A report within a report is a part of it."""
        if self._is_reporting:
            call()
            return
        self._waiting.append(call)
        self._serve()

    def _next_turn(self) -> None:
        self._is_scheduled, self._reported = False, 0
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self._reported < LOSSES_PER_TURN:
            self._reported += 1
            call = self._waiting.popleft()
            self._is_reporting = True
            try:
                call()
            finally:
                self._is_reporting = False
                if not self._is_scheduled:
                    self._is_scheduled = True
                    self._loop.call_soon(self._next_turn)


_queues: WeakKeyDictionary[asyncio.AbstractEventLoop, LossQueue] = WeakKeyDictionary()


def losses_of(loop: asyncio.AbstractEventLoop) -> LossQueue:
    """The queue that all connections of an event loop share."""
    if loop not in _queues:
        _queues[loop] = LossQueue(loop)
    return _queues[loop]
