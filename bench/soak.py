"""`make bench ARGS=soak`: the relay alone, for a long time or with many sessions: what is lost, and what grows.

`--sessions 2000 --minutes 10 --cadence 0.1` sends in 2,000 sessions at a tenth of the rate of speech; `--idle 9000` keeps
sessions silent for a minute and then sends a message through each, in both directions. `--messages 10000000 --minutes 90`
sends that number of messages of mixed sizes, whole, cut and joined, as fast as the relay forwards them, within that time.
"""

import argparse
import asyncio
import gc
import importlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.contenders import Contender, UpstreamSite
from bench.endurance import Endurance
from bench.load import SendClock, SessionGroup, Upstream, Verdict
from bench.machine import prepare
from bench.matrix import certificate, start
from bench.measure import MESSAGES_PER_SECOND, percentiles, scrape
from bench.process import Process

_SESSIONS: Final = 2000
_ENDURANCE_SESSIONS: Final = 50
_CONCURRENCY: Final = 20  # concurrent dials; the relay allows 100
_SAMPLE_SECONDS: Final = 2.0
_WARM_UP_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 60.0
_BATCH: Final = 50
_SCRAPES: Final = 200


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory and open files of the relay at one moment."""

    seconds: float
    rss_kb: int
    open_files: int


def slope_per_minute(points: Sequence[tuple[float, float]]) -> float:
    """Least squares over (seconds, value); 0 for fewer than two points."""
    count = len(points)
    if count < 2:  # noqa: PLR2004 - no line through one point
        return 0.0
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return 60 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def run_load(contender: Contender, process: Process, upstream: Upstream, options: argparse.Namespace) -> Verdict:
    """Send in all sessions for minutes; prints the growth, returns the verdict."""
    before = process.memory()
    group = SessionGroup(contender, upstream)
    try:
        await group.open(options.sessions, concurrency=_CONCURRENCY)
        _print(f"{options.sessions} sessions are open; {_per_session(process, before.rss, options.sessions)}")
        clock = SendClock.of_sessions(group, MESSAGES_PER_SECOND * options.cadence)
        _print(f"{clock.rate:.0f} messages/s for {options.minutes:g} minutes")
        clock.start()
        samples = await _sample(process, group, options.minutes * 60)
        clock.stop()
        await group.drain(20)
        verdict, sent = group.verdict(), group.sent
    finally:
        await group.close()
    warm = [s for s in samples if s.seconds >= min(_WARM_UP_SECONDS, options.minutes * 20)]
    _print(f"RSS {slope_per_minute([(s.seconds, s.rss_kb) for s in warm]):+.1f} kB per minute, of {warm[-1].rss_kb} kB")
    _print(
        f"open files {slope_per_minute([(s.seconds, s.open_files) for s in warm]):+.2f} per minute, of {warm[-1].open_files}"
    )
    _print(
        f"{sent} messages sent: {verdict.lost} lost, {verdict.disordered} out of order, {verdict.changed} chains differ"
    )
    return verdict


async def _sample(process: Process, group: SessionGroup, seconds: float) -> list[Sample]:
    samples: list[Sample] = []
    started, minute = time.perf_counter(), 1
    while (passed := time.perf_counter() - started) < seconds:
        samples.append(Sample(passed, process.memory().rss, process.open_files()))
        if passed >= 60 * minute or passed + _SAMPLE_SECONDS >= seconds:
            late = percentiles([*group.up_latencies, *group.down_latencies])
            del group.up_latencies[:], group.down_latencies[:]
            _print(
                f"{passed / 60:5.1f} min: RSS {samples[-1].rss_kb} kB, {samples[-1].open_files} open files, "
                f"p50 {late['p50']:.0f} us, p99 {late['p99']:.0f} us, longest {late['max'] / 1000:.0f} ms"
            )
            minute += 1
            gc.collect()
        await asyncio.sleep(min(_SAMPLE_SECONDS, seconds))
    return samples


async def hold_idle(contender: Contender, process: Process, upstream: Upstream, sessions: int) -> Verdict:
    """Keep sessions silent for a minute, then send one message in each direction."""
    before = process.memory()
    group = SessionGroup(contender, upstream)
    try:
        started = time.perf_counter()
        await group.open(sessions, concurrency=_CONCURRENCY)
        _print(
            f"{sessions} sessions opened in {time.perf_counter() - started:.1f} s; {process.open_files()} open files"
        )
        cpu, started = process.cpu_seconds(), time.perf_counter()
        await asyncio.sleep(_IDLE_SECONDS)
        share = (process.cpu_seconds() - cpu) / (time.perf_counter() - started)
        _print(
            f"after {_IDLE_SECONDS:.0f} s idle: {_per_session(process, before.rss, sessions)}; {share:.1%} of a core"
        )
        await _scrape(contender, process)
        del group.up_latencies[:], group.down_latencies[:]
        for at, (client, provider) in enumerate(group.pairs()):
            client.send()
            if provider is not None:
                provider.send()
            if at % _BATCH == 0:
                await asyncio.sleep(0.01)
        await group.drain(20)
        verdict = group.verdict()
        late = percentiles([*group.up_latencies, *group.down_latencies])
        count = len(group.up_latencies) + len(group.down_latencies)
        _print(f"{count} of {2 * sessions} messages arrived, p50 {late['p50']:.0f} us, p99 {late['p99']:.0f} us")
        _print(f"{verdict.lost} lost, {verdict.disordered} out of order, {verdict.changed} chains differ")
    finally:
        await group.close()
    return verdict if count == 2 * sessions else Verdict(lost=2 * sessions - count)


async def _scrape(contender: Contender, process: Process) -> None:
    """Scrape many times as Prometheus does; prints the CPU time of a scrape."""
    assert contender.scrape_port is not None  # noqa: S101 - the relay serves metrics
    cpu = process.cpu_seconds()
    for _ in range(_SCRAPES):
        size = await scrape(contender.scrape_port)
    each = (process.cpu_seconds() - cpu) / _SCRAPES
    _print(f"a scrape: {size} bytes, {1000 * each:.1f} ms of CPU time (mean of {_SCRAPES})")


def _per_session(process: Process, before_kb: int, sessions: int) -> str:
    now = process.memory().rss
    return f"RSS {now} kB, {(now - before_kb) / sessions:.1f} kB per session"


async def soak(options: argparse.Namespace) -> Verdict:
    """Start the relay, run the load, stop the relay."""
    gc.disable()
    with tempfile.TemporaryDirectory(prefix="realtime-relay-soak-") as scratch:
        folder = Path(scratch)
        context, bundle = certificate(folder) if options.upstream == "tls" else (None, None)
        upstream = Upstream()
        await upstream.start(context)
        contender = await start("relay", UpstreamSite(folder, upstream.port, bundle), upstream)
        process = contender.process
        assert process is not None  # noqa: S101 - the relay is a process
        try:
            if options.messages:
                return await Endurance(contender, process, upstream, options, _print).run()
            if options.idle:
                return await hold_idle(contender, process, upstream, options.idle)
            return await run_load(contender, process, upstream, options)
        finally:
            await process.stop()
            upstream.stop()


def main(words: Sequence[str]) -> int:
    """Run the soak test; returns 1 if a message was lost, reordered or changed."""
    parser = argparse.ArgumentParser(prog="python -m bench soak", description="Loads the relay for a long time.")
    parser.add_argument("--sessions", type=int, help="2000; with --messages 50")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument(
        "--cadence", type=float, default=0.1, help="1 is the rate of speech, 25 messages/s in each direction"
    )
    parser.add_argument("--idle", type=int, default=0, help="keep this many silent sessions instead")
    parser.add_argument(
        "--messages",
        type=int,
        default=0,
        help="send this many messages of mixed sizes instead, for at most these minutes",
    )
    parser.add_argument("--upstream", choices=("plain", "tls"), default="plain")
    options = parser.parse_args(words)
    options.sessions = options.sessions or (_ENDURANCE_SESSIONS if options.messages else _SESSIONS)
    prepare()
    verdict = importlib.import_module("uvloop").run(soak(options))
    return 0 if verdict.is_clean else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
