"""Renewals and losses at random moments of calls in which both sides talk, and what became of each spoken sample."""

import asyncio
import random
import time
from collections.abc import Callable
from itertools import count
from typing import Final

from bench.callers import Caller, Site, new_lane, site, switches_of
from service.simulator import Behaviour, End, Fault, Moment, SimulatorOptions
from tests.e2e.continuity_clients import accounting

Report = Callable[[str], None]


async def measure_swaps(number: int, first_seed: int, report: Report) -> bool:
    """Hold calls until the given number of connections has been replaced; returns whether every sample came exactly once."""
    options = SimulatorOptions(keep_conversations=True, numbered_answers=True, pace=0)
    said = lost = doubled = swaps = ended = calls = 0
    began, seeds = time.monotonic(), count(first_seed)
    async with site(options) as running:
        while swaps < number:
            results = await asyncio.gather(*(_talk(running, next(seeds), report) for _ in range(_CALLS_AT_ONCE)))
            for account, switched, has_ended in results:
                calls, said, lost, doubled = (
                    calls + 1,
                    said + account.expected,
                    lost + account.lost,
                    doubled + account.doubled,
                )
                swaps, ended = swaps + switched, ended + has_ended
            del running.simulator.connections[:]
            report(
                f"  {swaps} swaps in {calls} calls, {time.monotonic() - began:.0f} s: {lost} samples lost, {doubled} doubled"
            )
        renewed = running.log("session.renewed")
        recovered = running.log("session.recovered")
    forced = sum(line["cause"] == "forced" for line in renewed)
    report(
        f"{swaps} swaps at random moments ({len(renewed)} renewals, {forced} of them forced, {len(recovered)} recoveries): "
        f"{said} samples spoken, {lost} lost, {doubled} doubled; {ended} of {calls} calls ended"
    )
    return not (lost or doubled or ended)


_CALLS_AT_ONCE: Final = 30
_CALL_SECONDS: Final = 20.0
_LOSSES: Final = (End.RESET, End.FIN, End.close(1001), End.close(1011), End.close(1012))


async def _talk(running: Site, seed: int, report: Report) -> tuple[accounting.Account, int, bool]:
    rng, lane = random.Random(seed), new_lane()  # noqa: S311 - moments
    lag = rng.choice((0.0, 0.0, 100.0, 300.0))
    dials = [_random_dial(rng, lag, may_lose=at < _MAX_LOSSES) for at in range(20)]
    running.simulator.set_dials(*dials, lane=lane)
    caller = await Caller.connect(running, lane)
    await caller.configure(create_response=rng.random() < _SHARE_WITH_ANSWERS)
    ends_at, has_ended = time.monotonic() + _CALL_SECONDS, False
    try:
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
    upstreams = [record for record in caller.upstreams if record.messages_received]
    account = accounting.spoken(caller.said, upstreams, caller.items)
    if not account.is_exact or has_ended:
        report(
            f"  seed {seed}: {account}; closed with {caller.close_code}; said {caller.said}; detection lags by {lag} ms"
        )
        for record in upstreams:
            assert record.conversation is not None  # noqa: S101 - they are kept
            turns = [
                (turn.item_id[-5:], turn.item_id in caller.items, turn.how, turn.samples)
                for turn in record.conversation.turns
            ]
            report(f"    until {record.ended_by}: heard {record.conversation.heard}, turns {turns}")
    await caller.close()
    return account, len(switches_of(caller)), has_ended


_LAST_LOOKS: Final = 20
_MAX_LOSSES: Final = 2
_SHARE_WITH_ANSWERS: Final = 0.6
_SHARE_LOST: Final = 0.5


def _random_dial(rng: random.Random, lag: float, *, may_lose: bool) -> Behaviour:
    faults: tuple[Fault, ...] = ()
    if may_lose and rng.random() < _SHARE_LOST:
        faults = (Fault(Moment.TIME, rng.choice(_LOSSES), seconds=rng.uniform(0.3, 5.0)),)
    return Behaviour(session_seconds=rng.uniform(4.0, 8.0), vad_lag_ms=lag, faults=faults)
