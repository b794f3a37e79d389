"""The scenarios: each creates the real cause of an alert and removes it again. `add_deployments` sets up their relays."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from tests.observability import client_causes, continuity_causes
from tests.observability.clients import (
    LIVE_PATH,
    client_load,
    connect_once,
    converse_live,
    idle_connections,
    open_sessions,
    path,
    request_response,
    start_and_close_live,
    start_refused_live,
    wait_until_closed,
)
from tests.observability.faulty_relay import BROKEN_MODEL
from tests.observability.testbed import Deployment, Testbed, replace_file
from tests.support.redis_server import RedisServer
from tools.ports import free_port

_MAX_OPEN_FILES: Final = 1024
# With the process's own descriptors above 85 % of the limit, and below the number at which the relay closes connections.
_IDLE_CONNECTIONS: Final = 890
_FIRST_KEY: Final = "sk-sim-good-the-first-one-0123456789"
_NEXT_KEY: Final = "sk-sim-good-the-next-one-0123456789"
_BAD_KEY: Final = "sk-sim-key-rejected-0123456789abcdef"


def add_deployments(testbed: Testbed) -> None:
    """Add all deployments. Each scenario has its own, so that scenarios run concurrently without interference."""
    key_file, pipe = testbed.folder / "key", testbed.folder / "log-pipe"
    os.mkfifo(pipe)
    key_file.write_text(_FIRST_KEY, encoding="utf-8")
    for job in (
        "steady",
        "burning",
        "quota",
        "handshake",
        "slow",
        "absent",
        "ended",
        "failing",
        "lagging",
        "live",
        "unbilled",
    ):
        testbed.add(job)
    testbed.add("key", settings={"OPENAI_API_KEY": "", "OPENAI_API_KEY_FILE": str(key_file)})
    client_causes.add_deployments(testbed)
    continuity_causes.add_deployments(testbed)
    testbed.add("pair", instances=2)
    testbed.deployments["pair"].relays[1].settings = {
        **testbed.deployments["pair"].relays[0].settings,
        "OPENAI_BASE_URL": testbed.add("pair-other", instances=0).provider.url,
    }
    limit_files = ("prlimit", f"--nofile={_MAX_OPEN_FILES}:{_MAX_OPEN_FILES}")
    testbed.add("full", settings={"RELAY_MAX_SESSIONS": "10"}, prefix=limit_files)
    faulty_relay = ("-m", "tests.observability.faulty_relay")
    testbed.add("faulty", settings={"RELAY_DRAIN_SECONDS": "600"}, program=faulty_relay)
    testbed.add("log", log=pipe)
    testbed.add("store", settings={"RELAY_STORE_URL": f"redis://127.0.0.1:{free_port()}"})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))


LATE_PROVIDERS: Final = frozenset({"handshake"})
LATE_RELAYS: Final = frozenset({"handshake-0", "jwks-0", "log-0", "store-0"})
"""Started by their scenarios, not at the beginning."""


async def burn_rate(testbed: Testbed) -> None:
    """The provider fails every connection, then recovers; the slower burn rates then fire, no longer inhibited."""
    deployment = testbed.deployments["burning"]
    since = time.monotonic()
    async with client_load(deployment.port, path("http-500"), per_second=5):
        await testbed.expect_firing("RelayConnectFailures1h", "burning", since, reason="upstream_error")
    recovered = time.monotonic()
    async with client_load(deployment.port, path(), per_second=5):
        await testbed.expect_resolved("RelayConnectFailures1h", "burning", recovered)
        await testbed.expect_firing("RelayConnectFailures6h", "burning", recovered, reason="upstream_error")
        await testbed.expect_resolved("RelayConnectFailures6h", "burning", recovered)
        await testbed.expect_firing("RelayConnectFailures1d", "burning", recovered, reason="upstream_error")
        await testbed.expect_firing("RelayConnectFailures3d", "burning", recovered, reason="upstream_error")
        await testbed.expect_resolved("RelayConnectFailures1d", "burning", recovered)
        await testbed.expect_resolved("RelayConnectFailures3d", "burning", recovered)


async def key(testbed: Testbed) -> None:
    """The key file gets a wrong key, then a valid one; then the provider rejects the valid one."""
    deployment = testbed.deployments["key"]
    file = testbed.folder / "key"
    since = time.monotonic()
    replace_file(file, _BAD_KEY)
    await testbed.expect_firing("RelayKeyRotationRefused", "key", since, instance=deployment.relays[0].target)
    recovered = time.monotonic()
    replace_file(file, _NEXT_KEY)
    await testbed.expect_resolved("RelayKeyRotationRefused", "key", recovered)
    await _provider_refuses(testbed, deployment, "key-rejected", "RelayKeyRejected", "key_rejected")


async def quota(testbed: Testbed) -> None:
    """The account has no credit left."""
    deployment = testbed.deployments["quota"]
    await _provider_refuses(testbed, deployment, "quota-exhausted", "RelayQuotaExhausted", "quota_exhausted")


async def _provider_refuses(testbed: Testbed, deployment: Deployment, scenario: str, alert: str, reason: str) -> None:
    since = time.monotonic()
    await deployment.provider.restart(scenario)
    async with client_load(deployment.port, path(), per_second=2):
        await testbed.expect_firing(alert, deployment.job, since, reason=reason)
        recovered = time.monotonic()
        await deployment.provider.restart()
        await testbed.expect_resolved(alert, deployment.job, recovered)


async def handshake(testbed: Testbed) -> None:
    """No client connects, and the provider's port refuses connections."""
    deployment = testbed.deployments["handshake"]
    since = time.monotonic()
    await deployment.relays[0].start()
    await testbed.expect_firing("RelayHandshakeFailing", "handshake", since, reason="connect_refused")
    recovered = time.monotonic()
    await deployment.provider.restart()
    await testbed.expect_resolved("RelayHandshakeFailing", "handshake", recovered)


