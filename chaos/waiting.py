"""How long a process waited for a core that other programs used: what a busy machine adds to a measured time.

The kernel counts, for each thread, the time in which it ran and the time in which it was ready to run but had no core
(Documentation/scheduler/sched-stats.rst). Both are zero where the kernel does not count.
"""

import os
import time
from array import array
from bisect import bisect_left
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

_SAMPLE_SECONDS: Final = 0.001
_MAX_SAMPLES: Final = 200_000
NANOSECONDS: Final = 1e6  # of a millisecond


class CoreWait:
    """The waiting of a process's main thread, less what the other threads of the process ran meanwhile: they cost it that."""

    def __init__(self, pid: int) -> None:
        self._main = -1
        self._others: list[int] = []
        self._times = array("d", [time.perf_counter()])
        self._waited = array("d", [0.0])
        with suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                descriptor = os.open(task / "schedstat", os.O_RDONLY)
                if int(task.name) == pid:
                    self._main = descriptor
                else:
                    self._others.append(descriptor)

    def close(self) -> None:
        """Close its descriptors."""
        for descriptor in (self._main, *self._others):
            with suppress(OSError):
                os.close(descriptor)
        self._main, self._others = -1, []

    def sample(self) -> None:
        """Read the counters, unless they have just been read."""
        now = time.perf_counter()
        if now - self._times[-1] < _SAMPLE_SECONDS:
            return
        waited = _counters(self._main)[1] - sum(_counters(other)[0] for other in self._others)
        self._times.append(now)
        self._waited.append(waited / NANOSECONDS)
        if len(self._times) > _MAX_SAMPLES:
            del self._times[: _MAX_SAMPLES // 2], self._waited[: _MAX_SAMPLES // 2]

    def total(self) -> float:
        """Milliseconds of waiting up to the last sample; only differences count."""
        return self._waited[-1]

    def latest(self) -> float:
        """Milliseconds of waiting before the last sample: what a process waited, after it was woken, for what it does now."""
        return max(0.0, self._waited[-1] - self._waited[-2]) if len(self._waited) > 1 else 0.0

    def since(self, started: float) -> float:
        """Milliseconds of waiting since a moment of `time.perf_counter`, to the last sample."""
        first = min(bisect_left(self._times, started), len(self._times) - 1)
        return max(0.0, self._waited[-1] - self._waited[first])


def _counters(descriptor: int) -> tuple[int, int]:
    """Nanoseconds in which a thread ran and waited."""
    with suppress(OSError, ValueError):
        ran, waited, _ = os.pread(descriptor, 64, 0).split()
        return int(ran), int(waited)
    return 0, 0


class NetTimes:
    """Times in milliseconds less the waiting of the relay, and of this process when it was woken for the end of the time.

    The times as measured are beside them.
    """

    def __init__(self, wait: CoreWait, own_wait: CoreWait) -> None:
        self._wait = wait
        self._own_wait = own_wait
        self.measured = array("d")
        self.net = array("d")

    def add(self, milliseconds: float) -> None:
        """Add a time that ends now."""
        started = time.perf_counter() - milliseconds / 1000
        self._wait.sample()
        self._own_wait.sample()
        self.measured.append(milliseconds)
        self.net.append(max(0.0, milliseconds - self._wait.since(started) - self._own_wait.latest()))

    def clear(self) -> None:
        """Forget all."""
        del self.measured[:], self.net[:]


class RoundTrips(array):  # type: ignore[type-arg]  # array is generic in stubs only
    """What `bench.load` appends latencies to, in nanoseconds: keeps them as net times."""

    def __new__(cls, times: NetTimes) -> Self:  # noqa: ARG004 - for __init__
        """Make an empty array."""
        return super().__new__(cls, "q")  # type: ignore[return-value]  # the stubs name the base

    def __init__(self, times: NetTimes) -> None:
        self._times = times

    def append(self, nanoseconds: int) -> None:
        """Called for each message."""
        self._times.add(nanoseconds / NANOSECONDS)
