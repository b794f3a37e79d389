"""`make e2e-observability`: real relays, a real Prometheus, a real Alertmanager; every alert by its real cause.

Exit code 0 if every alert arrived and went, and every query has data; 1 if not; 3 if the programs cannot be had here.
"""

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from aiohttp import ClientSession, ClientTimeout

from monitoring.alerts import ALERTS
from tests.observability import causes, programs
from tests.observability.callers import call, calling, converse, path
from tests.observability.panels import faults_of_boards, faults_of_grafana, faults_of_records
from tests.observability.receiver import Missing, receiving
from tests.observability.stage import Stage
from tools.debian import PackageUnavailable

NOT_RUN: Final = 3
_MOST_SECONDS: Final = 280
_QUIET_SECONDS: Final = 8


def main() -> int:
    """Get the programs, run the trials, say what came out."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends this ends its children, too
    try:
        found = programs.obtain()
    except PackageUnavailable as exc:
        _say(f"NOT RUN: e2e-observability, since Prometheus and Alertmanager cannot be had on this machine: {exc}")
        return NOT_RUN
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="realtime-relay-observability-") as folder:
        faults = asyncio.run(_run(found, Path(folder)))
    for fault in faults:
        _say(f"FAILED {fault}")
    _say(f"{'FAILED' if faults else 'passed'} in {time.monotonic() - started:.0f} s")
    return 1 if faults else 0


async def _run(found: dict[str, Path], folder: Path) -> list[str]:
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(ClientSession(timeout=ClientTimeout(total=20)))
        receiver = await stack.enter_async_context(receiving())
        ports = [programs.free_port() for _ in programs.PACKAGES]
        stage = Stage(folder, receiver, f"http://127.0.0.1:{ports[0]}", session)
        causes.deploy(stage)
        try:
            async with asyncio.timeout(_MOST_SECONDS):
                await _start(stage, stack, found, ports)
                await _try_everything(stage)
        except (TimeoutError, Missing, AssertionError) as exc:
            stage.faults.append(str(exc) or f"not done within {_MOST_SECONDS} s")
        _show(stage)
        return stage.faults


async def _start(stage: Stage, stack: AsyncExitStack, found: dict[str, Path], ports: list[int]) -> None:
    relays = [relay for each in stage.deployments.values() for relay in each.relays]
    for each in stage.deployments.values():
        stack.push_async_callback(each.provider.stop)
        if each.job not in causes.LATE_PROVIDERS:
            await each.provider.behave()
    for relay in relays:
        stack.push_async_callback(relay.stop)
    await asyncio.gather(*(relay.start() for relay in relays if relay.name not in causes.LATE_RELAYS))
    targets = {job: [relay.target for relay in each.relays] for job, each in stage.deployments.items() if each.relays}
    programs.write_configuration(stage.folder, targets, ports[1], stage.receiver.url)
    commands = (programs.prometheus, programs.alertmanager)
    for name, port, command in reversed(list(zip(programs.PACKAGES, ports, commands, strict=True))):
        words, ready = command(found[name], stage.folder, port)
        await stack.enter_async_context(programs.running(words, ready, stage.folder / f"{name}.log"))


async def _try_everything(stage: Stage) -> None:
    started = time.time()
    steady = stage.deployments["steady"]
    async with calling(steady.port, path(), converse, each_second=2):
        await _is_quiet(stage)
        _say(f"all quiet for {_QUIET_SECONDS} s, with callers and one failed call; {len(causes.TRIALS)} trials begin")
        await asyncio.gather(*(_tried(stage, trial) for trial in causes.TRIALS))
    tried = {row.alert for row in stage.rows}
    stage.faults += [f"{alert.name} has not been tried" for alert in ALERTS if alert.name not in tried]
    stage.faults += [f"{told.key} was told" for told in stage.receiver.told if told.key[1] == "steady"]
    count, faults = await faults_of_boards(stage, started)
    _say(f"{count} queries of boards, {len(ALERTS)} of Grafana's rules executed")
    stage.faults += [*faults, *await faults_of_records(stage, started), *await faults_of_grafana(stage)]


async def _is_quiet(stage: Stage) -> None:
    """Every relay is seen, callers come, one of them fails: and nobody is woken."""
    there = sum(relay.name not in causes.LATE_RELAYS for each in stage.deployments.values() for relay in each.relays)
    deadline = time.monotonic() + 30
    while len(await stage.query("realtime_relay_build_info")) < there:
        if time.monotonic() > deadline:
            raise Missing(f"Prometheus does not see the {there} relays")
        await asyncio.sleep(0.2)
    await call(stage.deployments["steady"].port, path("http-500"))
    await asyncio.sleep(_QUIET_SECONDS)
    firing = await stage.query('ALERTS{alertstate="firing"}')
    stage.faults += [f"fires without a cause: {each['metric']}" for each in firing]


async def _tried(stage: Stage, trial: Callable[[Stage], Awaitable[None]]) -> None:
    """One trial; another one's fault does not end it."""
    try:
        await trial(stage)
    except (Missing, AssertionError, OSError, TimeoutError) as exc:
        stage.faults.append(f"{getattr(trial, '__name__', trial)}: {type(exc).__name__} {exc}")


def _show(stage: Stage) -> None:
    _say(f"{'alert':<30} {'deployment':<10} {'for':<36} {'came':>6} {'over':>6}")
    for row in sorted(stage.rows, key=lambda row: row.fired):
        over = f"{row.passed:5.1f}s" if row.passed is not None else "-"
        _say(f"{row.alert:<30} {row.job:<10} {row.labels:<36} {row.fired:5.1f}s {over:>6}")
    tried = {(row.alert, row.job) for row in stage.rows}
    beside = sorted({told.key for told in stage.receiver.told} - tried)
    if beside:
        _say(f"also told, as consequences: {', '.join(f'{name} ({job})' for name, job in beside)}")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - a command line


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
