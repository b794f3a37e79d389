"""service/wire/turns.py: whose turn it is. The clock is a fake."""

from collections.abc import Callable

import pytest

from service.wire.turns import (
    CHEAP_SECONDS,
    FALL_SECONDS,
    FREE_SECONDS,
    HEAVY_SECONDS,
    HEAVY_SLICE_BYTES,
    LIGHT_SLICE_BYTES,
    TURN_SECONDS,
    Debt,
)
from tests.support.turns import SMALL_FRAMES, SPEECH, CostlyLeg, FakeClock, scheduler_with


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
    while not event.log and turns_taken < 10_000:
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


@pytest.mark.parametrize("backlog", [4000, 100_000])
def test_hundreds_of_floods_that_share_a_core_delay_no_call(
    backlog: int, clock: FakeClock, calls: list[Callable[[], None]]
) -> None:
    """Each of them is served once in more than a second, so that it has hardly a debt, and its bytes have waited for long.

    A call comes first even if it has gathered more bytes, which were cheap before.
    """
    scheduler = scheduler_with(calls)
    floods = [CostlyLeg(clock, "flood", 10 * LIGHT_SLICE_BYTES, 1.5e-3 / LIGHT_SLICE_BYTES) for _ in range(1000)]
    call = CostlyLeg(clock, "call", LIGHT_SLICE_BYTES, SPEECH)
    for leg in (*floods, call):
        scheduler.add(leg)
    for _ in range(1000):
        calls.pop()()
    assert max(flood.debt.seconds for flood in floods) < HEAVY_SECONDS
    for _ in range(100):
        call.backlog += bytes(backlog)
        scheduler.add(call)
        calls.pop()()
        assert 0 == call.waiting
        clock.now += 0.02


def test_slice_that_was_costly_once_does_not_bring_a_call_behind_floods(
    clock: FakeClock, calls: list[Callable[[], None]]
) -> None:
    """Garbage may have been collected meanwhile: it counts as a debt, and the bytes are expected to be cheap as before."""
    scheduler = scheduler_with(calls)
    call = CostlyLeg(clock, "call", 4000, SPEECH)
    scheduler.add(call)
    calls.pop()()
    before = call.debt.seconds_until_paid(LIGHT_SLICE_BYTES)
    call.debt.learn(0.02, 4000)

    assert (0.0, 0.0) == (before, call.debt.seconds_until_paid(LIGHT_SLICE_BYTES))


