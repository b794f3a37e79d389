"""What the steps share: the project, a folder, and questions to the relay from outside."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.e2e.engine import Compose, Failed

TOKEN = "demo-token-visitor"  # in compose/demo.env


@dataclass(slots=True)
class Stage:
    """One run of the test."""

    compose: Compose
    folder: Path
    base: str
    stand_ins: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)

    def port(self, name: str) -> int:
        """A published port."""
        return int(self.compose.variables[name])

    @property
    def url(self) -> str:
        """Where callers connect."""
        return f"http://127.0.0.1:{self.port('PUBLISHED_PORT')}"

    @property
    def internal_url(self) -> str:
        """Where operators look."""
        return f"http://127.0.0.1:{self.port('PUBLISHED_INTERNAL_PORT')}"


def check(condition: object, what: str) -> None:
    """Hold something against what was promised; raises Failed."""
    if not condition:
        raise Failed(what)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
    """Wait for something, for so long at most; raises Failed."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 - it happens in another container
                await asyncio.sleep(0.25)
    except TimeoutError:
        raise Failed(f"{what}: not within {seconds:.0f} s") from None


async def status_of(url: str) -> int | None:
    """The status with which a URL answers; None without an answer."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
            session.get(url) as response,
        ):
            return response.status
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None


async def counts(stage: Stage) -> dict[str, float]:
    """How often each reason was counted so far, be it a refusal or an end."""
    async with aiohttp.ClientSession() as session, session.get(f"{stage.internal_url}/metrics") as response:
        text = await response.text()
    found: dict[str, float] = {}
    families = r"(?:connection_failures|sessions_ended)_total"
    for reason, value in re.findall(rf'^realtime_relay_{families}{{.*reason="(\w+)".*}} (\S+)$', text, re.MULTILINE):
        found[reason] = found.get(reason, 0.0) + float(value)
    return found
