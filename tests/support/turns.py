"""Legs and a clock for tests of the scheduler of turns (`service/wire/turns.py`): a delivery takes what its bytes cost."""

from collections.abc import Callable
from typing import Final

from service.wire import turns
from service.wire.turns import Debt, TurnScheduler

SMALL_FRAMES: Final = 3e-6 / 6  # seconds per byte: the smallest frames
SPEECH: Final = 3e-6 / 4000


class FakeClock:
    """Seconds that pass only where a test lets them. In `paused` of them the process had no core."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.paused = 0.0

    def perf_counter(self) -> float:
        """The time."""
        return self.now

    def thread_time(self) -> float:
        """The processor time."""
        return self.now - self.paused


class CostlyLeg:
    """A leg with waiting bytes, of which each costs the same time."""

    def __init__(self, clock: FakeClock, name: str, waiting: int, seconds_per_byte: float) -> None:
        self.debt = Debt()
        self._clock = clock
        self._name = name
        self.backlog = bytearray(waiting)
        self._seconds_per_byte = seconds_per_byte
        self.log: list[tuple[str, int]] = []

    @property
    def waiting(self) -> int:
        """How many bytes wait."""
        return len(self.backlog)

    def deliver(self, size: int) -> bool:
        """Take a slice."""
        size = min(size, self.waiting)
        del self.backlog[:size]
        self._clock.now += size * self._seconds_per_byte
        self.log.append((self._name, size))
        return self.waiting > 0


def scheduler_with(
    calls: list[Callable[[], None]], timers: list[tuple[float, Callable[[], None]]] | None = None
) -> TurnScheduler:
    """A scheduler whose turns the test runs. Timers run like turns, unless they are collected, with their seconds."""

    class Loop:
        def call_soon(self, callback: Callable[[], None]) -> None:
            calls.append(callback)

        def call_later(self, seconds: float, callback: Callable[[], None]) -> None:
            if timers is None:
                turns.time.now += seconds  # type: ignore[attr-defined]  # the fake clock
                calls.append(callback)
            else:
                timers.append((seconds, callback))

    return TurnScheduler(Loop())  # type: ignore[arg-type]  # all that it uses of a loop
