"""What attackers without a token send to a TLS front, and a client that exchanges events beside them."""

import asyncio
import contextlib
import random
import ssl
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from tests.support.harness import DEFAULT_PATH

_UNREAD_SECONDS: Final = 300.0
ATTACKER: Final = "127.0.0.2"
"""An address of loopback that the well-behaved client does not have."""
GET: Final = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
POST: Final = b"POST /livez HTTP/1.1\r\nHost: localhost\r\n"
SECRET: Final = b"POST /v1/realtime/client_secrets HTTP/1.1\r\nHost: localhost\r\n"
UPGRADE: Final = (
    f"GET {DEFAULT_PATH} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()
FRAMES: Final = b"\x82\x85abcdabcde" * 50_000
RUBBISH: Final = random.Random(14).randbytes(1 << 20)


@dataclass(frozen=True, slots=True)
class Attack:
    """What a connection sends first, and what it repeats with pauses until it is ended."""

    first: bytes = b""
    repeated: bytes = b""
    is_tls: bool = True
    is_read: bool = True
    """Whether the attacker reads; where it does not, it notices no end."""


SLOW: Final = {
    "nothing on TCP": Attack(is_tls=False),
    "half a TLS hello": Attack(b"\x16\x03\x01\x02\x00\x01\x00", is_tls=False),
    "nothing in TLS": Attack(),
    "a head in bytes": Attack(GET, b"a"),
    "a head in lines": Attack(GET, b"a: b\r\n"),
    "no second request": Attack(GET + b"\r\n"),
    "a body in bytes": Attack(POST + b"Content-Length: 1000000\r\n\r\n", b"a"),
    "a body for a client secret": Attack(SECRET + b"Content-Length: 40000\r\n\r\n", b"a"),
    "the rest of such a body": Attack(SECRET + b"Content-Length: 40000\r\n\r\n" + b"a" * 20_000, b"a"),
    "a body in chunks": Attack(GET + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
}
BOMBS: Final = {
    "a megabyte of commas": Attack(GET + b"Cookie: " + b"," * 1_000_000 + b"\r\n\r\n"),
    "ten thousand headers": Attack(GET + b"".join(b"a%d: b\r\n" % number for number in range(10_000)) + b"\r\n"),
    "rubbish on TCP": Attack(RUBBISH, is_tls=False),
    "rubbish in TLS": Attack(RUBBISH),
    "frames without an upgrade": Attack(FRAMES),
    "frames behind a refused upgrade": Attack(UPGRADE + FRAMES),
}


async def run_attack(attack: Attack, port: int, context: ssl.SSLContext, *, pause: float) -> bytes:
    """Send until the front ends the connection; returns the first line of what it answered."""
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1",
            port,
            ssl=context if attack.is_tls else None,
            server_hostname="localhost" if attack.is_tls else None,
            local_addr=(ATTACKER, 0),
        )
    except OSError:  # a reset within the handshake
        return b""
    reading = asyncio.ensure_future(_first_line(reader) if attack.is_read else asyncio.sleep(_UNREAD_SECONDS, b""))
    try:
        writer.write(attack.first)
        while not reading.done():
            if attack.repeated:
                writer.write(attack.repeated)
            await asyncio.wait([reading], timeout=pause)
        return await reading
    finally:
        reading.cancel()
        writer.transport.abort()


async def _first_line(reader: asyncio.StreamReader) -> bytes:
    """Read to the end; returns the first line."""
    received = bytearray()
    with contextlib.suppress(OSError):  # a reset is an end as well
        while data := await reader.read(65_536):
            received += data[:200]
    return bytes(received).partition(b"\r\n")[0]


@dataclass
class Bystander:
    """A client that exchanges numbered events through a front, one after another; `exchanges` were answered in order."""

    port: int
    context: ssl.SSLContext
    token: str
    exchanges: int = 0
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> int:
        """Exchange events until `stop`; returns how many were answered. Raises when one is not."""
        url = f"https://localhost:{self.port}{DEFAULT_PATH}"
        headers = {"Authorization": f"Bearer {self.token}"}
        async with aiohttp.ClientSession() as http, http.ws_connect(url, ssl=self.context, headers=headers) as call:
            assert (await call.receive_json())["type"] == "session.created"
            while not self._stopping.is_set():
                text = f"number {self.exchanges}"
                await call.send_json({"type": "session.update", "session": {"type": "realtime", "instructions": text}})
                event = await call.receive_json()
                assert (event["type"], event["session"]["instructions"]) == ("session.updated", text)
                self.exchanges += 1
                await asyncio.sleep(0.01)
        return self.exchanges

    def stop(self) -> None:
        """End after the exchange that runs."""
        self._stopping.set()
