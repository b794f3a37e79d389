"""A long measurement: many calls beside a mixed attack, with the relay in a cgroup of production's size."""

import asyncio
import gc
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from bench.load import SessionGroup
from bench.soak import slope_per_minute
from chaos.attacks import ADMITTED, WITHOUT_TOKEN
from chaos.calls import CallClock, EchoUpstream, Observer, call_group
from chaos.measure import attackers, drain, result
from chaos.relay import MemoryCgroup, Relay, start_relay
from chaos.verdict import P99_MS, Measurement, broken_bounds, judges_times

_CONNECTIONS_WITHOUT_TOKEN: Final = 100
_CALLS_AT_ONCE: Final = 20
_CONTROL_SECONDS: Final = 10.0
_SAMPLE_SECONDS: Final = 5.0
_BIN_MS: Final = 0.1
_STEADY_AFTER: Final = 0.2
"""Memory is compared from this share of the time on: allocators and caches fill before."""
_MAX_GROWTH_MB: Final = 20.0


@dataclass(frozen=True, slots=True)
class Endurance:
    """What to run. `admitted` is the number of hostile clients with a token; 0 attacks without a token."""

    minutes: float
    calls: int
    messages_per_second: float
    memory_mib: int
    admitted: int
    tree: Path


@dataclass(slots=True)
class Histogram:
    """A histogram: half an hour of 200 calls has nine million round trips."""

    counts: Counter[int] = field(default_factory=Counter)
    worst_ms: float = 0.0

    def add(self, times: Iterable[float]) -> None:
        """Count round trips."""
        for milliseconds in times:
            self.counts[int(milliseconds / _BIN_MS)] += 1
            self.worst_ms = max(self.worst_ms, milliseconds)

    def percentile(self, share: float) -> float:
        """In milliseconds, to a tenth."""
        left = self.counts.total() * share
        for number in sorted(self.counts):
            left -= self.counts[number]
            if left <= 0:
                return (number + 1) * _BIN_MS
        return float("nan")


