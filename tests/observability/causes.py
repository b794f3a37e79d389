"""The trials: for each alert its real cause, made and taken away again. What each needs stands in `deploy`."""

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from tests.observability.callers import ask, call, calling, holding, listen, loitering, path
from tests.observability.stage import Deployment, Stage

_FILES: Final = 1024
_LOITERERS: Final = 890  # with the process's own descriptors above 85 % of 1024, and below where the relay cuts off
_NEW_KEY: Final = "sk-sim-good-the-next-one-0123456789"
_BAD_KEY: Final = "sk-sim-key-rejected-0123456789abcdef"
_BROKEN_MODEL: Final = "gpt-realtime-mini"
# A bug that strikes in the sessions of one model.
_WITH_A_BUG: Final = f"""
import sys
from service.cli import main
from service.relay.session import Session
well = Session._tell_start
def broken(session):
    if session.facts.model == "{_BROKEN_MODEL}":
        raise RuntimeError("a bug")
    well(session)
Session._tell_start = broken
sys.exit(main())
"""


def deploy(stage: Stage) -> None:
    """Name every deployment; each trial has its own, so that they run at once and do not mix."""
    key_file, pipe = stage.folder / "key", stage.folder / "log-pipe"
    os.mkfifo(pipe)
    key_file.write_text(_NEW_KEY.replace("next", "first"), encoding="utf-8")
    for job in ("steady", "burning", "quota", "handshake", "slow", "absent", "cut", "mute", "late"):
        stage.add(job)
    stage.add("key", settings={"OPENAI_API_KEY": "", "OPENAI_API_KEY_FILE": str(key_file)})
    stage.add("pair", instances=2)
    stage.deployments["pair"].relays[1].settings = {
        **stage.deployments["pair"].relays[0].settings, "OPENAI_BASE_URL": stage.add("pair-other", instances=0).provider.url,
    }  # fmt: skip
    stage.add("full", settings={"RELAY_MAX_SESSIONS": "10"}, prefix=("prlimit", f"--nofile={_FILES}:{_FILES}"))
    stage.add("bug", settings={"RELAY_DRAIN_SECONDS": "600"}, program=("-c", _WITH_A_BUG))
    stage.add("log", log=pipe)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 8192)), hard))


LATE_PROVIDERS: Final = frozenset({"handshake"})
LATE_RELAYS: Final = frozenset({"handshake-0", "log-0"})
"""These are not there at the start: their trials start them."""


async def burning(stage: Stage) -> None:
    """The provider fails every call; then it is well, and only then is told what the fastest alert had silenced."""
    here = stage.deployments["burning"]
    since = time.monotonic()
    async with calling(here.port, path("http-500"), each_second=5):
        await stage.fires("RelayConnectFailures1h", "burning", since, reason="upstream_error")
    over = time.monotonic()
    async with calling(here.port, path(), each_second=5):
        await stage.passes("RelayConnectFailures1h", "burning", over)
        await stage.fires("RelayConnectFailures6h", "burning", over, reason="upstream_error")
        await stage.passes("RelayConnectFailures6h", "burning", over)
        await stage.fires("RelayConnectFailures1d", "burning", over, reason="upstream_error")
        await stage.fires("RelayConnectFailures3d", "burning", over, reason="upstream_error")
        await stage.passes("RelayConnectFailures1d", "burning", over)
        await stage.passes("RelayConnectFailures3d", "burning", over)


async def key(stage: Stage) -> None:
    """A wrong key is put into the file, and a right one; then the provider refuses the right one, too."""
    here = stage.deployments["key"]
    file = stage.folder / "key"
    since = time.monotonic()
    _replace(file, _BAD_KEY)
    await stage.fires("RelayKeyRotationRefused", "key", since, instance=here.relays[0].target)
    over = time.monotonic()
    _replace(file, _NEW_KEY)
    await stage.passes("RelayKeyRotationRefused", "key", over)
    await _refusing(stage, here, "key-rejected", "RelayKeyRejected", "key_rejected")


async def quota(stage: Stage) -> None:
    """The account has no credit left."""
    await _refusing(stage, stage.deployments["quota"], "quota-exhausted", "RelayQuotaExhausted", "quota_exhausted")


async def _refusing(stage: Stage, here: Deployment, scenario: str, alert: str, reason: str) -> None:
    since = time.monotonic()
    await here.provider.behave(scenario)
    async with calling(here.port, path(), each_second=2):
        await stage.fires(alert, here.job, since, reason=reason)
        over = time.monotonic()
        await here.provider.behave()
        await stage.passes(alert, here.job, over)


async def handshake(stage: Stage) -> None:
    """Nobody calls, and nobody is where the provider should be."""
    here = stage.deployments["handshake"]
    since = time.monotonic()
    await here.relays[0].start()
    await stage.fires("RelayHandshakeFailing", "handshake", since, reason="connect_refused")
    over = time.monotonic()
    await here.provider.behave()
    await stage.passes("RelayHandshakeFailing", "handshake", over)


