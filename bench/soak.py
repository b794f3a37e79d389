"""`python -m bench.soak`: the relay alone, for long or with many; whether anything is lost, and whether anything grows.

`--sessions 2000 --minutes 10 --cadence 0.1` speaks in 2,000 sessions at a tenth of the pace of speech; `--idle 9000` holds
silent sessions for a minute and then sends a message through each, both ways.
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

from bench.contenders import Contender, Site
from bench.load import Fleet, Ticker, Upstream, Verdict
from bench.machine import prepare
from bench.matrix import certificate, start
from bench.measure import MESSAGES_PER_SECOND, percentiles, scrape
from bench.process import Process

_AT_ONCE: Final = 20  # dials under way; the relay allows 100
_SAMPLE_SECONDS: Final = 2.0
_WARM_UP_SECONDS: Final = 60.0
_IDLE_SECONDS: Final = 60.0
_BATCH: Final = 50
_SCRAPES: Final = 200


@dataclass(frozen=True, slots=True)
class Sample:
    """What the relay's process held at a moment."""

    seconds: float
    rss_kb: int
    open_files: int


def slope_per_minute(points: Sequence[tuple[float, float]]) -> float:
    """Least squares over (seconds, value); 0 for fewer than two moments."""
    count = len(points)
    if count < 2:  # noqa: PLR2004 - no line through one point
        return 0.0
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return 60 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def speak(contender: Contender, process: Process, upstream: Upstream, options: argparse.Namespace) -> Verdict:
    """Sessions that speak for minutes; prints what grows, returns what was lost."""
    before = process.memory()
    fleet = Fleet(contender, upstream)
    try:
        await fleet.open(options.sessions, at_once=_AT_ONCE)
        _say(f"{options.sessions} sessions are open; {_per_session(process, before.rss, options.sessions)}")
        ticker = Ticker(fleet, MESSAGES_PER_SECOND * options.cadence)
        _say(f"{ticker.rate:.0f} messages/s for {options.minutes:g} minutes")
        ticker.start()
        samples = await _sample(process, fleet, options.minutes * 60)
        ticker.stop()
        await fleet.drain(20)
        verdict, sent = fleet.verdict(), fleet.sent
    finally:
        await fleet.close()
    warm = [s for s in samples if s.seconds >= min(_WARM_UP_SECONDS, options.minutes * 20)]
    _say(f"RSS {slope_per_minute([(s.seconds, s.rss_kb) for s in warm]):+.1f} kB per minute, of {warm[-1].rss_kb} kB")
    _say(
        f"open files {slope_per_minute([(s.seconds, s.open_files) for s in warm]):+.2f} per minute, of {warm[-1].open_files}"
    )
    _say(
        f"{sent} messages sent: {verdict.lost} lost, {verdict.disordered} out of order, {verdict.changed} chains differ"
    )
    return verdict


async def _sample(process: Process, fleet: Fleet, seconds: float) -> list[Sample]:
    samples: list[Sample] = []
    started, minute = time.perf_counter(), 1
    while (passed := time.perf_counter() - started) < seconds:
        samples.append(Sample(passed, process.memory().rss, process.open_files()))
        if passed >= 60 * minute or passed + _SAMPLE_SECONDS >= seconds:
            late = percentiles([*fleet.up_latencies, *fleet.down_latencies])
            del fleet.up_latencies[:], fleet.down_latencies[:]
            _say(
                f"{passed / 60:5.1f} min: RSS {samples[-1].rss_kb} kB, {samples[-1].open_files} open files, "
                f"p50 {late['p50']:.0f} us, p99 {late['p99']:.0f} us, longest {late['max'] / 1000:.0f} ms"
            )
            minute += 1
            gc.collect()
        await asyncio.sleep(min(_SAMPLE_SECONDS, seconds))
    return samples


async def hold(contender: Contender, process: Process, upstream: Upstream, sessions: int) -> Verdict:
    """Sessions that say nothing for a minute, then one message each way."""
    before = process.memory()
    fleet = Fleet(contender, upstream)
    try:
        started = time.perf_counter()
        await fleet.open(sessions, at_once=_AT_ONCE)
        _say(f"{sessions} sessions opened in {time.perf_counter() - started:.1f} s; {process.open_files()} open files")
        cpu, started = process.cpu_seconds(), time.perf_counter()
        await asyncio.sleep(_IDLE_SECONDS)
        share = (process.cpu_seconds() - cpu) / (time.perf_counter() - started)
        _say(f"after {_IDLE_SECONDS:.0f} s idle: {_per_session(process, before.rss, sessions)}; {share:.1%} of a core")
        await _scrape(contender, process)
        del fleet.up_latencies[:], fleet.down_latencies[:]
        for at, (client, provider) in enumerate(fleet.pairs()):
            client.send()
            if provider is not None:
                provider.send()
            if at % _BATCH == 0:
                await asyncio.sleep(0.01)
        await fleet.drain(20)
        verdict = fleet.verdict()
        late = percentiles([*fleet.up_latencies, *fleet.down_latencies])
        count = len(fleet.up_latencies) + len(fleet.down_latencies)
        _say(
            f"one message each way: {count} of {2 * sessions} came, p50 {late['p50']:.0f} us, p99 {late['p99']:.0f} us"
        )
        _say(f"{verdict.lost} lost, {verdict.disordered} out of order, {verdict.changed} chains differ")
    finally:
        await fleet.close()
    return verdict if count == 2 * sessions else Verdict(lost=2 * sessions - count)


async def _scrape(contender: Contender, process: Process) -> None:
    """Scrape as Prometheus does, many times, and say what one costs the relay's processor: so long no frame goes on."""
    assert contender.scrape_port is not None  # noqa: S101 - the relay has one
    cpu = process.cpu_seconds()
    for _ in range(_SCRAPES):
        size = await scrape(contender.scrape_port)
    each = (process.cpu_seconds() - cpu) / _SCRAPES
    _say(f"a scrape: {size} bytes, {1000 * each:.1f} ms of processor time (mean of {_SCRAPES})")


def _per_session(process: Process, before_kb: int, sessions: int) -> str:
    now = process.memory().rss
    return f"RSS {now} kB, {(now - before_kb) / sessions:.1f} kB for each session"


async def soak(options: argparse.Namespace) -> Verdict:
    """Start the relay, do what was asked for, stop it."""
    gc.disable()
    with tempfile.TemporaryDirectory(prefix="realtime-relay-soak-") as scratch:
        folder = Path(scratch)
        context, bundle = certificate(folder) if options.upstream == "tls" else (None, None)
        upstream = Upstream()
        await upstream.start(context)
        contender = await start("relay", Site(folder, upstream.port, bundle), upstream)
        process = contender.process
        assert process is not None  # noqa: S101 - the relay is one
        try:
            if options.idle:
                return await hold(contender, process, upstream, options.idle)
            return await speak(contender, process, upstream, options)
        finally:
            await process.stop()
            upstream.stop()


def main() -> int:
    """1 if anything was lost, out of order or changed."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Holds the relay under load for long.")
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--cadence", type=float, default=0.1, help="1 is the pace of speech, 25 messages/s each way")
    parser.add_argument("--idle", type=int, default=0, help="hold so many silent sessions instead")
    parser.add_argument("--upstream", choices=("plain", "tls"), default="plain")
    options = parser.parse_args()
    prepare()
    verdict = importlib.import_module("uvloop").run(soak(options))
    return 0 if verdict.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
