"""A relay before an upstream down to the bytes, and callers that come and go."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.harness import Answer, Relay, open_raw
from tests.support.raw_websocket_server import CREATED, RawUpstream, Wire
from tests.support.scripted_upstream import relay_before

PATH = "/v1/realtime?model=scripted"
TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": "web:CANARY1token-abcdefghijklmnop"}
PATIENCE_SECONDS = 0.5


async def quiet(wire: Wire) -> None:
    """An upstream that opens sessions and answers CLOSE."""
    wire.send(CREATED)
    if (close := await wire.until_close()) is not None:
        wire.send_close(close[0])


async def mute(wire: Wire) -> None:
    """An upstream that sends no first event."""
    await wire.gone()


@asynccontextmanager
async def scene(script: Any = quiet, **settings: str) -> AsyncIterator[tuple[Relay, RawUpstream]]:
    """A relay before an upstream down to the bytes; in the end neither has anything left."""
    async with relay_before(script, behind_101=b"", **settings) as (relay, upstream):
        yield relay, upstream
        assert not [line for line in relay.logs if "exc_info" in line]


async def say(relay: Relay, request: bytes) -> bytes:
    """All that is answered to some bytes, up to the end of the stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
    writer.write(request)
    try:
        async with asyncio.timeout(5):
            return await reader.read(-1)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def livez_seconds(relay: Relay) -> float:
    """How long a probe takes that connects now."""
    started = time.monotonic()
    answer = await say(relay, b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    return time.monotonic() - started


async def visit(relay: Relay, headers: dict[str, str] | None = None, path: str = PATH) -> Answer:
    """Ask for a session, and drop it if there is one."""
    client = await open_raw(relay.app.public_port, path, headers)
    await client.close()
    return client.answer


async def visits(relay: Relay, count: int) -> list[Answer]:
    """One after another."""
    return [await visit(relay) for _ in range(count)]