def attack_words(admitted: int) -> list[str]:
    """The attacks of a mixed attack, each with its number of connections."""
    names: Sequence[str] = ADMITTED if admitted else WITHOUT_TOKEN
    total = admitted or _CONNECTIONS_WITHOUT_TOKEN
    shares = [(name, total // len(names) + (at < total % len(names))) for at, name in enumerate(names)]
    return [f"{name}={connections}" for name, connections in shares if connections]


async def endure(plan: Endurance, report: Callable[[str], None]) -> list[str]:
    """Run it; returns the broken bounds."""
    gc.disable()
    cgroup = MemoryCgroup(plan.memory_mib) if plan.memory_mib else None
    if cgroup is not None and cgroup.problem:
        report(f"{cgroup.problem}; the relay's memory is only watched")
    upstream = EchoUpstream()
    await upstream.start()
    try:
        with tempfile.TemporaryDirectory(prefix="realtime-relay-chaos-") as scratch:
            relay = await start_relay(
                Path(scratch), upstream.port, tree=plan.tree, cgroup=cgroup if cgroup and not cgroup.problem else None
            )
            try:
                return await _run(plan, relay, upstream, report, cgroup)
            finally:
                await relay.process.stop()
                report(f"sessions by reason of their end: {relay.ended_sessions()}")
    finally:
        upstream.stop()
        if cgroup is not None:
            cgroup.remove()


async def _run(
    plan: Endurance,
    relay: Relay,
    upstream: EchoUpstream,
    report: Callable[[str], None],
    cgroup: MemoryCgroup | None,
) -> list[str]:
    observer = Observer(relay, upstream.own_wait)
    group = call_group(relay, upstream, observer.round_trips)
    try:
        await group.open(plan.calls, concurrency=_CALLS_AT_ONCE)
        clock = CallClock(group.clients, plan.messages_per_second, upstream.own_wait)
        clock.start()
        control = await _control(observer, group)
        report(f"control: p99 {control.p99_ms:.1f} ms, /livez {control.livez_ms:.1f} ms, RSS {relay.rss_mb():.1f} MB")
        if control.p99_ms > P99_MS:
            report(
                "the calls are slower than the bound without an attack: lower --rate or --calls, or use an idle machine"
            )
        words = attack_words(plan.admitted)
        report(f"attacks: {' '.join(words)}")
        round_trips = Histogram()
        observer.start()
        async with attackers(relay, words) as attacked:
            cpu, started = relay.process.cpu_seconds(), time.perf_counter()
            memory = await _watch(plan.minutes, group, observer, round_trips, report)
            cpu_share = (relay.process.cpu_seconds() - cpu) / (time.perf_counter() - started)
        clock.stop()
        await observer.stop()
        await drain(group)
        round_trips.add(observer.round_trips.net)
        measured = result(group, observer, growth_mb=_growth(memory), cpu_share=cpu_share, attackers=" ".join(attacked))
        measured = replace(
            measured,
            p99_ms=round_trips.percentile(0.99),
            worst_ms=round_trips.worst_ms,
            messages=round_trips.counts.total(),
        )
        _report_end(measured, group, memory, cgroup, report)
        return broken_bounds(measured, control, growth_mb=_MAX_GROWTH_MB)
    finally:
        await group.close()
        observer.close()


async def _control(observer: Observer, group: SessionGroup) -> Measurement:
    await asyncio.sleep(1)
    observer.round_trips.clear()
    observer.start()
    await asyncio.sleep(_CONTROL_SECONDS)
    await observer.stop()
    measured = result(group, observer, growth_mb=0, cpu_share=0)
    observer.clear()
    return measured


async def _watch(
    minutes: float, group: SessionGroup, observer: Observer, round_trips: Histogram, report: Callable[[str], None]
) -> list[tuple[float, float]]:
    """Report each minute; returns the resident memory over time."""
    relay = observer.relay
    memory: list[tuple[float, float]] = []
    started, minute, this_minute, probed = time.perf_counter(), 1, Histogram(), 0
    while (passed := time.perf_counter() - started) < minutes * 60 and not relay.has_ended:
        await asyncio.sleep(_SAMPLE_SECONDS)
        memory.append((passed, relay.rss_mb()))
        taken = array("d", observer.round_trips.net)
        observer.round_trips.clear()
        this_minute.add(taken)
        round_trips.add(taken)
        if passed >= 60 * minute:
            report(
                f"{minute:3} min: RSS {memory[-1][1]:.1f} MB, p99 {this_minute.percentile(0.99):.1f} ms, worst "
                f"{this_minute.worst_ms:.0f} ms, /livez {max(observer.livez.net[probed:], default=0):.0f} ms, "
                f"{sum(client.transport is None for client in group.clients)} calls lost, "
                f"{len(observer.refused)} new calls or probes refused"
            )
            this_minute, probed = Histogram(), len(observer.livez.net)
            minute += 1
            gc.collect()
    return memory


def _growth(memory: Sequence[tuple[float, float]]) -> float:
    """How much the memory grows in the steady part, by its slope."""
    steady = memory[round(len(memory) * _STEADY_AFTER) :]
    return slope_per_minute(steady) * (steady[-1][0] - steady[0][0]) / 60 if len(steady) > 1 else 0.0


def _report_end(
    measured: Measurement,
    group: SessionGroup,
    memory: Sequence[tuple[float, float]],
    cgroup: MemoryCgroup | None,
    report: Callable[[str], None],
) -> None:
    rss = [megabytes for _, megabytes in memory] or [0.0]
    if not judges_times(measured):
        report(f"no times are judged: this process waited for a core for {measured.own_wait_share:.0%} of the time")
    report(f"attackers: {measured.attackers}")
    report(
        f"RSS {rss[0]:.1f} MB at first, {rss[-1]:.1f} at the end, {max(rss):.1f} at most; "
        f"growth after the first fifth {measured.growth_mb:+.1f} MB; CPU {measured.cpu_share:.0%}"
    )
    if cgroup is not None and not cgroup.problem:
        report(f"killed for memory: {cgroup.killed()}")
    report(
        f"round trips: {measured.messages}, p99 {measured.p99_ms:.1f} ms, worst {measured.worst_ms:.0f} ms; /livez at most "
        f"{measured.livez_ms:.0f} ms; {measured.new_calls} new calls, slowest {measured.new_call_ms:.0f} ms"
    )
    report(f"{group.sent} messages sent: {measured.lost} lost, reordered or changed; {measured.lost_calls} calls lost")


def print_line(line: str) -> None:
    """To standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