def test_heavy_leg_that_is_paused_is_before_no_light_one(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """Although it has waited so long that it is due, and the call has cost something lately."""
    timers: list[tuple[float, Callable[[], None]]] = []
    scheduler = scheduler_with(calls, timers)
    flood, event = CostlyLeg(clock, "flood", 100, SMALL_FRAMES), CostlyLeg(clock, "event", 100, 0.02 / 100)
    flood.debt.add(0.01)
    scheduler.add(flood)
    clock.now += 8
    flood.debt.add(0.01)  # by a delivery of the transport
    scheduler.add(event)
    call = CostlyLeg(clock, "call", 4000, SPEECH)
    call.debt.add(CHEAP_SECONDS)
    scheduler._waiting.sort(key=lambda entry: entry[2] is not event)
    calls.pop()()
    scheduler.add(call)
    calls.pop()()

    assert ([], [("event", 100)], [("call", 4000)]) == (flood.log, event.log, call.log)
    [(seconds, resume)] = timers
    clock.now += seconds
    resume()
    calls.pop()()
    assert [("flood", 100)] == flood.log


def test_floods_do_not_come_first_by_a_cheap_slice_before_each_costly_one(
    clock: FakeClock, calls: list[Callable[[], None]]
) -> None:
    """Hundreds of sessions that rest until they have no debt would delay each call that meets their bytes by a second.

    Their bytes are cheap, as if they were of audio, until they are costly for the first time.
    """
    scheduler = scheduler_with(calls)
    floods = [CostlyLeg(clock, "flood", 0, SPEECH) for _ in range(500)]
    call = CostlyLeg(clock, "call", 4000, SPEECH)
    scheduler.add(call)
    calls.pop()()
    seconds: list[float] = []
    for seconds_per_byte in (SPEECH, 1.5e-3 / LIGHT_SLICE_BYTES) * 4:
        clock.now += 4
        for flood in floods:
            flood._seconds_per_byte = seconds_per_byte
            flood.backlog += bytes(2 * LIGHT_SLICE_BYTES)
            scheduler.add(flood)
        call.backlog += bytes(4000)
        scheduler.add(call)
        arrived_at = clock.now
        while call.waiting:
            calls.pop()()
        seconds.append(clock.now - arrived_at)
        while any(flood.waiting for flood in floods):
            calls.pop()()

    assert max(seconds[2:]) < 2 * TURN_SECONDS


def test_small_events_that_are_read_whole_do_not_make_the_speech_behind_them_look_costly(clock: FakeClock) -> None:
    """Each costs much for its few bytes, and little."""
    debt = Debt()
    for _ in range(20):
        clock.now += 1
        debt.learn(FREE_SECONDS, 100)

    assert 0.0 == debt.seconds_until_paid(100_000)


def test_expected_cost_of_bytes_falls_by_half_in_half_a_minute_however_long_they_rest(clock: FakeClock) -> None:
    """And at the first slice to what that has cost: a call does not begin with the doubt about it."""
    debt = Debt()
    debt.learn(0.0, 1)
    assert 0.0 == debt.seconds_until_paid(100_000)
    for _ in range(4):
        debt.learn(FREE_SECONDS + 1.6e-3, LIGHT_SLICE_BYTES)
    at_first = debt.seconds_until_paid(LIGHT_SLICE_BYTES)
    assert 4.0 == pytest.approx(at_first)
    expected: list[float] = []
    for rest in (FALL_SECONDS, 100 * FALL_SECONDS, FALL_SECONDS / 2, FALL_SECONDS / 2):
        clock.now += rest
        debt.learn(0.0, 1)
        expected.append(debt.seconds_until_paid(LIGHT_SLICE_BYTES))

    assert [3.0, 2.0, 1.5, 1.0] == pytest.approx(expected)


def test_one_slice_raises_the_expected_cost_of_bytes_eightfold_at_most(clock: FakeClock) -> None:
    """And one without bytes, of which all were put back, changes nothing."""
    debt = Debt()
    debt.learn(0.0, 1)
    costs = []
    for size in (1, 1, 0):
        debt.learn(1.0, size)
        costs.append(FREE_SECONDS * 2 ** debt.seconds_until_paid(100_000))

    assert [4e-4, 3.2e-3, 3.2e-3] == pytest.approx(costs)
    debt.learn(1.0, 1)
    assert HEAVY_SECONDS == pytest.approx(FREE_SECONDS * 2 ** debt.seconds_until_paid(100_000))


def test_slice_is_charged_and_learned_by_the_bytes_that_it_took(
    clock: FakeClock, calls: list[Callable[[], None]]
) -> None:
    """Not by those that wait behind it; and but for a tenth of a millisecond."""
    scheduler = scheduler_with(calls)
    flood = CostlyLeg(clock, "flood", 100 * LIGHT_SLICE_BYTES, 2.1e-3 / LIGHT_SLICE_BYTES)
    scheduler.add(flood)
    calls.pop()()

    assert 99 * LIGHT_SLICE_BYTES == flood.waiting
    assert 2e-3 == pytest.approx(flood.debt.seconds)
    assert 4e-3 == pytest.approx(FREE_SECONDS * 2 ** flood.debt.seconds_until_paid(LIGHT_SLICE_BYTES))


def test_each_pause_ends_by_a_timer_of_its_own_and_queues_each_leg_once(
    clock: FakeClock, calls: list[Callable[[], None]]
) -> None:
    """While a leg is paused, time without a core is not measured: it waits."""
    timers: list[tuple[float, Callable[[], None]]] = []
    scheduler = scheduler_with(calls, timers)
    events = [CostlyLeg(clock, name, HEAVY_SLICE_BYTES, 0.02 / HEAVY_SLICE_BYTES) for name in "abc"]
    for leg in events:
        leg.debt.add(1.0)
        scheduler.add(leg)
    for served in (1, 2, 3):
        while calls:
            calls.pop()()
        assert served == sum(len(leg.log) for leg in events)
        assert min(1, 3 - served) == len(timers)
        if timers:
            assert clock.thread_time == scheduler.clock
            seconds, resume = timers.pop()
            clock.now += seconds
            resume()
            assert 3 - served == len(scheduler._waiting)

    assert ([], clock.perf_counter) == (scheduler._paused, scheduler.clock)
