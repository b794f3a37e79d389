"""What the steps share: the compose project, a folder, and requests to the relay from outside."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.e2e.engine import CheckFailed, Compose

TOKEN = "demo-token-visitor"  # in compose/demo.env
_POLL_SECONDS = 0.25


@dataclass(slots=True)
class Deployment:
    """The compose project under test. `created_images` are removed at the end; `not_run` is printed then."""

    compose: Compose
    folder: Path
    base: str
    created_images: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)

    def port(self, name: str) -> int:
        """A published port."""
        return int(self.compose.variables[name])

    @property
    def url(self) -> str:
        """The public port."""
        return f"http://127.0.0.1:{self.port('PUBLISHED_PORT')}"

    @property
    def internal_url(self) -> str:
        """The internal port."""
        return f"http://127.0.0.1:{self.port('PUBLISHED_INTERNAL_PORT')}"


def check(condition: object, what: str) -> None:
    """Raise CheckFailed with `what` unless the condition holds."""
    if not condition:
        raise CheckFailed(what)


async def until(condition: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
    """Wait for a condition; raises CheckFailed after `seconds` of pauses, so that a busy machine stretches the bound."""
    for _ in range(round(seconds / _POLL_SECONDS)):
        if await condition():
            return
        await asyncio.sleep(_POLL_SECONDS)
    raise CheckFailed(f"{what}: not within {seconds:.0f} s of pauses")


async def status_of(url: str) -> int | None:
    """The HTTP status of a URL; None without an answer."""
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as session,
            session.get(url) as response,
        ):
            return response.status
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None


async def reason_counts(deployment: Deployment) -> dict[str, float]:
    """The count of each reason so far, refusals and endings together."""
    async with aiohttp.ClientSession() as session, session.get(f"{deployment.internal_url}/metrics") as response:
        text = await response.text()
    found: dict[str, float] = {}
    families = r"(?:connection_failures|sessions_ended)_total"
    for reason, value in re.findall(rf'^realtime_relay_{families}{{.*reason="(\w+)".*}} (\S+)$', text, re.MULTILINE):
        found[reason] = found.get(reason, 0.0) + float(value)
    return found