async def one_of_two_instances(testbed: Testbed) -> None:
    """One of two instances is killed; after its restart it cannot connect to the provider."""
    relay, provider = testbed.deployments["pair"].relays[1], testbed.deployments["pair-other"].provider
    since = time.monotonic()
    await relay.kill()
    await testbed.expect_firing("RelayInstanceDown", "pair", since, instance=relay.target)
    await provider.stop()
    recovered = since = time.monotonic()
    await relay.start()
    await testbed.expect_resolved("RelayInstanceDown", "pair", recovered)
    await testbed.expect_firing("RelayInstanceCheckFailing", "pair", since, instance=relay.target, check="handshake")
    recovered = time.monotonic()
    await provider.restart()
    await testbed.expect_resolved("RelayInstanceCheckFailing", "pair", recovered)


async def slow_connections(testbed: Testbed) -> None:
    """The provider sends its first event after more than three seconds."""
    deployment = testbed.deployments["slow"]
    since = time.monotonic()
    await deployment.provider.restart("slow-first-event")
    async with client_load(deployment.port, path(), per_second=3):
        await testbed.expect_firing("RelaySlowConnects", "slow", since)
        recovered = time.monotonic()
        await deployment.provider.restart()
        await testbed.expect_resolved("RelaySlowConnects", "slow", recovered)


async def only_instance_down(testbed: Testbed) -> None:
    """The only instance of a deployment is killed."""
    relay = testbed.deployments["absent"].relays[0]
    since = time.monotonic()
    await relay.kill()
    await testbed.expect_firing("RelayAbsent", "absent", since)
    recovered = time.monotonic()
    await relay.start()
    await testbed.expect_resolved("RelayAbsent", "absent", recovered)


async def sessions_ended_by_provider(testbed: Testbed) -> None:
    """The provider drops open sessions."""
    deployment = testbed.deployments["ended"]
    since = time.monotonic()
    async with client_load(deployment.port, path("drop-mid"), wait_until_closed):
        await testbed.expect_firing("RelaySessionsEndedByProvider", "ended", since)
    recovered = time.monotonic()
    await testbed.expect_resolved("RelaySessionsEndedByProvider", "ended", recovered)


async def failing_responses(testbed: Testbed) -> None:
    """Every response fails at the provider."""
    deployment = testbed.deployments["failing"]
    since = time.monotonic()
    async with client_load(deployment.port, path("server-error-mid"), request_response):
        await testbed.expect_firing("RelayResponsesFailing", "failing", since)
    recovered = time.monotonic()
    await testbed.expect_resolved("RelayResponsesFailing", "failing", recovered)


async def live_starts_failing(testbed: Testbed) -> None:
    """The provider refuses to start sessions of GPT-Live; those of the Realtime API hide it in the ratio of all."""
    port = testbed.deployments["live"].port
    since = time.monotonic()
    async with (
        client_load(port, path(), per_second=34),
        client_load(port, LIVE_PATH, start_refused_live, per_second=1.7),
    ):
        await testbed.expect_firing("RelayLiveStartsFailing", "live", since)
    recovered = time.monotonic()
    async with client_load(port, LIVE_PATH, converse_live, per_second=2):
        await testbed.expect_resolved("RelayLiveStartsFailing", "live", recovered)


