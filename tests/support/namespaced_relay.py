"""The relay as a process of its own, with client and upstream in a remote network namespace, and what a client does there."""

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
from service.realtime.scanner_items import ControlFrame
from tests.support.certificates import Authority
from tests.support.harness import KEY_CANARY, RawClient, eventually, payload_of
from tests.support.network_namespace import LOCAL_ADDRESS, RemoteUpstream, VethLink, remote_upstream
from tests.support.relay_process import Process, serving

LOG: Final = logging.getLogger(__name__)
INTERNAL_ERROR_EVENTS: Final = {"session.failed", "loop.exception_caught", "task.crashed"}


@dataclass
class RunningRelay:
    """A relay process whose log is read while it runs."""

    process: Process
    port: int
    internal: str
    lines: list[Any] = field(default_factory=list)

    async def read_log(self) -> None:
        """Read the log to its end."""
        assert self.process.process.stderr is not None
        while line := await self.process.process.stderr.readline():
            self.lines.append(json.loads(line))

    def events(self, name: str) -> list[Any]:
        """The log events of one name."""
        return [line for line in self.lines if line["event"] == name]

    def endings(self) -> list[str]:
        """The reasons of the sessions that have ended."""
        return [line["reason"] for line in self.events("session.ended")]

    def ending_of(self, address: str) -> str | None:
        """The reason of the session from this address, once both of its sockets are closed."""
        ids = [line["session_id"] for line in self.events("session.started") if line["address"] == address]
        return next((line["reason"] for line in self.events("session.ended") if line["session_id"] in ids), None)

    async def terminate(self) -> float:
        """Send SIGTERM and wait for exit code 0; returns the seconds that took."""
        started = time.monotonic()
        self.process.process.send_signal(signal.SIGTERM)
        assert 0 == await asyncio.wait_for(self.process.process.wait(), 60)
        return time.monotonic() - started

    async def kill(self) -> None:
        """Send SIGKILL, where the shutdown is not under test."""
        self.process.process.kill()
        await self.process.process.wait()


@asynccontextmanager
async def relay(url: str, authority: Authority, **settings: str) -> AsyncIterator[RunningRelay]:
    """A relay with this upstream; afterwards it has exited with 0 and logged neither internal errors nor secrets."""
    chosen = {
        "RELAY_UPSTREAM": "openai",
        "OPENAI_BASE_URL": url,
        "OPENAI_API_KEY": KEY_CANARY,
        "SSL_CERT_FILE": str(authority.bundle),
        "RELAY_HOST": LOCAL_ADDRESS,
        "RELAY_ACCESS": "open",
        "RELAY_OPEN_ANYWHERE": "true",
        "RELAY_DRAIN_SECONDS": "0",
    } | settings
    async with serving(**chosen) as (process, port, internal):
        running = RunningRelay(process, port, internal)
        reading = asyncio.ensure_future(running.read_log())
        try:
            yield running
            if process.process.returncode is None:
                assert await running.terminate() < 30
            await asyncio.wait_for(asyncio.shield(reading), 60)
            assert not [line for line in running.lines if line["event"] in INTERNAL_ERROR_EVENTS]
            assert "CANARY" not in str(running.lines)
            assert len(running.events("session.started")) == len(running.events("session.ended"))
        finally:
            reading.cancel()
            await asyncio.wait([reading])


@asynccontextmanager
async def relay_to_remote(
    link: VethLink, address: str, tls: ssl.SSLContext, authority: Authority
) -> AsyncIterator[tuple[RunningRelay, RemoteUpstream]]:
    """A relay with an upstream at a remote address; afterwards no upstream session is open."""
    async with (
        remote_upstream(link, address, tls) as upstream,
        relay(f"https://{address}:{upstream.port}/v1", authority) as running,
    ):
        yield running, upstream
        await eventually(lambda: upstream.open == 0, 3)  # an open upstream session costs money


async def open_session(link: VethLink, running: RunningRelay, source: str) -> RawClient:
    """A remote client whose session is open and whose first event has arrived."""
    client = await link.connect_client(running.port, source)
    assert 101 == client.answer.status, client.answer.body
    assert (await client.next_event())["type"] == "session.created"
    return client


async def wait_for_close(client: RawClient) -> tuple[int | None, str] | None:
    """Answer pings until a close frame arrives; returns its code and reason, or None if the connection ends without one."""
    while (item := await client.next_item_or_ping()) is not None:
        if isinstance(item, ControlFrame) and item.opcode is Opcode.PING:
            client.send_frame(Opcode.PONG, item.payload)
        elif isinstance(item, ControlFrame) and item.opcode is Opcode.CLOSE:
            return parse_close(item.payload)
    return None


async def send_speech(client: RawClient) -> None:
    """Send audio at the rate of speech, twenty messages a second, until cancelled."""
    while True:
        client.send_event(type="input_audio_buffer.append", audio="A" * 3200)
        await asyncio.sleep(0.05)


async def echo_round_trips(client: RawClient, numbers: range, pause: float = 0.0) -> float:
    """Send numbered events and receive their echoes unchanged and in order; returns the longest round trip in seconds."""
    loop = asyncio.get_running_loop()
    sent: dict[int, float] = {}

    async def send() -> None:
        for number in numbers:
            sent[number] = loop.time()
            client.send_event(type="x", n=number, content=content_of(number))
            await client.writer.drain()
            await asyncio.sleep(pause)

    sending = asyncio.ensure_future(send())
    slowest = 0.0
    for number in numbers:
        while isinstance(item := await client.next_item_or_ping(), ControlFrame):
            assert item.opcode is Opcode.PING
            client.send_frame(Opcode.PONG, item.payload)
        assert item is not None
        event = json.loads(payload_of(item))
        assert (number, content_of(number)) == (event["n"], event["content"])
        slowest = max(slowest, loop.time() - sent[number])
    await sending
    return slowest


def content_of(number: int) -> str:
    """A text that depends on the number alone, of varying length, so that any change shows."""
    return hashlib.sha256(str(number).encode()).hexdigest() * (1 + number % 150)
