"""What continuity adds to the CPU time of a message: in one relay, sessions without and with it carry the load in turn.

Two processes of the same tree differ by up to 13 %, more than what is measured; two halves of the sessions of one do not.
"""

import asyncio
import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.contenders import RENEW, UpstreamSite
from bench.endpoints import Endpoint
from bench.load import SendClock, SessionGroup, Upstream
from bench.matrix import start
from bench.process import Process

_MODES: Final = ("off", "renew")
_WINDOW_SECONDS: Final = 4.0
_SETTLE_SECONDS: Final = 0.3
_WARM_UPS: Final = 2


@dataclasses.dataclass(frozen=True, slots=True)
class _Half:
    """Half of the sessions: their ends, and what sends for them."""

    ends: list[Endpoint]
    clock: SendClock

    @property
    def received(self) -> int:
        """The messages that they have received so far."""
        return sum(end.incoming.received for end in self.ends if end.incoming is not None)

    async def microseconds(self, process: Process) -> float:
        """Carry the load for a window; returns the relay's CPU time for each message."""
        self.clock.start()
        await asyncio.sleep(_SETTLE_SECONDS)
        received, cpu = self.received, process.cpu_seconds()
        await asyncio.sleep(_WINDOW_SECONDS)
        received, cpu = self.received - received, process.cpu_seconds() - cpu
        self.clock.stop()
        await asyncio.sleep(_SETTLE_SECONDS)
        return 1e6 * cpu / received


async def measure_cost(sessions: int, rounds: int, report: Callable[[str], None]) -> bool:
    """Measure with `sessions` of each mode; False if a message was lost, reordered or changed."""
    with tempfile.TemporaryDirectory(prefix="realtime-relay-bench-") as scratch:
        upstream = Upstream()
        await upstream.start(None)
        contender = await start(RENEW, UpstreamSite(Path(scratch), upstream.port, None), upstream)
        process = contender.process
        assert process is not None  # noqa: S101 - the relay is a process
        group = SessionGroup(contender, upstream)
        try:
            halves = await _open(group, upstream, sessions)
            for half in halves * _WARM_UPS:
                await half.microseconds(process)
            pairs = [await _pair(halves, process, is_turned=bool(at % 2)) for at in range(rounds)]
            await group.drain(10)
            verdict = group.verdict()
        finally:
            await group.close()
            await process.stop()
            upstream.stop()
    ratios = sorted(renew / off for off, renew in pairs)
    off, renew = (statistics.median(column) for column in zip(*pairs, strict=True))
    report(
        f"CPU time of a message, {sessions} sessions of each mode in one relay, {rounds} pairs of windows: "
        f"{off:.1f} us off, {renew:.1f} us renew; ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
    )
    if not verdict.is_clean:
        report(f"{verdict.lost} messages lost, {verdict.disordered} out of order, {verdict.changed} chains differ")
    return verdict.is_clean


async def _open(group: SessionGroup, upstream: Upstream, sessions: int) -> list[_Half]:
    api = upstream.api
    for mode in _MODES:
        upstream.api = dataclasses.replace(api, path=f"{api.path}&continuity={mode}")
        await group.open(sessions, concurrency=4)
    pairs = group.pairs()
    halves = []
    for first in (0, sessions):
        others = frozenset(range(2 * sessions)) - frozenset(range(first, first + sessions))
        ends: list[Endpoint] = [end for pair in pairs[first : first + sessions] for end in pair if end is not None]
        halves.append(_Half(ends, SendClock.of_sessions(group, api.messages_per_second, leaving_out=others)))
    return halves


async def _pair(halves: list[_Half], process: Process, *, is_turned: bool) -> tuple[float, float]:
    """One window of each half, in one order or the other; returns those of off and renew."""
    first, second = [await half.microseconds(process) for half in (halves[::-1] if is_turned else halves)]
    return (second, first) if is_turned else (first, second)
