"""One measurement: a contender, a number of sessions, some seconds of speech in both directions."""

import asyncio
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.apis import REALTIME
from bench.contenders import Contender, ContenderUnavailable
from bench.endpoints import Refused
from bench.load import SendClock, SessionGroup, Upstream
from bench.messages import DOWN, UP, large_templates
from bench.network import WHOLE, Shape
from bench.process import CONTENDER_CORE, core_seconds

MESSAGES_PER_SECOND: Final = REALTIME.messages_per_second
BYSTANDERS: Final = 20
_LONGEST_WARM_UP_SECONDS: Final = 1.0
_STALL_WARM_UP_SECONDS: Final = 0.5
_DRAIN_SECONDS: Final = 20.0
_MICROSECONDS: Final = 1e6


@dataclass(frozen=True, slots=True)
class Plan:
    """Sessions, duration and shape of one measurement."""

    sessions: int
    seconds: float
    shape: Shape = WHOLE


def percentiles(nanoseconds: Sequence[int]) -> dict[str, float]:
    """Median, 99th percentile and largest, in microseconds."""
    if not nanoseconds:
        return {"p50": 0.0, "p99": 0.0, "max": 0.0}
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    return {name: ordered[round(last * share)] / 1000 for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}


async def wait_until_ready(contender: Contender, upstream: Upstream, *, seconds: float) -> None:
    """Wait until a session opens; raises ContenderUnavailable with the end of the contender's log."""
    deadline = time.perf_counter() + seconds
    while True:
        group = SessionGroup(contender, upstream)
        error: BaseException | None = None
        try:
            await group.open(1)
        except* (OSError, Refused, TimeoutError) as raised:
            error = raised.exceptions[0]
        await group.close()
        if error is None:
            return
        process = contender.process
        if (process is not None and process.has_ended) or time.perf_counter() > deadline:
            log = process.log_tail() if process else ""
            raise ContenderUnavailable(f"{contender.name} does not answer: {error}\n{log}")
        await asyncio.sleep(0.2)


async def measure(contender: Contender, upstream: Upstream, plan: Plan) -> dict[str, Any]:
    """Open the sessions, measure them idle, then under load, and compare both endpoints."""
    process, api = contender.process, upstream.api
    before = process.memory() if process else None
    group = SessionGroup(contender, upstream)
    try:
        await group.open(plan.sessions)
        await asyncio.sleep(0.5)
        idle = process.memory() if process else None
        clocks = [SendClock.of_sessions(group, api.messages_per_second, shape=plan.shape)]
        clocks += [SendClock.of_upstream(group, api.further_per_second)] if api.further else []
        for clock in clocks:
            clock.start()
        await asyncio.sleep(min(_LONGEST_WARM_UP_SECONDS, plan.seconds / 2))
        row = await _window(contender, group, plan.seconds)
        busy = process.memory() if process else None
        for clock in clocks:
            clock.stop()
        await group.drain(_DRAIN_SECONDS)
        row["verdict"] = group.verdict().as_dict()
    finally:
        await group.close()
    row["intended_per_second"] = sum(clock.rate for clock in clocks)
    row["connect"] = percentiles([round(s * 1e9) for s in group.connect_seconds])
    if before and idle and busy:
        row["memory_kb"] = {"before": asdict(before), "idle": asdict(idle), "busy": asdict(busy)}
    return row


async def _window(contender: Contender, group: SessionGroup, seconds: float) -> dict[str, Any]:
    process = contender.process
    del group.up_latencies[:], group.down_latencies[:]
    received, sent = group.received, group.sent
    core, stolen = core_seconds(CONTENDER_CORE)
    cpu, own, started = process.cpu_seconds() if process else 0.0, time.process_time(), time.perf_counter()
    await asyncio.sleep(seconds / 2)
    if contender.scrape_port is not None:
        await scrape(contender.scrape_port)
    await asyncio.sleep(max(0.0, seconds / 2 - (time.perf_counter() - started - seconds / 2)))
    took = time.perf_counter() - started
    cpu = (process.cpu_seconds() if process else 0.0) - cpu
    own = time.process_time() - own
    core_after, stolen_after = core_seconds(CONTENDER_CORE)
    passed = group.received - received
    up, down = array("q", group.up_latencies), array("q", group.down_latencies)
    return {
        "messages": passed,
        "passed_per_second": passed / took,
        "sent_per_second": (group.sent - sent) / took,
        "cpu_us_per_message": cpu * _MICROSECONDS / passed if process and passed else None,
        "cpu_share": cpu / took,
        "generator_share": own / took,
        "others_share": max(0.0, core_after - core - cpu) / took,  # used by other programs on the contender's core
        "stolen_share": (stolen_after - stolen) / took,
        "up_us": percentiles(up),
        "down_us": percentiles(down),
    }


async def scrape(port: int) -> int:
    """Read the metrics as Prometheus does; returns the size of the response in bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    size = len(await reader.read(-1))
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return size


async def measure_stall(contender: Contender, upstream: Upstream) -> dict[str, Any]:
    """Latency of other sessions while one session sends 15 MiB and another receives 15 MiB."""
    large_up, large_down = large_templates()
    group = SessionGroup(contender, upstream)
    try:
        await group.open(BYSTANDERS + 2)
        (client, its_upstream), (its_client, provider) = group.pairs()[:2]
        assert provider is not None  # noqa: S101 - known since the first message
        large: array[int] = array("q")
        for end in (its_upstream, its_client):
            if end is not None and end.incoming is not None:
                end.incoming.latencies = large
        clock = SendClock.of_sessions(group, MESSAGES_PER_SECOND, leaving_out=frozenset({0, 1}))
        clock.start()
        await asyncio.sleep(_STALL_WARM_UP_SECONDS)
        usual = percentiles([*group.up_latencies, *group.down_latencies])
        del group.up_latencies[:], group.down_latencies[:]
        started = time.perf_counter()
        await asyncio.gather(client.send_large(large_up, UP), provider.send_large(large_down, DOWN))
        while time.perf_counter() - started < _DRAIN_SECONDS:
            await asyncio.sleep(0.005)
            if len(large) == 2:  # noqa: PLR2004 - one each way
                break
        await asyncio.sleep(0.1)  # for messages that were delayed behind them
        clock.stop()
        await group.drain(_DRAIN_SECONDS)
        others = percentiles([*group.up_latencies, *group.down_latencies])
        verdict = group.verdict()
    finally:
        await group.close()
    return {
        "usual_us": usual,
        "others_us": others,
        "large_us": max(large, default=0) / 1000,
        "verdict": verdict.as_dict(),
    }
