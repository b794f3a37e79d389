"""Both endpoints of a session, as asyncio protocols: the client of a contender, and the contender's upstream.

They are in one process so that one clock measures both. Upstream sends the first event of a session, after the start that the
client sends in GPT-Live; the client then sends its first stamped message, from which upstream learns the number of the
session; upstream replies with its first.
"""

import asyncio
import base64
import hashlib
import os
import ssl
import time
from array import array
from collections.abc import Callable
from typing import Final, cast

from bench.apis import REALTIME, Api
from bench.messages import Incoming, Outgoing, Template
from bench.wire import CLOSE, PING, PONG, TEXT, FrameReader, build_frame

PING_SECONDS: Final = 20  # as the provider does
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CHUNK: Final = 65_536
_MODELS_REPLY: Final = b'{"id":"gpt-realtime","object":"model"}'


class Refused(Exception):
    """The contender did not upgrade; the message is its status line."""


class Endpoint(asyncio.Protocol, FrameReader):
    """What both endpoints share."""

    def __init__(self) -> None:
        FrameReader.__init__(self)
        self.transport: asyncio.Transport | None = None
        self.outgoing: Outgoing | None = None
        self.incoming: Incoming | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._handshake: bytearray | None = bytearray()
        self._now = 0
        self._key = b""
        self._may_write = asyncio.Event()
        self._may_write.set()
        self.is_within_frame = False  # more pieces follow; no other frame may be written

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transports are not subclasses

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the counts show the loss
        """Called by the transport."""
        self.transport = None
        self._may_write.set()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Called by the transport."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Called by the transport."""
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        """Called by the transport; one reading of the clock serves all messages of one read."""
        self._now = time.perf_counter_ns()
        if self._handshake is None:
            self.feed(data)
            return
        self._handshake += data
        head, found, rest = bytes(self._handshake).partition(b"\r\n\r\n")
        if found:
            self._handshake = None
            self.handshake_received(head)
            if rest:
                self.feed(rest)

    def handshake_received(self, head: bytes) -> None:
        """The head of the HTTP message is complete."""
        raise NotImplementedError

    def send(self) -> None:
        """Send the next message."""
        self.write(self.next_frame())

    def next_frame(self) -> bytes:
        """Return the frame of the next message, which counts as sent."""
        return self.outgoing.next(time.perf_counter_ns()) if self.outgoing is not None else b""

    def write(self, data: bytes) -> None:
        """Write to a connection that is still open; otherwise a message counts as lost at the end."""
        if self.transport is not None:
            self.transport.write(data)

    async def send_large(self, large: Template, usual: Template) -> None:
        """Send one large message in chunks, with backpressure, so that other sessions run in between."""
        assert self.outgoing is not None  # noqa: S101 - set once connected
        self.outgoing.use(large)
        frame = memoryview(self.outgoing.next(time.perf_counter_ns()))
        self.outgoing.use(usual)
        for at in range(0, len(frame), _CHUNK):
            await self._may_write.wait()
            if self.transport is None:
                return
            self.transport.write(frame[at : at + _CHUNK])
            await asyncio.sleep(0)

    def piece(self, payload: bytes, *, is_last: bool) -> None:
        """A piece of a large message arrived."""
        if self.incoming is not None:
            self.incoming.receive_piece(payload, time.perf_counter_ns(), is_last=is_last)

    def control(self, opcode: int, payload: bytes) -> None:
        """A control frame arrived."""
        if self.transport is None:
            return
        if opcode == PING and not self.is_within_frame:
            self.transport.write(build_frame(PONG, payload, self._key))
        elif opcode == CLOSE:
            self.transport.write(build_frame(CLOSE, payload[:2], self._key))
            self.transport.close()

    def send_close(self) -> None:
        """Send a close frame; the peer closes the connection."""
        if self.transport is not None:
            self.transport.write(build_frame(CLOSE, (1000).to_bytes(2, "big"), self._key))


