"""The real program with both its legs on a cable, TLS towards upstream, and what a client does there."""

import asyncio
import hashlib
import json
import logging
import signal
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from service.realtime.closing import parse_close
from service.realtime.frames import Opcode
from service.realtime.scanner_items import Control
from tests.support.certificates import Authority
from tests.support.harness import KEY_CANARY, RawClient, eventually, payload_of
from tests.support.network_namespace import NEAR, Cable, FarUpstream, far_upstream
from tests.support.relay_process import Process, serving

LOG: Final = logging.getLogger(__name__)
BUGS: Final = {"session.failed", "loop.exception_caught", "task.crashed"}


@dataclass
class Running:
    """A relay process whose log is read as it comes."""

    process: Process
    port: int
    internal: str
    lines: list[Any] = field(default_factory=list)

    async def read(self) -> None:
        """Read the log to its end."""
        assert self.process.process.stderr is not None
        while line := await self.process.process.stderr.readline():
            self.lines.append(json.loads(line))

    def events(self, name: str) -> list[Any]:
        """The log events of one name."""
        return [line for line in self.lines if line["event"] == name]

    def endings(self) -> list[str]:
        """Why sessions ended."""
        return [line["reason"] for line in self.events("session.ended")]

    def ending_of(self, address: str) -> str | None:
        """Why the session of a client ended. It is logged when both of its sockets are gone."""
        ids = [line["session_id"] for line in self.events("session.started") if line["address"] == address]
        return next((line["reason"] for line in self.events("session.ended") if line["session_id"] in ids), None)

    async def leave(self) -> float:
        """SIGTERM: how many seconds it took to end well."""
        started = time.monotonic()
        self.process.process.send_signal(signal.SIGTERM)
        assert 0 == await asyncio.wait_for(self.process.process.wait(), 40)
        return time.monotonic() - started

    async def be_killed(self) -> None:
        """End it at once, where its leaving is not what is tested."""
        self.process.process.kill()
        await self.process.process.wait()


@asynccontextmanager
async def relay(url: str, authority: Authority, **settings: str) -> AsyncIterator[Running]:
    """The program with an upstream; afterwards it ends well, and has logged neither bugs nor secrets."""
    chosen = {
        "RELAY_UPSTREAM": "openai",
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": KEY_CANARY,
        "SSL_CERT_FILE": str(authority.bundle),
        "RELAY_HOST": NEAR,
        "RELAY_ACCESS": "open",
        "RELAY_OPEN_ANYWHERE": "true",
        "RELAY_DRAIN_SECONDS": "0",
    } | settings
    async with serving(**chosen) as (process, port, internal):
        running = Running(process, port, internal)
        reading = asyncio.ensure_future(running.read())
        try:
            yield running
            if process.process.returncode is None:
                assert await running.leave() < 10
            await asyncio.wait_for(asyncio.shield(reading), 5)
            assert not [line for line in running.lines if line["event"] in BUGS]
            assert "CANARY" not in str(running.lines)
            assert len(running.events("session.started")) == len(running.events("session.ended"))
        finally:
            reading.cancel()
            await asyncio.wait([reading])


@asynccontextmanager
async def far_relay(
    cable: Cable, address: str, tls: ssl.SSLContext, authority: Authority
) -> AsyncIterator[tuple[Running, FarUpstream]]:
    """The program, with an upstream at an address of the far end."""
    async with (
        far_upstream(cable, address, tls) as upstream,
        relay(f"https://{address}:{upstream.port}/v1", authority) as running,
    ):
        yield running, upstream
        # The wallet: nobody is left who costs money.
        await eventually(lambda: upstream.open == 0, 3)


async def talk_to(cable: Cable, running: Running, source: str) -> RawClient:
    """A client at the far end, past its first event."""
    client = await cable.call(running.port, source)
    assert 101 == client.answer.status, client.answer.body
    assert (await client.next_event())["type"] == "session.created"
    return client


async def listen(client: RawClient) -> tuple[int | None, str] | None:
    """Answer pings until the end is told."""
    while (item := await client.next_item()) is not None:
        if isinstance(item, Control) and item.opcode is Opcode.PING:
            client.send_frame(Opcode.PONG, item.payload)
        elif isinstance(item, Control) and item.opcode is Opcode.CLOSE:
            return parse_close(item.payload)
    return None


async def speak(client: RawClient) -> None:
    """Speech, twenty times a second."""
    while True:
        client.send_event(type="input_audio_buffer.append", audio="A" * 3200)
        await asyncio.sleep(0.05)  # the pace of speech


async def there_and_back(client: RawClient, numbers: range, pause: float = 0.0) -> float:
    """Send events and hear as many back, whole and in order; the longest that one took. Pings are answered."""
    loop = asyncio.get_running_loop()
    sent: dict[int, float] = {}

    async def send() -> None:
        for number in numbers:
            sent[number] = loop.time()
            client.send_event(type="x", n=number, checked=checked(number))
            await client.writer.drain()
            await asyncio.sleep(pause)

    sending = asyncio.ensure_future(send())
    slowest = 0.0
    for number in numbers:
        while isinstance(item := await client.next_item(), Control):
            assert item.opcode is Opcode.PING
            client.send_frame(Opcode.PONG, item.payload)
        assert item is not None
        event = json.loads(payload_of(item))
        assert (number, checked(number)) == (event["n"], event["checked"])
        slowest = max(slowest, loop.time() - sent[number])
    await sending
    return slowest


def checked(number: int) -> str:
    """A text of some length that tells whether it was changed."""
    return hashlib.sha256(str(number).encode()).hexdigest() * (1 + number % 150)
