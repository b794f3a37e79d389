"""Shares each turn of the event loop among the legs that have much to process, so that no peer delays the others.

The number of bytes shows little of the work: 64 KiB are one message or ten thousand frames. So the time of deliveries is
measured, and each parses a limited number of frames one by one. Cheap deliveries count as well: uvloop reads a socket 32
times in a row.
"""

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakKeyDictionary

from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Item

READ_SECONDS: Final = 0.002
"""After this much work for reads in one turn of the event loop, further reads wait for the next turn."""
TURN_SECONDS: Final = 0.002
"""The time of each turn for reads that wait."""
CHEAP_SECONDS: Final = 0.0005
"""A delivery that takes less is not charged to its leg: an ordinary message takes a twentieth."""
HEAVY_SECONDS: Final = 0.005
"""A leg that was charged more within about a second is heavy: its bytes are delivered in small slices."""
MAX_PAUSE_SECONDS: Final = 0.05
"""A delivery that takes longer than `TURN_SECONDS`, such as that of an event which is read whole, could not be divided. Heavy
legs then pause for as long as it took, at most this: what has waited for it is answered before the next one."""
MAX_CHARGE_SECONDS: Final = 0.004
"""What a delivery by the transport counts for at most, and no more than the processor time since that was last read: without
a core nothing works. One such delivery makes no leg heavy. Of bytes that wait, the processor time counts."""
FREE_SECONDS: Final = 0.0001
"""Of each delivery of bytes that wait, not charged: an ordinary message takes less. In a busy process all of them wait."""
LIGHT_SLICE_BYTES: Final = 16_384
HEAVY_SLICE_BYTES: Final = 2048
"""Of the smallest frames, `FRAMES_PER_DELIVERY` are fewer."""
UNKNOWN_SECONDS_PER_BYTE: Final = 2e-8
"""What the bytes of a leg are expected to cost before any have waited, a twentieth of the smallest frames."""
LEAST_SECONDS_PER_BYTE: Final = 5e-10
"""What they are expected to cost at least, as those of speech."""
MAX_RISE: Final = 8.0
"""By how much one slice raises that at most: perhaps garbage was collected meanwhile."""
FALL_SECONDS: Final = 30.0
"""In which it falls by half at most. Otherwise hundreds of floods would send a cheap slice before each costly one."""
LOOK_SECONDS: Final = 0.05
"""What searches for the close frames of held legs may cost lately, all together, until those of busy legs are skipped."""
FRAMES_PER_DELIVERY: Final = 128
"""How many frames one delivery parses one by one, in about a millisecond. Consecutive events are no such frames: they are
recognised in one run."""


class Waiting(Protocol):
    """A leg with bytes that wait, its backlog. `debt` belongs to `TurnScheduler`."""

    backlog: bytearray
    debt: "Debt"

    def deliver(self, size: int) -> bool:
        """Deliver at most `size` bytes; return whether bytes are left."""


class PutsBack(Protocol):
    """A leg, as its receiver sees it."""

    def put_back(self, data: bytes) -> None:
        """Deliver the end of a delivery again, in a later turn."""


def feed_some(leg: PutsBack, scanner: Scanner, data: bytes) -> list[Item]:
    """Feed a scanner with the next bytes of a leg; those after `FRAMES_PER_DELIVERY` frames wait for a later turn."""
    items = scanner.feed(data, FRAMES_PER_DELIVERY)
    rest = scanner.take_rest()
    if rest:
        leg.put_back(rest)
    return items


class Debt:
    """How much work a leg has caused lately, in seconds, which halves each second, and what its bytes have cost."""

    __slots__ = ("_changed_at", "_learned_at", "_seconds", "_seconds_per_byte")

    def __init__(self) -> None:
        self._seconds = 0.0
        self._changed_at = 0.0
        self._seconds_per_byte = UNKNOWN_SECONDS_PER_BYTE
        self._learned_at = 0.0  # 0 before the first slice

    def add(self, seconds: float) -> None:
        """Charge a delivery."""
        now = time.perf_counter()
        self._seconds = seconds + self._seconds * math.exp2(self._changed_at - now)
        self._changed_at = now

    @property
    def seconds(self) -> float:
        """The debt at present."""
        self.add(0.0)
        return self._seconds

    @property
    def is_heavy(self) -> bool:
        """Whether the leg has to wait for its turn."""
        return self.exceeds(HEAVY_SECONDS)

    def exceeds(self, limit: float) -> bool:
        """Whether it is above a number of seconds at present."""
        if self._seconds <= limit:
            return False
        self.add(0.0)
        return self._seconds > limit

    def learn(self, seconds: float, size: int) -> None:
        """Note what a slice has cost. `FREE_SECONDS` of it show nothing: a small event that is read whole takes as much."""
        if size <= 0:
            return
        now, known = time.perf_counter(), self._seconds_per_byte
        observed = min(max(seconds - FREE_SECONDS, 0.0) / size, MAX_RISE * known)
        lowest = (
            known * math.exp2(max(self._learned_at - now, -FALL_SECONDS) / FALL_SECONDS) if self._learned_at else 0.0
        )
        self._seconds_per_byte, self._learned_at = max(observed, lowest, LEAST_SECONDS_PER_BYTE), now

    def seconds_until_paid(self, size: int) -> float:
        """How long the debt after `size` more bytes would take to fall to `FREE_SECONDS`, which is no debt."""
        expected = self.seconds + min(size * self._seconds_per_byte, HEAVY_SECONDS)
        return math.log2(expected / FREE_SECONDS) if expected > FREE_SECONDS else 0.0