class ClientEndpoint(Endpoint):
    """A client: `opened` is done at the first event, `greeted` at the first stamped message of upstream."""

    def __init__(
        self, session: int, request: bytes, latencies: "array[int]", *, forwards_verbatim: bool, api: Api = REALTIME
    ) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.greeted: asyncio.Future[None] = loop.create_future()
        self._key = os.urandom(3) + b"\x5a"  # never all zero, so that unmasking costs what it should
        self._request = request
        self._start = api.start
        self.outgoing = Outgoing(api.up, session, key=self._key, forwards_verbatim=forwards_verbatim)
        self.incoming = Incoming(api.down, latencies, forwards_verbatim=forwards_verbatim)
        self.incoming.session = session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the upgrade request."""
        super().connection_made(transport)
        assert self.transport is not None  # noqa: S101 - set above
        self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the futures that can no longer be done."""
        super().connection_lost(exc)
        for waiting in (self.opened, self.greeted):
            if not waiting.done():
                waiting.set_exception(Refused("the contender closed the connection"))
                waiting.exception()  # retrieved, in case the future is not awaited

    def handshake_received(self, head: bytes) -> None:
        """The response to the upgrade request arrived."""
        status = head.split(b"\r\n", 1)[0].decode("latin-1")
        if " 101" in status:
            if self._start:
                self.write(build_frame(TEXT, self._start, self._key))
        elif not self.opened.done():
            self.opened.set_exception(Refused(status))
            if self.transport is not None:
                self.transport.abort()

    def message(self, payload: bytes) -> None:
        """A message arrived: first the first event, then stamped messages."""
        if not self.opened.done():
            self.opened.set_result(None)
            self.send()
            return
        assert self.incoming is not None  # noqa: S101 - set in __init__
        if self.incoming.receive(payload, self._now) and self.incoming.received == 1 and not self.greeted.done():
            self.greeted.set_result(None)


class UpstreamEndpoint(Endpoint):
    """The upstream endpoint of a connection; calls `on_first_message` at its first stamped message."""

    def __init__(
        self,
        on_first_message: Callable[["UpstreamEndpoint"], None],
        latencies: "array[int]",
        *,
        forwards_verbatim: bool,
        api: Api = REALTIME,
    ) -> None:
        super().__init__()
        self._on_first_message = on_first_message
        self._forwards_verbatim = forwards_verbatim
        self._api = api
        self.incoming = Incoming(api.up, latencies, forwards_verbatim=forwards_verbatim)
        self._further = 0
        self._pings: asyncio.TimerHandle | None = None

    def handshake_received(self, head: bytes) -> None:
        """A request arrived: an upgrade, or a REST request for the model."""
        assert self.transport is not None  # noqa: S101 - data has just arrived
        answer, is_upgrade = answer_to(head)
        self.transport.write(answer)
        if not is_upgrade:
            self.transport.close()
            return
        if not self._api.start:
            self.transport.write(build_frame(TEXT, self._api.first_event))
        self._pings = asyncio.get_running_loop().call_later(PING_SECONDS, self._ping)

    def message(self, payload: bytes) -> None:
        """A message arrived; the first stamped one carries the number of the session."""
        assert self.incoming is not None  # noqa: S101 - set in __init__
        if not self.incoming.receive(payload, self._now):
            self._handle_unstamped(payload)
        elif self.outgoing is None:
            self.outgoing = Outgoing(
                self._api.down, self.incoming.session, key=b"", forwards_verbatim=self._forwards_verbatim
            )
            self._on_first_message(self)
            self.send()

    def _handle_unstamped(self, payload: bytes) -> None:
        if not self._api.start:
            return
        if payload == self._api.start:
            self.write(build_frame(TEXT, self._api.first_event))
        elif payload == self._api.close:
            self.write(build_frame(TEXT, self._api.closed))
            self.send_close()

    def send_further(self) -> None:
        """Send the next event that is no audio."""
        if self.outgoing is not None:
            further = self._api.further
            self.outgoing.use(further[(self.outgoing.session + self._further) % len(further)])
            self._further += 1
            self.send()
            self.outgoing.use(self._api.down)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        super().connection_lost(exc)
        if self._pings is not None:
            self._pings.cancel()

    def _ping(self) -> None:
        if self.transport is not None:
            if not self.is_within_frame:
                self.transport.write(build_frame(PING, os.urandom(4)))
            self._pings = asyncio.get_running_loop().call_later(PING_SECONDS, self._ping)


def answer_to(head: bytes) -> tuple[bytes, bool]:
    """The response to a request: 101 and True if it is an upgrade, otherwise the model that a REST request asks for."""
    headers = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    key = headers.get(b"sec-websocket-key")
    if key is not None:
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept_key(key)
            + b"\r\n\r\n",
            True,
        )
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
        % (len(_MODELS_REPLY), _MODELS_REPLY),
        False,
    )


def accept_key(key: bytes) -> bytes:
    """The value of Sec-WebSocket-Accept for a Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def upgrade_request(path: str, host: str, headers: dict[str, str]) -> bytes:
    """A client's upgrade request."""
    lines = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        **headers,
    }
    return (f"GET {path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines.items()) + "\r\n").encode()


def client_context(bundle: str) -> ssl.SSLContext:
    """A TLS context for a client that connects to upstream directly."""
    return ssl.create_default_context(cafile=bundle)
