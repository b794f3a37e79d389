"""A relay in front of a byte-level upstream, and clients that connect and disconnect."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.harness import Answer, Relay, open_raw, taking_less_than, within
from tests.support.raw_websocket_server import CREATED, RawUpstream, ServerConnection
from tests.support.scripted_upstream import scripted_relay

PATH = "/v1/realtime?model=scripted"
TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": "web:CANARY1token-abcdefghijklmnop"}
REQUEST_TIMEOUT_SECONDS = 0.5


async def open_and_close(connection: ServerConnection) -> None:
    """Script of an upstream that sends its first event and answers CLOSE."""
    connection.send(CREATED)
    if (close := await connection.until_close()) is not None:
        connection.send_close(close[0])


async def send_no_event(connection: ServerConnection) -> None:
    """Script of an upstream that sends no first event."""
    await connection.wait_closed()


@asynccontextmanager
async def relay_and_upstream(script: Any = open_and_close, **settings: str) -> AsyncIterator[tuple[Relay, RawUpstream]]:
    """Run a relay and its upstream. Afterwards neither holds a connection, and no traceback has been logged."""
    async with scripted_relay(script, behind_101=b"", **settings) as (relay, upstream):
        yield relay, upstream
        assert not [line for line in relay.logs if "exc_info" in line]


async def send_raw(relay: Relay, request: bytes) -> bytes:
    """Send bytes and return everything that the relay answers until the end of the stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
    writer.write(request)
    try:
        async with taking_less_than(5):
            return await reader.read(-1)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def livez_seconds(relay: Relay) -> float:
    """Return how long a probe takes that connects now: on a busy machine longer than the second of polls that it may take."""
    started = time.monotonic()
    answer = await within(send_raw(relay, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), 1)
    assert answer.startswith(b"HTTP/1.1 200 ")
    return time.monotonic() - started


async def connect_once(relay: Relay, headers: dict[str, str] | None = None, path: str = PATH) -> Answer:
    """Request a session, disconnect, and return the answer to the upgrade."""
    client = await open_raw(relay.app.public_port, path, headers)
    await client.close()
    return client.answer


async def connect_repeatedly(relay: Relay, count: int) -> list[Answer]:
    """Connect and disconnect `count` times, one after another."""
    return [await connect_once(relay) for _ in range(count)]
