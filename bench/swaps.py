"""Renewals and losses at random moments of calls in which both sides talk, and what became of each spoken sample.

A connection says that it expires 4 to 8 seconds after its beginning, and ends a minute later than it says. So a forced
switch comes before the end also on a busy machine, where a preparation can take seconds: an end that came first would be a
loss, of which a session bears three in two minutes. How late the latest switch is says how busy the machine was. At most two
connections of a call are lost, at a random moment, in a random way.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bench.callers import Caller, Site, new_lane, site, switches_of
from service.simulator import Behaviour, ConnectionRecord, End, Fault, Moment, SimulatorOptions
from tests.e2e.continuity_clients import accounting

Report = Callable[[str], None]


@dataclass
class _Totals:
    """Of all calls so far."""

    calls: int = 0
    swaps: int = 0
    said: int = 0
    lost: int = 0
    doubled: int = 0
    ended: int = 0
    latest: float = 0.0  # of the switches: seconds after the time at which the connection before was to end

    def add(self, account: accounting.Account, swaps: int, *, has_ended: bool) -> None:
        """Add a call."""
        self.calls += 1
        self.swaps += swaps
        self.said += account.expected
        self.lost += account.lost
        self.doubled += account.doubled
        self.ended += has_ended

    def switched(self, records: list[ConnectionRecord]) -> None:
        """Add how late each switch between the connections of a call was."""
        to_clock = time.monotonic() - time.time()
        for before, after in itertools.pairwise(records):
            said = before.configuration.session.get("expires_at") if before.configuration is not None else None
            at = after.first_received.get("input_audio_buffer.append")
            if isinstance(said, int) and at is not None:
                self.latest = max(self.latest, at - (said + to_clock))

    def __str__(self) -> str:
        fate = f"{self.lost} lost, {self.doubled} doubled; {self.ended} of {self.calls} calls ended"
        return f"{self.swaps} swaps: {self.said} samples spoken, {fate}"


async def measure_swaps(number: int, first_seed: int, calls_at_once: int, report: Report) -> bool:
    """Hold calls until the given number of connections has been replaced; returns whether every sample came exactly once."""
    options = SimulatorOptions(keep_conversations=True, numbered_answers=True, pace=0)
    totals, seeds = _Totals(), itertools.count(first_seed)
    async with site(options) as running:
        pace = _Pace(calls_at_once)

        async def hold_calls() -> None:
            while totals.swaps < number:
                async with pace:
                    await _talk(running, next(seeds), totals, report)

        watching = asyncio.create_task(pace.watch())
        progress = asyncio.create_task(_report_progress(running, pace, totals, report))
        try:
            await asyncio.gather(*(hold_calls() for _ in range(calls_at_once)))
        finally:
            watching.cancel()
            progress.cancel()
        renewed = running.log("session.renewed")
        recovered = running.log("session.recovered")
    forced = sum(line["cause"] == "forced" for line in renewed)
    report(f"{len(renewed)} renewals, {forced} of them forced, {len(recovered)} recoveries at random moments")
    report(f"latest switch: {totals.latest:.1f} s after the end that the connection before had stated")
    report(f"{totals}; seeds {first_seed} to {next(seeds) - 1}")
    return not (totals.lost or totals.doubled or totals.ended)


class _Pace:
    """Holds as many calls as the machine bears: speech that is replayed later than it is said would never end.

    A context manager for one call, which waits for its turn. Another call may begin every two seconds, unless this process
    has been late since; then one less is held.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._bound = min(most, _FIRST_CALLS)
        self.calls = 0

    async def __aenter__(self) -> None:
        while self.calls >= self._bound:  # noqa: ASYNC110 - until others end
            await asyncio.sleep(0.1)
        self.calls += 1

    async def __aexit__(self, *_: object) -> None:
        self.calls -= 1

    async def watch(self) -> None:
        """Adjust the bound until cancelled."""
        while True:
            late, until = 0.0, time.monotonic() + _ADJUST_SECONDS
            while (now := time.monotonic()) < until:
                await asyncio.sleep(_LOOK_SECONDS)
                late = max(late, time.monotonic() - now - _LOOK_SECONDS)
            self._bound = max(1, self._bound - 1) if late > _LATE_SECONDS else min(self._most, self._bound + 1)


_FIRST_CALLS: Final = 4
_ADJUST_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 0.02
_LATE_SECONDS: Final = 0.15


