"""`make e2e-observability`: causes every alert with real relays, a Prometheus and an Alertmanager.

Exit code 0 if every alert fired and resolved, and every query returned data; 1 if not; 3 if the programs are not available.
"""

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from aiohttp import ClientSession, ClientTimeout

from monitoring.alerts import ALERTS
from tests.observability import causes, programs
from tests.observability.clients import client_load, connect_once, converse, path
from tests.observability.notifications import ExpectationFailed, notification_server
from tests.observability.panels import check_dashboards, check_grafana_alerts, check_recording_rules
from tests.observability.testbed import Testbed
from tests.support.command_line import NOT_RUN, print_line, run_program
from tools.debian import PackageUnavailable
from tools.ports import free_port

_MAX_SECONDS: Final = 900
_QUIET_SECONDS: Final = 8
_DISCOVERY_SECONDS: Final = 180


def main() -> int:
    """Find the programs, run all scenarios, and print the results."""
    try:
        executables = programs.find_programs()
    except PackageUnavailable as exc:
        print_line(f"NOT RUN: e2e-observability: Prometheus and Alertmanager are not available on this machine: {exc}")
        return NOT_RUN
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="realtime-relay-observability-") as folder:
        errors = asyncio.run(_run(executables, Path(folder)))
    for error in errors:
        print_line(f"FAILED {error}")
    print_line(f"{'FAILED' if errors else 'passed'} in {time.monotonic() - started:.0f} s")
    return 1 if errors else 0


async def _run(executables: dict[str, Path], folder: Path) -> list[str]:
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(ClientSession(timeout=ClientTimeout(total=120)))
        notifications = await stack.enter_async_context(notification_server())
        ports = [free_port() for _ in programs.PACKAGES]
        testbed = Testbed(folder, notifications, f"http://127.0.0.1:{ports[0]}", http)
        causes.add_deployments(testbed)
        try:
            async with asyncio.timeout(_MAX_SECONDS):
                await _start(testbed, stack, executables, ports)
                await _run_all(testbed)
        except (TimeoutError, ExpectationFailed, AssertionError) as exc:
            testbed.errors.append(str(exc) or f"not finished within {_MAX_SECONDS} s")
        _print_timings(testbed)
        return testbed.errors


async def _start(testbed: Testbed, stack: AsyncExitStack, executables: dict[str, Path], ports: list[int]) -> None:
    relays = [relay for deployment in testbed.deployments.values() for relay in deployment.relays]
    for deployment in testbed.deployments.values():
        stack.push_async_callback(deployment.provider.stop)
        if deployment.job not in causes.LATE_PROVIDERS:
            await deployment.provider.restart()
    for relay in relays:
        stack.push_async_callback(relay.stop)
    await asyncio.gather(*(relay.start() for relay in relays if relay.name not in causes.LATE_RELAYS))
    targets = {
        job: [relay.target for relay in deployment.relays]
        for job, deployment in testbed.deployments.items()
        if deployment.relays
    }
    programs.write_configuration(testbed.folder, targets, ports[1], testbed.notifications.url)
    commands = (programs.prometheus_command, programs.alertmanager_command)
    # Alertmanager first: Prometheus sends to it from its first evaluation on.
    for name, port, command in reversed(list(zip(programs.PACKAGES, ports, commands, strict=True))):
        arguments, ready_url = command(executables[name], testbed.folder, port)
        log = testbed.folder / f"{name}.log"
        await stack.enter_async_context(programs.running(arguments, ready_url, log))


async def _run_all(testbed: Testbed) -> None:
    started = time.time()
    steady = testbed.deployments["steady"]
    async with client_load(steady.port, path(), converse, per_second=2):
        await _check_quiet(testbed)
        print_line(
            f"no alert for {_QUIET_SECONDS} s with clients and one failed connection; "
            f"starting {len(causes.SCENARIOS)} scenarios"
        )
        await asyncio.gather(*(_run_scenario(testbed, scenario) for scenario in causes.SCENARIOS))
    fired = {timing.alert for timing in testbed.timings}
    testbed.errors += [f"no scenario fired {alert.name}" for alert in ALERTS if alert.name not in fired]
    testbed.errors += [
        f"unexpected notification {notification.key}"
        for notification in testbed.notifications.notifications
        if notification.key[1] == "steady"
    ]
    count, errors = await check_dashboards(testbed, started)
    print_line(f"ran {count} dashboard queries and the queries of {len(ALERTS)} Grafana rules")
    testbed.errors += [
        *errors,
        *await check_recording_rules(testbed, started),
        *await check_grafana_alerts(testbed),
    ]


async def _check_quiet(testbed: Testbed) -> None:
    """Check that no alert fires while all relays are up, clients connect, and one connection fails."""
    relays = [relay for deployment in testbed.deployments.values() for relay in deployment.relays]
    expected = sum(relay.name not in causes.LATE_RELAYS for relay in relays)
    deadline = time.monotonic() + _DISCOVERY_SECONDS
    while len(await testbed.query("realtime_relay_build_info")) < expected:
        if time.monotonic() > deadline:
            raise ExpectationFailed(f"Prometheus does not scrape the {expected} relays")
        await asyncio.sleep(0.2)
    await connect_once(testbed.deployments["steady"].port, path("http-500"))
    await asyncio.sleep(_QUIET_SECONDS)
    firing = await testbed.query('ALERTS{alertstate="firing"}')
    testbed.errors += [f"alert without a cause: {series['metric']}" for series in firing]


async def _run_scenario(testbed: Testbed, scenario: Callable[[Testbed], Awaitable[None]]) -> None:
    """Run one scenario. Its failure is recorded and does not end the others."""
    try:
        await scenario(testbed)
    except (ExpectationFailed, AssertionError, OSError, TimeoutError) as exc:
        name = getattr(scenario, "__name__", scenario)
        testbed.errors.append(f"{name}: {type(exc).__name__} {exc}")


def _print_timings(testbed: Testbed) -> None:
    print_line(f"{'alert':<30} {'deployment':<10} {'for':<36} {'fired':>6} {'resolved':>8}")
    for timing in sorted(testbed.timings, key=lambda timing: timing.firing_seconds):
        resolved = f"{timing.resolved_seconds:5.1f}s" if timing.resolved_seconds is not None else "-"
        print_line(
            f"{timing.alert:<30} {timing.job:<10} {timing.labels:<36} {timing.firing_seconds:5.1f}s {resolved:>8}"
        )
    expected = {(timing.alert, timing.job) for timing in testbed.timings}
    others = sorted({notification.key for notification in testbed.notifications.notifications} - expected)
    if others:
        print_line(f"further notifications, as consequences: {', '.join(f'{name} ({job})' for name, job in others)}")


if __name__ == "__main__":
    run_program(main)
