"""Shares each turn of the event loop among the legs that have much to process, so that no peer delays the others.

Bytes say little about work: 64 KiB are one message or ten thousand frames. So the time that deliveries take is measured.
"""

import asyncio
import math
import time
from collections import deque
from typing import Final, Protocol
from weakref import WeakKeyDictionary

TURN_SECONDS: Final = 0.002
"""After this much work for costly deliveries in one turn of the event loop, further reads wait for the next turn."""
CHEAP_SECONDS: Final = 0.0005
"""A delivery that takes less is not charged: an ordinary message takes a twentieth."""
HEAVY_SECONDS: Final = 0.005
"""A leg that was charged more within about a second is heavy: its bytes are delivered in small slices, after the others."""
LIGHT_SLICE_BYTES: Final = 16_384
HEAVY_SLICE_BYTES: Final = 2048
"""At most 340 of the smallest frames, about a millisecond."""


class Waiting(Protocol):
    """A leg with bytes that wait. `debt` belongs to `TurnScheduler`."""

    debt: "Debt"

    def deliver(self, size: int) -> bool:
        """Deliver at most `size` bytes; return whether bytes are left."""


class Debt:
    """How much work a leg has caused lately, in seconds; halves each second."""

    __slots__ = ("_changed_at", "_seconds")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._changed_at = 0.0

    def add(self, seconds: float) -> None:
        """Charge a delivery."""
        now = time.perf_counter()
        self._seconds = seconds + self._seconds * math.exp2(self._changed_at - now)
        self._changed_at = now

    @property
    def is_heavy(self) -> bool:
        """Whether the leg has to wait behind others."""
        if self._seconds <= HEAVY_SECONDS:
            return False
        self.add(0.0)
        return self._seconds > HEAVY_SECONDS


class TurnScheduler:
    """Delivers the waiting bytes of all legs of an event loop. `is_spent`: the budget of this turn is used up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._light: deque[Waiting] = deque()
        self._heavy: deque[Waiting] = deque()
        self._spent_seconds = 0.0
        self._is_scheduled = False
        self.is_spent = False

    def charge(self, leg: Waiting, seconds: float) -> None:
        """Count a costly delivery towards this turn and against its leg."""
        leg.debt.add(seconds)
        self._spent_seconds += seconds
        self.is_spent = self._spent_seconds >= TURN_SECONDS
        self._schedule()

    def add(self, leg: Waiting) -> None:
        """Queue a leg that has bytes, once: not again before `deliver` has returned False."""
        (self._heavy if leg.debt.is_heavy else self._light).append(leg)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._serve)  # after everything that is ready now, before the next select

    def _serve(self) -> None:
        self._is_scheduled, self.is_spent, self._spent_seconds = False, False, 0.0
        served_until = time.perf_counter() + TURN_SECONDS
        now = 0.0
        while (self._light or self._heavy) and now < served_until:
            is_heavy = not self._light
            leg = (self._heavy if is_heavy else self._light).popleft()
            started = time.perf_counter()
            has_more = leg.deliver(HEAVY_SLICE_BYTES if is_heavy else LIGHT_SLICE_BYTES)
            now = time.perf_counter()
            if now - started > CHEAP_SECONDS:
                leg.debt.add(now - started)
            if has_more:
                self.add(leg)
        if self._light or self._heavy:
            self._schedule()


_schedulers: WeakKeyDictionary[asyncio.AbstractEventLoop, TurnScheduler] = WeakKeyDictionary()


def scheduler_of(loop: asyncio.AbstractEventLoop) -> TurnScheduler:
    """The scheduler that all legs of an event loop share."""
    if loop not in _schedulers:
        _schedulers[loop] = TurnScheduler(loop)
    return _schedulers[loop]