async def pair(stage: Stage) -> None:
    """One of two instances is killed; its successor does not reach the provider."""
    other, provider = stage.deployments["pair"].relays[1], stage.deployments["pair-other"].provider
    since = time.monotonic()
    await other.kill()
    await stage.fires("RelayInstanceDown", "pair", since, instance=other.target)
    await provider.stop()
    over = since = time.monotonic()
    await other.start()
    await stage.passes("RelayInstanceDown", "pair", over)
    await stage.fires("RelayInstanceCheckFailing", "pair", since, instance=other.target, check="handshake")
    over = time.monotonic()
    await provider.behave()
    await stage.passes("RelayInstanceCheckFailing", "pair", over)


async def slow(stage: Stage) -> None:
    """The provider takes more than three seconds until its first event."""
    here = stage.deployments["slow"]
    since = time.monotonic()
    await here.provider.behave("slow-first-event")
    async with calling(here.port, path(), each_second=3):
        await stage.fires("RelaySlowConnects", "slow", since)
        over = time.monotonic()
        await here.provider.behave()
        await stage.passes("RelaySlowConnects", "slow", over)


async def absent(stage: Stage) -> None:
    """The only instance is killed."""
    relay = stage.deployments["absent"].relays[0]
    since = time.monotonic()
    await relay.kill()
    await stage.fires("RelayAbsent", "absent", since)
    over = time.monotonic()
    await relay.start()
    await stage.passes("RelayAbsent", "absent", over)


async def cut(stage: Stage) -> None:
    """The provider hangs up in the middle."""
    here = stage.deployments["cut"]
    since = time.monotonic()
    async with calling(here.port, path("drop-mid"), listen):
        await stage.fires("RelaySessionsEndedByProvider", "cut", since)
    over = time.monotonic()
    await stage.passes("RelaySessionsEndedByProvider", "cut", over)


async def mute(stage: Stage) -> None:
    """Every response fails at the provider."""
    here = stage.deployments["mute"]
    since = time.monotonic()
    async with calling(here.port, path("server-error-mid"), ask):
        await stage.fires("RelayResponsesFailing", "mute", since)
    over = time.monotonic()
    await stage.passes("RelayResponsesFailing", "mute", over)


async def late(stage: Stage) -> None:
    """The process is stopped in bursts, as a quota on the CPU does."""
    relay = stage.deployments["late"].relays[0]

    async def throttle() -> None:
        while True:
            relay.tell(signal.SIGSTOP)
            await asyncio.sleep(0.4)
            relay.tell(signal.SIGCONT)
            await asyncio.sleep(0.2)

    since = time.monotonic()
    throttling = asyncio.ensure_future(throttle())
    try:
        await stage.fires("RelayLoopLag", "late", since, instance=relay.target)
    finally:
        throttling.cancel()
        await asyncio.wait([throttling])
        relay.tell(signal.SIGCONT)
    over = time.monotonic()
    await stage.passes("RelayLoopLag", "late", over)


async def full(stage: Stage) -> None:
    """Nine of ten places are taken; then so many connections come and say nothing that open files run short."""
    here = stage.deployments["full"]
    since = time.monotonic()
    async with holding(here.port, 9):
        await stage.fires("RelayNearCapacity", "full", since)
    over = time.monotonic()
    await stage.passes("RelayNearCapacity", "full", over)
    since = time.monotonic()
    async with loitering(here.port, _LOITERERS):
        await stage.fires("RelayInstanceNearLimit", "full", since, resource="open files")
    over = time.monotonic()
    await stage.passes("RelayInstanceNearLimit", "full", over)


async def bug(stage: Stage) -> None:
    """A bug strikes in one model's sessions; then the instance is to stop, and a call holds it back."""
    here, relay = stage.deployments["bug"], stage.deployments["bug"].relays[0]
    since = time.monotonic()
    for _ in range(2):
        await call(here.port, path(model=_BROKEN_MODEL))
    await stage.fires("RelayInternalErrors", "bug", since)
    await stage.passes("RelayInternalErrors", "bug", since)
    since = time.monotonic()
    async with holding(here.port, 1):
        relay.tell(signal.SIGTERM)
        await stage.fires("RelayDrainHangs", "bug", since, instance=relay.target)
        over = time.monotonic()
        relay.tell(signal.SIGTERM)
        await relay.gone()
        await relay.start()
        await stage.passes("RelayDrainHangs", "bug", over)


async def log(stage: Stage) -> None:
    """Nobody reads the log any more; then somebody does again."""
    here = stage.deployments["log"]
    since = time.monotonic()
    async with reading(stage.folder / "log-pipe"):
        await here.relays[0].start()
    async with calling(here.port, path()):
        await stage.fires("RelayLogLinesDropped", "log", since)
        over = time.monotonic()
        async with reading(stage.folder / "log-pipe"):
            await stage.passes("RelayLogLinesDropped", "log", over)


@asynccontextmanager
async def reading(pipe: Path) -> AsyncIterator[None]:
    """Read a pipe with a name, so that whoever writes to it is heard."""
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


TRIALS: Final[tuple[Callable[[Stage], Awaitable[None]], ...]] = (
    handshake, pair, burning, key, quota, slow, absent, cut, mute, late, full, bug, log,
)  # fmt: skip


def _replace(file: Path, text: str) -> None:
    beside = file.with_suffix(".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(file)
