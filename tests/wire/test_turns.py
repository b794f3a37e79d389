"""service/wire/turns.py: no leg's work delays the others. The clock is a fake: a delivery takes what its bytes cost."""

import asyncio
from collections.abc import Callable

import pytest

from service.wire import turns
from service.wire.turns import (
    CHEAP_SECONDS,
    HEAVY_SLICE_BYTES,
    LIGHT_SLICE_BYTES,
    READ_SECONDS,
    TURN_SECONDS,
    Debt,
    TurnScheduler,
)


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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """Replace the clock of the scheduler."""
    fake = FakeClock()
    monkeypatch.setattr(turns, "time", fake)
    return fake


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """Collect what is scheduled for the next turn of the loop, instead of running it."""
    return []


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


SMALL_FRAMES = 3e-6 / 6  # seconds per byte: the smallest frames
SPEECH = 3e-6 / 4000


def test_turn_ends_when_its_budget_is_spent(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """Fifty floods: each turn takes the budget and one slice at most, and every leg gets its turn."""
    scheduler = scheduler_with(calls)
    legs = [CostlyLeg(clock, str(number), 65_536, SMALL_FRAMES) for number in range(50)]
    for leg in legs:
        leg.debt.add(1.0)
        scheduler.add(leg)
    turns_taken = 0
    while calls:
        started = clock.now
        calls.pop()()
        turns_taken += 1
        assert clock.now - started <= TURN_SECONDS + HEAVY_SLICE_BYTES * SMALL_FRAMES + 1e-9
        assert len(calls) <= 1

    assert [0] * 50 == [leg.waiting for leg in legs]
    assert turns_taken > 50


def test_leg_without_debt_is_served_before_light_ones_with_some(
    clock: FakeClock, calls: list[Callable[[], None]]
) -> None:
    """Each client that connects anew is light at first; what fifty of them have left must not come before a call."""
    scheduler = scheduler_with(calls)
    floods = [CostlyLeg(clock, "flood", 4096, SMALL_FRAMES) for _ in range(50)]
    log: list[tuple[str, int]] = []
    for flood in floods:
        flood.debt.add(CHEAP_SECONDS * 2)
        flood.log = log
        scheduler.add(flood)
    clock.now += 0.05
    call = CostlyLeg(clock, "call", 13_000, SPEECH)
    call.log = log
    scheduler.add(call)
    calls.pop()()

    assert ("call", 13_000) == log[0]


def test_time_without_a_core_is_not_measured_while_legs_wait(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """A call that is preempted is charged nothing; with nothing to wait for, the cheaper clock is used."""
    scheduler = scheduler_with(calls)
    clocks = [scheduler.clock]
    scheduler.add(CostlyLeg(clock, "flood", 100, SMALL_FRAMES))
    clocks.append(scheduler.clock)
    calls.pop()()
    clocks.append(scheduler.clock)

    assert [clock.perf_counter, clock.thread_time, clock.perf_counter] == clocks


def test_light_leg_is_served_before_heavy_ones(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """However many floods wait, and although they came first."""
    scheduler = scheduler_with(calls)
    floods = [CostlyLeg(clock, "flood", 65_536, SMALL_FRAMES) for _ in range(50)]
    for flood in floods:
        flood.debt.add(1.0)
        scheduler.add(flood)
    call = CostlyLeg(clock, "call", 3 * LIGHT_SLICE_BYTES, SPEECH)
    scheduler.add(call)
    calls.pop()()

    assert 0 == call.waiting
    assert sum(flood.waiting for flood in floods) >= 49 * 65_536


def test_flood_becomes_heavy_and_recovers(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """The first slice is a large one; a leg that rests is light again after some seconds."""
    scheduler = scheduler_with(calls)
    flood = CostlyLeg(clock, "flood", 65_536, SMALL_FRAMES)
    scheduler.add(flood)
    while calls:
        calls.pop()()

    assert [LIGHT_SLICE_BYTES, HEAVY_SLICE_BYTES, HEAVY_SLICE_BYTES] == [size for _, size in flood.log[:3]]
    assert flood.debt.is_heavy
    clock.now += 10
    assert not flood.debt.is_heavy


def test_pause_of_the_process_makes_no_leg_heavy(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """A read during which the process had no core counts like the costliest that there is, bytes that wait nothing."""

    class Pausing(CostlyLeg):
        def deliver(self, size: int) -> bool:
            clock.paused += 0.1
            return super().deliver(size)

    scheduler = scheduler_with(calls)
    read, waiting = CostlyLeg(clock, "read", 0, 0.0), Pausing(clock, "waiting", 1000, 0.1 / 1000)
    clock.now += 0.1
    scheduler.charge(read, 0.1)
    scheduler.add(waiting)
    while calls:
        calls.pop()()

    assert (False, False) == (read.debt.is_heavy, waiting.debt.is_heavy)
    clock.now += 0.002
    scheduler.charge(read, 0.002)
    assert read.debt.is_heavy


def test_costly_delivery_of_waiting_bytes_makes_a_leg_heavy(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """At once, and for as long as it was costly: it waits behind others for seconds."""
    scheduler = scheduler_with(calls)
    leg = CostlyLeg(clock, "costly", 1000, 0.1 / 1000)
    scheduler.add(leg)
    while calls:
        calls.pop()()

    clock.now += 3
    assert leg.debt.is_heavy


def test_charged_read_lets_others_wait_for_the_next_turn(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """`is_spent` is reset by the next turn."""
    scheduler = scheduler_with(calls)
    leg = CostlyLeg(clock, "a", 0, 0)
    for is_spent in (False, True):
        scheduler.uncharged_seconds += READ_SECONDS / 2
        scheduler.charge(leg, READ_SECONDS / 2)
        assert is_spent is scheduler.is_spent
    assert 1 == len(calls)
    calls.pop()()

    assert not scheduler.is_spent


def test_cheap_reads_add_up_without_a_debt(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """Two hundred legs whose reads are cheap: the turn is spent, and none of them is charged."""
    scheduler = scheduler_with(calls)
    leg = CostlyLeg(clock, "a", 0, 0)
    scheduler.uncharged_seconds = READ_SECONDS
    scheduler.charge(leg, CHEAP_SECONDS)

    assert (True, 0.0, 0.0) == (scheduler.is_spent, scheduler.uncharged_seconds, leg.debt.light_at)


def test_legs_are_served_by_debt(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """The smallest first, as it is at one time; legs without one in the order of their arrival."""
    scheduler = scheduler_with(calls)
    served: list[str] = []

    class Served(CostlyLeg):
        def deliver(self, size: int) -> bool:
            served.append(self._name)
            return super().deliver(size)

    def add(name: str, debt: float) -> None:
        leg = Served(clock, name, 1, 0)
        if debt:
            leg.debt.add(debt)
        scheduler.add(leg)

    add("1.0, a second ago", 1.0)
    clock.now += 1
    for name, debt in (("0.6", 0.6), ("0.4", 0.4), ("none", 0.0), ("none, later", 0.0)):
        add(name, debt)
    calls.pop()()

    assert ["none", "none, later", "0.4", "1.0, a second ago", "0.6"] == served


def test_light_leg_with_few_bytes_is_served_before_those_with_many(
    clock: FakeClock, calls: list[Callable[[], None]]
) -> None:
    """Of an event that is read whole it is unknown what it costs; a message of a call does not wait behind three of them."""
    scheduler = scheduler_with(calls)
    events = [CostlyLeg(clock, "event", 60_000, SPEECH) for _ in range(3)]
    call = CostlyLeg(clock, "call", 4000, SPEECH)
    call.debt.add(CHEAP_SECONDS)  # some time ago it was charged
    for leg in (*events, call):
        leg.log = events[0].log
        scheduler.add(leg)
    calls.pop()()

    assert ["call", "event"] == [name for name, _ in call.log[:2]]


def test_heavy_legs_pause_after_a_delivery_that_cannot_be_divided(
    clock: FakeClock, calls: list[Callable[[], None]]
) -> None:
    """For as long as it took; what light legs have to deliver meanwhile is delivered, and one timer ends the pause."""
    timers: list[tuple[float, Callable[[], None]]] = []
    scheduler = scheduler_with(calls, timers)
    events = [CostlyLeg(clock, "event", 2 * HEAVY_SLICE_BYTES, 0.02 / HEAVY_SLICE_BYTES) for _ in range(2)]
    for leg in events:
        leg.debt.add(1.0)
        scheduler.add(leg)
    calls.pop()()
    call = CostlyLeg(clock, "call", 4000, SPEECH)
    for _ in range(2):
        clock.now += 0.001
        if not call.log:
            scheduler.add(call)
        while calls:
            calls.pop()()

    assert [1, 0] == [len(leg.log) for leg in events]
    assert ([("call", 4000)], 1) == (call.log, len(timers))
    [(seconds, resume)] = timers
    assert 0.02 == pytest.approx(seconds + 4000 * SPEECH, abs=0.002)
    clock.now += seconds
    resume()
    calls.pop()()
    assert [1, 1] == [len(leg.log) for leg in events]


@pytest.mark.parametrize("debt", [0.0, 0.02])
def test_no_leg_waits_for_ever(debt: float, clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """Neither one with many bytes nor one that was heavy when it was queued, while each turn is spent on legs with few."""
    scheduler = scheduler_with(calls)
    event = CostlyLeg(clock, "event", 60_000, SPEECH)
    event.debt.add(debt)
    scheduler.add(event)
    turns_taken = 0
    while not event.log and turns_taken < 3000:
        for _ in range(3):
            scheduler.add(CostlyLeg(clock, "call", 4000, TURN_SECONDS / 8000))
        calls.pop()()
        turns_taken += 1

    assert event.log
    assert turns_taken > 10


def test_pause_of_heavy_legs_delays_no_light_leg(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """Of a read that is put back in part, the leg is charged after it has been queued."""
    scheduler = scheduler_with(calls, [])
    event = CostlyLeg(clock, "event", HEAVY_SLICE_BYTES, 0.02 / HEAVY_SLICE_BYTES)
    event.debt.add(1.0)
    scheduler.add(event)
    calls.pop()()
    flood, call = CostlyLeg(clock, "flood", 100, SMALL_FRAMES), CostlyLeg(clock, "call", 4000, SPEECH)
    scheduler.add(flood)
    flood.debt.add(1.0)
    clock.now += 0.001
    scheduler.add(call)
    calls.pop()()

    assert ([], [("call", 4000)]) == (flood.log, call.log)


def test_speech_makes_no_leg_heavy_while_every_read_waits(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """A busy process would else treat its calls like floods, which pause while an event is parsed."""
    scheduler = scheduler_with(calls)
    call = CostlyLeg(clock, "call", 0, 80e-6 / 1300)
    for _ in range(500):
        call.backlog += bytes(1300)
        scheduler.add(call)
        calls.pop()()
        clock.now += 0.02
        assert not call.debt.is_heavy


def test_exception_of_one_leg_stops_no_other(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """It is a bug of the relay, which asyncio logs."""

    class Failing(CostlyLeg):
        def deliver(self, size: int) -> bool:
            raise RuntimeError

    scheduler = scheduler_with(calls)
    call = CostlyLeg(clock, "call", 4000, SPEECH)
    for leg in (Failing(clock, "failing", 1, SPEECH), call):
        scheduler.add(leg)
    with pytest.raises(RuntimeError):
        calls.pop()()
    calls.pop()()

    assert [("call", 4000)] == call.log


async def test_scheduler_is_shared_by_the_legs_of_a_loop() -> None:
    """And by no other loop."""
    loop = asyncio.get_running_loop()

    assert turns.scheduler_of(loop) is turns.scheduler_of(loop)
