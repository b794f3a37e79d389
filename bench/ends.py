"""Both ends of a session, on bare protocols: the client that dials a contender, and the upstream that the contender dials.

They live in one process so that one clock serves both. A session begins with `session.created` from upstream; then the client
says hello with its first stamped message, from which upstream learns who it is, and upstream answers with its own first.
"""

import asyncio
import base64
import hashlib
import json
import os
import ssl
import time
from array import array
from collections.abc import Callable
from typing import Final, cast

from bench.messages import DOWN, UP, Incoming, Outgoing, Template
from bench.wire import CLOSE, PING, PONG, FrameReader, build_frame

PING_SECONDS: Final = 20  # as the provider does
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CHUNK: Final = 65_536
_MODELS_REPLY: Final = b'{"id":"gpt-realtime","object":"model"}'

SESSION_CREATED: Final = json.dumps(
    {
        "type": "session.created",
        "event_id": "event_CaYr0aBcDeFgHiJkLmNoP",
        "session": {
            "type": "realtime",
            "object": "realtime.session",
            "id": "sess_CaYr0aBcDeFgHiJkLmNoQ",
            "model": "gpt-realtime",
            "output_modalities": ["audio"],
            "instructions": "Be brief and friendly. " * 26,
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": "inf",
            "audio": {
                "input": {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": {"type": "server_vad"}},
                "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin", "speed": 1.0},
            },
        },
    },
    separators=(",", ":"),
).encode()


class Refused(Exception):
    """The contender did not upgrade; the message is its status line."""


class End(asyncio.Protocol, FrameReader):
    """What both ends have in common."""

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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's own are not declared to be one

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - what was lost is seen in the counts
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
        """Called by the transport; one look at the clock serves all that one read brought."""
        self._now = time.perf_counter_ns()
        if self._handshake is None:
            self.feed(data)
            return
        self._handshake += data
        head, found, rest = bytes(self._handshake).partition(b"\r\n\r\n")
        if found:
            self._handshake = None
            self.shaken(head)
            if rest:
                self.feed(rest)

    def shaken(self, head: bytes) -> None:
        """The head of the HTTP message came."""
        raise NotImplementedError

    def send(self) -> None:
        """Send the next message of the direction that begins here."""
        if self.outgoing is None:
            return
        frame = self.outgoing.next(time.perf_counter_ns())
        if self.transport is not None:  # else it counts as sent, and will be found lost
            self.transport.write(frame)

    async def send_large(self, large: Template, usual: Template) -> None:
        """Send one large message as its receiver takes it, leaving the loop to the other sessions in between."""
        assert self.outgoing is not None  # noqa: S101 - whoever calls this has connected
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
        """A piece of a large message came."""
        if self.incoming is not None:
            self.incoming.take_piece(payload, time.perf_counter_ns(), is_last=is_last)

    def control(self, opcode: int, payload: bytes) -> None:
        """A control frame came."""
        if self.transport is None:
            return
        if opcode == PING:
            self.transport.write(build_frame(PONG, payload, self._key))
        elif opcode == CLOSE:
            self.transport.write(build_frame(CLOSE, payload[:2], self._key))
            self.transport.close()

    def hang_up(self) -> None:
        """Say goodbye; the other side closes."""
        if self.transport is not None:
            self.transport.write(build_frame(CLOSE, (1000).to_bytes(2, "big"), self._key))


class ClientEnd(End):
    """A caller: `opened` is done at the first event, `greeted` once upstream has answered the hello."""

    def __init__(
        self, session: int, request: bytes, latencies: "array[int]", *, is_verbatim: bool, sends: Template = UP
    ) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.greeted: asyncio.Future[None] = loop.create_future()
        self._key = os.urandom(3) + b"\x5a"  # never all zero, which would leave nothing to unmask
        self._request = request
        self.outgoing = Outgoing(sends, session, key=self._key, is_verbatim=is_verbatim)
        self.incoming = Incoming(DOWN, latencies, is_verbatim=is_verbatim)
        self.incoming.session = session

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        super().connection_made(transport)
        assert self.transport is not None  # noqa: S101 - set just now
        self.transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody shall wait for what will not come."""
        super().connection_lost(exc)
        for waiting in (self.opened, self.greeted):
            if not waiting.done():
                waiting.set_exception(Refused("the contender hung up"))
                waiting.exception()  # seen, should nobody wait

    def shaken(self, head: bytes) -> None:
        """The answer to the upgrade."""
        status = head.split(b"\r\n", 1)[0].decode("latin-1")
        if " 101" not in status and not self.opened.done():
            self.opened.set_exception(Refused(status))
            if self.transport is not None:
                self.transport.abort()

    def message(self, payload: bytes) -> None:
        """A message came: the first event, then stamped ones."""
        if not self.opened.done():
            self.opened.set_result(None)
            self.send()
            return
        assert self.incoming is not None  # noqa: S101 - set when this was made
        if self.incoming.take(payload, self._now) and self.incoming.received == 1 and not self.greeted.done():
            self.greeted.set_result(None)


class UpstreamEnd(End):
    """The provider's end of a connection; `met` is told of each that says hello."""

    def __init__(
        self,
        met: Callable[["UpstreamEnd"], None],
        latencies: "array[int]",
        *,
        is_verbatim: bool,
        receives: Template = UP,
    ) -> None:
        super().__init__()
        self._met = met
        self._is_verbatim = is_verbatim
        self.incoming = Incoming(receives, latencies, is_verbatim=is_verbatim)
        self._pings: asyncio.TimerHandle | None = None

    def shaken(self, head: bytes) -> None:
        """A request: an upgrade, or the question whether the model exists."""
        assert self.transport is not None  # noqa: S101 - it has just spoken
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
        }
        key = headers.get(b"sec-websocket-key")
        if key is None:
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
                % (len(_MODELS_REPLY), _MODELS_REPLY)
            )
            self.transport.close()
            return
        accept = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
        self.transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept
            + b"\r\n\r\n"
            + build_frame(0x1, SESSION_CREATED)
        )
        self._pings = asyncio.get_running_loop().call_later(PING_SECONDS, self._ping)

    def message(self, payload: bytes) -> None:
        """A message came; the first stamped one says whose session this is."""
        assert self.incoming is not None  # noqa: S101 - set when this was made
        if self.incoming.take(payload, self._now) and self.outgoing is None:
            self.outgoing = Outgoing(DOWN, self.incoming.session, key=b"", is_verbatim=self._is_verbatim)
            self._met(self)
            self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport."""
        super().connection_lost(exc)
        if self._pings is not None:
            self._pings.cancel()

    def _ping(self) -> None:
        if self.transport is not None:
            self.transport.write(build_frame(PING, os.urandom(4)))
            self._pings = asyncio.get_running_loop().call_later(PING_SECONDS, self._ping)


def upgrade_request(path: str, host: str, headers: dict[str, str]) -> bytes:
    """A client's request for the upgrade."""
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
    """For a client that dials the upstream itself."""
    return ssl.create_default_context(cafile=bundle)