async def _report_progress(running: Site, pace: _Pace, totals: _Totals, report: Report) -> None:
    began, relay_cpu, own_cpu = time.monotonic(), running.process.cpu_seconds(), time.process_time()
    while True:
        await asyncio.sleep(_PROGRESS_SECONDS)
        seconds = time.monotonic() - began
        relay = (running.process.cpu_seconds() - relay_cpu) / seconds
        own = (time.process_time() - own_cpu) / seconds
        rate = f"{totals.swaps / seconds:.1f} swaps a second in {pace.calls} calls"
        report(f"  {seconds / 60:.0f} min, {totals}; {rate}, cores: relay {relay:.2f}, callers {own:.2f}")


_PROGRESS_SECONDS: Final = 60.0
_CALL_SECONDS: Final = 20.0
_LOSSES: Final = (End.RESET, End.FIN, End.close(1001), End.close(1011), End.close(1012))


async def _talk(running: Site, seed: int, totals: _Totals, report: Report) -> None:
    rng, lane = random.Random(seed), new_lane()  # noqa: S311 - moments
    lag = rng.choice((0.0, 0.0, 100.0, 300.0))
    dials = [_random_dial(rng, lag, may_lose=at < _MAX_LOSSES) for at in range(20)]
    running.simulator.set_dials(*dials, lane=lane)
    caller = await Caller.connect(running, lane)
    ends_at, has_ended = time.monotonic() + _CALL_SECONDS, False
    try:
        await caller.configure(create_response=rng.random() < _SHARE_WITH_ANSWERS)
        while time.monotonic() < ends_at:
            await caller.be_silent(rng.uniform(0.3, 1.2))
            await caller.speak(rng.uniform(0.2, 2.0))
        for _ in range(_LAST_LOOKS):
            await caller.be_silent(0.5)
            if caller.count("input_audio_buffer.committed") >= len(caller.said) and caller.count(
                "conversation.item.added"
            ):
                break
        await caller.be_silent(0.5)
    except OSError:
        has_ended = True
    has_ended = has_ended or caller.close_code is not None
    upstreams = [record for record in caller.upstreams if record.messages_received]
    account = accounting.spoken(caller.said, upstreams, caller.items)
    totals.switched(upstreams)
    totals.add(account, len(switches_of(caller)), has_ended=has_ended)
    if not account.is_exact or has_ended:
        _report_failure(caller, seed, account, report)
        faults = [str(fault) for dial in dials for fault in dial.faults]
        report(f"    faults of dials 1 and 2: {', '.join(faults) or 'none'}; detection lags by {lag:.0f} ms")
    await caller.close()
    running.simulator.set_dials(lane=lane)
    connections = running.simulator.connections
    connections[:] = [record for record in connections if record.lane != lane]


def _report_failure(caller: Caller, seed: int, account: accounting.Account, report: Report) -> None:
    report(f"  seed {seed}: {account}; closed with {caller.close_code}; said {caller.said}")
    report(f"    again: python -m bench.continuity swaps --seed {seed} --swaps 1 --calls 1")
    for record in caller.upstreams:
        assert record.conversation is not None  # noqa: S101 - they are kept
        turns = [
            (turn.item_id[-5:], turn.item_id in caller.items, turn.how, turn.samples)
            for turn in record.conversation.turns
        ]
        report(f"    until {record.ended_by}: heard {record.conversation.heard}, turns {turns}")
    for line in caller.site.log("session.not_recovered", "session.not_renewable")[-3:]:
        report(f"    {line}")


_LAST_LOOKS: Final = 120
_MAX_LOSSES: Final = 2
_SHARE_WITH_ANSWERS: Final = 0.6
_SHARE_LOST: Final = 0.5
_GRACE_SECONDS: Final = 60.0  # of the end of a connection, after the time that it states


def _random_dial(rng: random.Random, lag: float, *, may_lose: bool) -> Behaviour:
    faults: tuple[Fault, ...] = ()
    if may_lose and rng.random() < _SHARE_LOST:
        faults = (Fault(Moment.TIME, rng.choice(_LOSSES), seconds=rng.uniform(0.3, 5.0)),)
    life = rng.uniform(4.0, 8.0)
    return Behaviour(expires_at=life, session_seconds=life + _GRACE_SECONDS, vad_lag_ms=lag, faults=faults)
