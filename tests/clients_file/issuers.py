"""Relays that accept the tokens of a local OpenID provider."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.clients_file.relays import relay_of, table
from tests.support.harness import RawClient, Relay, eventually, open_raw
from tests.support.jwt_issuer import Issuer, issuer_table

PATH: Final = "/v1/realtime?model=gpt-realtime"


@asynccontextmanager
async def relay_with(
    issuer: Issuer, path: Path, lines: str = "", client: str = "", *, is_fetched: bool = True, **settings: str
) -> AsyncIterator[Relay]:
    """Run a relay that accepts the provider's tokens; its key set has been fetched, unless that is to fail."""
    async with relay_of(path, table("kiosk", client) + issuer_table(issuer.url, lines), **settings) as relay:
        if is_fetched:
            await eventually(lambda: relay.metric("realtime_relay_jwks_fetches_total", result="fetched") == 1)
        yield relay


async def connect_with(relay: Relay, token: str, path: str = PATH) -> RawClient:
    """Connect with a token in a header."""
    return await open_raw(relay.app.public_port, path, {"Authorization": f"Bearer {token}"})


async def answer_to(relay: Relay, token: str) -> tuple[int, str | None]:
    """The status of a connection with this token, and its reason; None for one that opened."""
    client = await connect_with(relay, token)
    await client.close()
    return client.answer.status, None if client.answer.status == 101 else str(client.answer.error["code"])
