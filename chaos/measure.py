"""One measurement: a relay, well-behaved calls through it, and an attack beside them."""

import asyncio
import gc
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.contenders import REPOSITORY
from bench.load import SessionGroup
from chaos.attacks import SUSPENDED, Attack, clients_file
from chaos.calls import MESSAGES_PER_SECOND, CallClock, EchoUpstream, Observer, call_group
from chaos.relay import Relay, start_relay
from chaos.verdict import Measurement, percentile

_CALLS_AT_ONCE: Final = 5
_WARM_UP_SECONDS: Final = 0.5
_SETTLE_SECONDS: Final = 0.3  # after the attackers have begun
_DRAINS: Final = 10
_DRAIN_SECONDS: Final = 6.0
_SUSPENDED_SECONDS: Final = 24.0
_IDLE_SECONDS: Final = 19.0  # before it: shortly before the relay pings its peers
_START_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Number of calls and duration of a measurement, and the working tree whose relay is measured."""

    calls: int
    seconds: float
    tree: Path = REPOSITORY


@asynccontextmanager
async def attackers(relay: Relay, words: Sequence[str]) -> AsyncIterator[list[str]]:
    """Run attacks in a process; after the end, the list holds what it reports."""
    report: list[str] = []
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "chaos.attacker", str(relay.port), str(relay.internal_port), *words),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    assert process.stdin is not None  # noqa: S101 - a pipe
    assert process.stdout is not None  # noqa: S101 - a pipe
    try:
        await asyncio.wait_for(process.stdout.readline(), _START_SECONDS)
        yield report
    finally:
        process.stdin.close()
        with suppress(TimeoutError):
            report.append((await asyncio.wait_for(process.stdout.read(), _STOP_SECONDS)).decode().strip())
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
        await process.wait()


@asynccontextmanager
async def running(attack: Attack | None, plan: Plan) -> AsyncIterator[tuple[Relay, EchoUpstream]]:
    """A new relay in front of a new upstream."""
    with tempfile.TemporaryDirectory(prefix="realtime-relay-chaos-") as scratch:
        upstream = EchoUpstream()
        await upstream.start()
        try:
            relay = await start_relay(
                Path(scratch),
                upstream.port,
                tree=plan.tree,
                settings=attack.settings if attack else None,
                open_files=attack.open_files if attack else None,
                clients=clients_file(attack.names) if attack and attack.is_reviewed else "",
            )
            try:
                yield relay, upstream
            finally:
                await relay.process.stop()
        finally:
            upstream.stop()


async def measure(attack: Attack | None, plan: Plan) -> Measurement:
    """Measure an attack; None is the control."""
    gc.collect()
    async with running(attack, plan) as (relay, upstream):
        observer = Observer(relay, upstream.own_wait)
        group = call_group(relay, upstream, observer.round_trips)
        try:
            await group.open(plan.calls, concurrency=_CALLS_AT_ONCE)
            return await _measure(attack, plan, observer, group)
        finally:
            await group.close()
            observer.close()


async def _measure(attack: Attack | None, plan: Plan, observer: Observer, group: SessionGroup) -> Measurement:
    relay = observer.relay
    clock = CallClock(group.clients, MESSAGES_PER_SECOND, observer.own_wait)
    clock.start()
    await asyncio.sleep(_WARM_UP_SECONDS)
    relay.reset_peak()
    before_mb = relay.rss_mb()
    if attack is SUSPENDED:
        clock.stop()
        await group.drain(_DRAIN_SECONDS)
        await asyncio.sleep(_IDLE_SECONDS)
        await _suspend(relay)
        clock.start()
    attacking = attackers(relay, [attack.name]) if attack and attack.program else nullcontext(list[str]())
    async with attacking as report:
        await asyncio.sleep(_SETTLE_SECONDS)
        observer.round_trips.clear()
        observer.start()
        cpu, started = relay.process.cpu_seconds(), time.perf_counter()
        await _watch(relay, plan.seconds)
        cpu_share = (relay.process.cpu_seconds() - cpu) / (time.perf_counter() - started)
        growth_mb = relay.peak_mb() - before_mb
    clock.stop()
    await observer.stop()
    await drain(group)
    return result(group, observer, growth_mb=growth_mb, cpu_share=max(0.0, cpu_share), attackers=" ".join(report))


async def _watch(relay: Relay, seconds: float) -> None:
    """Wait, unless the relay ends before."""
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline and not relay.has_ended:  # noqa: ASYNC110 - a process is polled
        await asyncio.sleep(min(0.1, seconds))


async def _suspend(relay: Relay) -> None:
    os.kill(relay.process.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(_SUSPENDED_SECONDS)
    finally:
        os.kill(relay.process.pid, signal.SIGCONT)
    await asyncio.sleep(1.0)  # the relay judges its peers


async def drain(group: SessionGroup) -> None:
    """Wait until every message has arrived, as long as a call is open."""
    for _ in range(_DRAINS):
        await group.drain(_DRAIN_SECONDS)
        if group.received >= group.sent or not any(client.transport for client in group.clients):
            return


def result(
    group: SessionGroup, observer: Observer, *, growth_mb: float, cpu_share: float, attackers: str = ""
) -> Measurement:
    """What clients and observer have met."""
    verdict = group.verdict()
    round_trips = observer.round_trips.net
    return Measurement(
        p99_ms=percentile(round_trips, 0.99),
        worst_ms=percentile(round_trips, 1),
        livez_ms=percentile(observer.livez.net, 1),
        growth_mb=growth_mb,
        cpu_share=cpu_share,
        messages=len(round_trips),
        lost=verdict.lost + verdict.disordered + verdict.changed,
        lost_calls=sum(client.transport is None for client in group.clients),
        new_calls=len(observer.new_calls.net),
        new_call_ms=percentile(observer.new_calls.net, 1),
        refused=tuple(observer.refused),
        own_wait_share=observer.own_wait_share(),
        own_p99_ms=percentile(observer.own_delays, 0.99),
        own_worst_ms=percentile(observer.own_delays, 1),
        measured_p99_ms=percentile(observer.round_trips.measured, 0.99),
        relay_ended=observer.relay.has_ended,
        attackers=attackers,
    )