async def live_usage_unconfirmed(testbed: Testbed) -> None:
    """The provider closes the connections of GPT-Live without the final usage."""
    deployment = testbed.deployments["unbilled"]
    since = time.monotonic()
    await deployment.provider.restart("live-close-silent")
    async with client_load(deployment.port, LIVE_PATH, start_and_close_live, per_second=2):
        await testbed.expect_firing("RelayLiveUsageUnconfirmed", "unbilled", since)
    recovered = time.monotonic()
    await deployment.provider.restart()
    async with client_load(deployment.port, LIVE_PATH, start_and_close_live, per_second=2):
        await testbed.expect_resolved("RelayLiveUsageUnconfirmed", "unbilled", recovered)


async def event_loop_lag(testbed: Testbed) -> None:
    """The process is stopped periodically, as by a CPU quota."""
    relay = testbed.deployments["lagging"].relays[0]

    async def throttle() -> None:
        while True:
            relay.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.4)
            relay.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.2)

    since = time.monotonic()
    throttling = asyncio.ensure_future(throttle())
    try:
        await testbed.expect_firing("RelayLoopLag", "lagging", since, instance=relay.target)
    finally:
        throttling.cancel()
        await asyncio.wait([throttling])
        relay.send_signal(signal.SIGCONT)
    recovered = time.monotonic()
    await testbed.expect_resolved("RelayLoopLag", "lagging", recovered)


async def capacity(testbed: Testbed) -> None:
    """Nine of ten sessions are open; then idle connections use up the open files."""
    deployment = testbed.deployments["full"]
    since = time.monotonic()
    async with open_sessions(deployment.port, 9):
        await testbed.expect_firing("RelayNearCapacity", "full", since)
    recovered = time.monotonic()
    await testbed.expect_resolved("RelayNearCapacity", "full", recovered)
    since = time.monotonic()
    async with idle_connections(deployment.port, _IDLE_CONNECTIONS):
        await testbed.expect_firing("RelayInstanceNearLimit", "full", since, resource="open files")
    recovered = time.monotonic()
    await testbed.expect_resolved("RelayInstanceNearLimit", "full", recovered)


async def internal_error_and_drain(testbed: Testbed) -> None:
    """Sessions fail with an internal error; then an open session keeps a draining instance running."""
    deployment = testbed.deployments["faulty"]
    relay = deployment.relays[0]
    since = time.monotonic()
    for _ in range(2):
        await connect_once(deployment.port, path(model=BROKEN_MODEL))
    await testbed.expect_firing("RelayInternalErrors", "faulty", since)
    await testbed.expect_resolved("RelayInternalErrors", "faulty", since)
    since = time.monotonic()
    async with open_sessions(deployment.port, 1):
        relay.send_signal(signal.SIGTERM)
        await testbed.expect_firing("RelayDrainHangs", "faulty", since, instance=relay.target)
        recovered = time.monotonic()
        relay.send_signal(signal.SIGTERM)
        await relay.wait_exited()
        await relay.start()
        await testbed.expect_resolved("RelayDrainHangs", "faulty", recovered)


async def dropped_log_lines(testbed: Testbed) -> None:
    """The reader of the log pauses, then continues."""
    deployment = testbed.deployments["log"]
    since = time.monotonic()
    async with reading(testbed.folder / "log-pipe"):
        await deployment.relays[0].start()
    async with client_load(deployment.port, path()):
        await testbed.expect_firing("RelayLogLinesDropped", "log", since)
        recovered = time.monotonic()
        async with reading(testbed.folder / "log-pipe"):
            await testbed.expect_resolved("RelayLogLinesDropped", "log", recovered)


async def failing_store(testbed: Testbed) -> None:
    """The store does not run; then it is started."""
    relay = testbed.deployments["store"].relays[0]
    store = RedisServer(testbed.folder)
    store.port = int(relay.settings["RELAY_STORE_URL"].rpartition(":")[2])
    since = time.monotonic()
    await relay.start()
    try:
        await testbed.expect_firing("RelayStoreFailing", "store", since, instance=relay.target)
        recovered = time.monotonic()
        await asyncio.to_thread(store.start)
        await testbed.expect_resolved("RelayStoreFailing", "store", recovered)
    finally:
        store.stop()


@asynccontextmanager
async def reading(pipe: Path) -> AsyncIterator[None]:
    """Read from a named pipe and discard the data."""
    loop = asyncio.get_running_loop()
    descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    def read() -> None:
        with suppress(BlockingIOError):
            os.read(descriptor, 1 << 20)

    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


SCENARIOS: Final[tuple[Callable[[Testbed], Awaitable[None]], ...]] = (
    handshake, one_of_two_instances, burn_rate, key, *client_causes.SCENARIOS, *continuity_causes.SCENARIOS,
    quota, slow_connections, only_instance_down,
    sessions_ended_by_provider, failing_responses, live_starts_failing, live_usage_unconfirmed, event_loop_lag, capacity,
    internal_error_and_drain, dropped_log_lines, failing_store,
)  # fmt: skip