class TurnScheduler:
    """Delivers the waiting bytes of all legs of an event loop.

    `is_spent`: the budget for reads of this turn is used up. `uncharged_seconds`: of deliveries since the last charge.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[tuple[float, int, Waiting]] = []  # a heap, by when they are due
        self._paused: list[tuple[float, int, Waiting]] = []  # heavy ones, until `_paused_until`
        self._numbers = itertools.count()
        self._spent_seconds = 0.0
        self._cpu_seconds = time.thread_time()  # when it was last read
        self._is_scheduled = self._will_resume = False
        self._paused_until = 0.0
        self.is_spent = False
        self.uncharged_seconds = 0.0
        self._looks = Debt()
        # For the time of a delivery. While legs wait, time without a core must not count as work of a call.
        self.clock: Callable[[], float] = time.perf_counter

    def may_look(self, leg: Waiting) -> bool:
        """Whether a held leg may be searched for its close frame now.

        A leg counts as heavy on a busy machine as well, and its client must not be overlooked for long.
        """
        return not ((self.is_spent or leg.debt.is_heavy) and self._looks.exceeds(LOOK_SECONDS))

    def charge_look(self, leg: Waiting, seconds: float) -> None:
        """Count a search like a delivery, and among all searches."""
        self._looks.add(seconds)
        self.uncharged_seconds += seconds
        self.charge(leg, seconds)

    def charge(self, leg: Waiting, seconds: float) -> None:
        """Count what is uncharged towards this turn, and the last delivery against its leg if it was costly."""
        worked = self._worked()
        if seconds > CHEAP_SECONDS:
            leg.debt.add(min(seconds, worked, MAX_CHARGE_SECONDS))
        self._spent_seconds += self.uncharged_seconds
        self.uncharged_seconds = 0.0
        self.is_spent = self._spent_seconds >= READ_SECONDS
        self._schedule()

    def _worked(self) -> float:
        """The processor time since the last call."""
        before, self._cpu_seconds = self._cpu_seconds, time.thread_time()
        return self._cpu_seconds - before

    def add(self, leg: Waiting) -> None:
        """Queue a leg that has bytes, once: not again before `deliver` has returned False.

        It is due once it would have paid for what it has caused lately, and for what waits if that costs what its bytes have
        cost before. So calls are due before a thousand floods that share a core, each of which has little debt and waits
        for more than a second, and no leg is passed for ever. A call that has to wait gathers bytes, but cheap ones.
        """
        due = time.perf_counter() + leg.debt.seconds_until_paid(len(leg.backlog))
        heapq.heappush(self._waiting, (due, next(self._numbers), leg))
        self.clock = time.thread_time
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._serve)  # after everything that is ready now, before the next select

    def _serve(self) -> None:
        self._is_scheduled, self.is_spent, self._spent_seconds = False, False, 0.0
        self._worked()
        try:
            self._deliver_until(time.perf_counter() + TURN_SECONDS)
        except BaseException:
            self._schedule()  # the others must not wait until another one is queued
            raise
        if self._waiting:
            self._schedule()
        elif not self._paused:
            self.clock = time.perf_counter

    def _deliver_until(self, end: float) -> None:
        """Deliver in the order of the queue. During a pause heavy legs are put aside: a call may be queued behind one."""
        now = end - TURN_SECONDS
        while self._waiting and now < end:
            entry = heapq.heappop(self._waiting)
            leg = entry[2]
            is_heavy = leg.debt.is_heavy
            if is_heavy and now < self._paused_until:
                self._paused.append(entry)
                self._resume_later(self._paused_until - now)
                continue
            waiting = len(leg.backlog)
            has_more = leg.deliver(HEAVY_SLICE_BYTES if is_heavy else LIGHT_SLICE_BYTES)
            now = time.perf_counter()
            worked = self._worked()
            leg.debt.learn(worked, waiting - len(leg.backlog))
            if worked > FREE_SECONDS:
                leg.debt.add(worked - FREE_SECONDS)
            if worked > TURN_SECONDS:
                self._paused_until = now + min(worked, MAX_PAUSE_SECONDS)
            if has_more:
                self.add(leg)

    def _resume_later(self, seconds: float) -> None:
        if not self._will_resume:
            self._will_resume = True
            self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._will_resume = False
        for entry in self._paused:
            heapq.heappush(self._waiting, entry)
        self._paused.clear()
        self._schedule()


_schedulers: WeakKeyDictionary[asyncio.AbstractEventLoop, TurnScheduler] = WeakKeyDictionary()


def scheduler_of(loop: asyncio.AbstractEventLoop) -> TurnScheduler:
    """The scheduler that all legs of an event loop share."""
    if loop not in _schedulers:
        _schedulers[loop] = TurnScheduler(loop)
    return _schedulers[loop]
