"""service/wire/turns.py: no leg's work delays the others. The clock is a fake: a delivery takes what its bytes cost."""

import asyncio
from collections.abc import Callable

import pytest

from service.wire import turns
from service.wire.turns import CHEAP_SECONDS, HEAVY_SLICE_BYTES, LIGHT_SLICE_BYTES, READ_SECONDS, TURN_SECONDS
from tests.support.harness import eventually
from tests.support.recording_transport import RecordingReceiver, new_leg
from tests.support.turns import SMALL_FRAMES, SPEECH, CostlyLeg, FakeClock, scheduler_with


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


def test_time_without_a_core_is_not_measured_while_legs_wait(clock: FakeClock, calls: list[Callable[[], None]]) -> None:
    """A call that is preempted is charged nothing; with nothing to wait for, the cheaper clock is used."""
    scheduler = scheduler_with(calls)
    clocks = [scheduler.clock]
    scheduler.add(CostlyLeg(clock, "flood", 100, SMALL_FRAMES))
    clocks.append(scheduler.clock)
    calls.pop()()
    clocks.append(scheduler.clock)

    assert [clock.perf_counter, clock.thread_time, clock.perf_counter] == clocks


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

    assert (True, 0.0, 0.0) == (scheduler.is_spent, scheduler.uncharged_seconds, leg.debt.seconds)


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


async def test_early_data_that_took_long_ends_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a read like any other: what the next leg has sent early waits."""
    legs = [new_leg(early_data=b"x")[0] for _ in range(2)]
    receivers = [RecordingReceiver() for _ in legs]
    times = iter((1.0, 1.0 + READ_SECONDS))
    monkeypatch.setattr(legs[0]._turns, "clock", lambda: next(times))
    for leg, receiver in zip(legs, receivers, strict=True):
        leg.start(receiver)
    assert [b"x", b""] == [bytes(receiver.received) for receiver in receivers]
    await eventually(lambda: receivers[1].received)


async def test_early_data_of_many_legs_is_not_delivered_in_one_turn() -> None:
    """Clients that flood and connect at the same moment: what one of them has sent early may cost milliseconds."""
    legs = [new_leg(early_data=b"x")[0] for _ in range(3)]
    receivers = [RecordingReceiver() for _ in legs]
    for leg, receiver in zip(legs[:2], receivers, strict=False):
        leg.start(receiver)
    assert [b"x", b"x"] == [bytes(receiver.received) for receiver in receivers[:2]]
    legs[0]._turns.uncharged_seconds = READ_SECONDS
    legs[0].charge_look(0.0)
    legs[2].start(receivers[2])
    assert b"" == receivers[2].received

    await eventually(lambda: receivers[2].received)
    assert b"x" == receivers[2].received
