"""Relays with a clients file, for the tests of this package."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp

from service.access.clients import digest_of
from tests.support.harness import RawClient, Relay, open_raw, simulated_relay

TOKENS: Final = {name: f"CANARY2-{name}-token-0123456789" for name in ("kiosk", "web", "spare")}
TIMEOUT: Final = aiohttp.ClientTimeout(total=60)


def table(name: str, lines: str = "", token: str | None = None) -> str:
    """The table of a client with one token."""
    return f'[clients.{name}]\ntoken_sha256 = ["{digest_of(TOKENS[token or name])}"]\n{lines}\n'


def write(path: Path, text: str) -> None:
    """Replace a file in one step, as `kubectl` and careful editors do."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def remove(path: Path) -> None:
    """No file."""
    path.unlink()


@asynccontextmanager
async def relay_of(path: Path, text: str, **settings: Any) -> AsyncIterator[Relay]:
    """Run a relay with this clients file."""
    write(path, text)
    async with simulated_relay(None, RELAY_CLIENTS_FILE=str(path), **settings) as relay:
        yield relay


async def connect(relay: Relay, name: str = "kiosk", path: str = "", **headers: str) -> RawClient:
    """Connect with the token of a name in a header."""
    path = path or "/v1/realtime?model=gpt-realtime"
    return await open_raw(relay.app.public_port, path, {"Authorization": f"Bearer {TOKENS[name]}", **headers})


async def refusal(relay: Relay, name: str = "kiosk", path: str = "", **headers: str) -> tuple[int, str | None]:
    """The status of a connection, and its reason; None for one that opened."""
    client = await connect(relay, name, path, **headers)
    reason = None if client.answer.status == 101 else str(client.answer.error["code"])
    await client.close()
    return client.answer.status, reason


async def notes(relay: Relay) -> str:
    """The notes of detailed health."""
    async with (
        aiohttp.ClientSession(timeout=TIMEOUT) as session,
        session.get(f"{relay.internal_url}/healthz?verbose") as reply,
    ):
        return "\n".join((await reply.json(content_type=None))["notes"])
