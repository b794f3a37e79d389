"""A relay that receives raw frames, and a record of what reaches its upstream."""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from service.realtime.closing import parse_close
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import ControlFrame
from tests.support.harness import RawClient, Relay, eventually, open_raw, running_relay
from tests.support.raw_websocket_server import CREATED, RawUpstream, ServerConnection, raw_upstream

PATH = "/v1/realtime?model=scripted"
KEY = b"\x01\x80\x7f\xff"
VALID_FRAME = build_frame(Opcode.TEXT, b'{"type":"session.update"}', KEY)
CLOSE_BYTES = 2 + 4 + 2  # header, mask, code
NEXT_FRAME = build_frame(Opcode.TEXT, b'{"type":"response.create"}', KEY)


@dataclass
class UpstreamRecord:
    """What upstream received on one connection: all bytes, those of the data frames, and the close frame."""

    connection: ServerConnection
    raw: bytearray = field(default_factory=bytearray)
    data: bytearray = field(default_factory=bytearray)
    close: tuple[int | None, str] | None = None
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    async def record(self) -> None:
        """Read everything with a strict scanner, and answer the close frame."""
        scanner = Scanner(masked=True, max_message_bytes=1 << 30)
        try:
            while data := await self.connection.reader.read(65_536):
                self.raw += data
                for item in scanner.feed(data):
                    if isinstance(item, ControlFrame) and item.opcode is Opcode.CLOSE:
                        self.close = parse_close(item.payload)
                        self.connection.send_close(self.close[0])
                        return
                    self.data += getattr(item, "raw", b"")
        finally:
            self.finished.set()


@dataclass
class RecordedRelay:
    """A relay, its upstream, and the record of each upstream connection, oldest first."""

    relay: Relay
    upstream: RawUpstream
    records: list[UpstreamRecord]
    clients: list[RawClient] = field(default_factory=list)

    async def open(self, headers: dict[str, str] | None = None) -> tuple[RawClient, UpstreamRecord]:
        """Open a session and read its first event."""
        client = await open_raw(self.relay.app.public_port, PATH, headers)
        self.clients.append(client)
        assert (await client.next_event())["type"] == "session.created"
        return client, self.records[-1]


@asynccontextmanager
async def recorded_relay(**settings: str) -> AsyncIterator[RecordedRelay]:
    """Run a relay for any number of sessions; at the end all are closed, and each was counted once."""
    records: list[UpstreamRecord] = []

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        records.append(UpstreamRecord(connection))
        await records[-1].record()

    async with raw_upstream(script) as upstream, running_relay(
        simulator=None, intervals=None, adjust=None, **{"OPENAI_BASE_URL": upstream.url, "RELAY_MODEL": "probe"} | settings
    ) as relay:  # fmt: skip
        recorded = RecordedRelay(relay, upstream, records)
        try:
            yield recorded
        finally:
            for client in recorded.clients:
                await client.close()
        await eventually(lambda: upstream.open == 0 and len(relay.app.sessions) == 0)
        assert len(records) == len(relay.events("session.started")) == len(relay.events("session.ended"))
        assert relay.metric("realtime_relay_sessions_active") == 0
        assert not relay.events("session.failed")


def frame(first_byte: int, payload: bytes = b"", *, mask: bytes = KEY) -> bytes:
    """A frame with any first byte."""
    return bytes((first_byte,)) + build_frame(Opcode.TEXT, payload, mask)[1:]


def head(*lines: str, end: str = "\r\n") -> bytes:
    """The head of an upgrade request, with these header lines in it."""
    key = base64.b64encode(os.urandom(16)).decode()
    fixed = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}")
    return end.join((f"GET {PATH} HTTP/1.1", *lines, *fixed, "", "")).encode()
