"""Reads and sends single events on an upstream connection, for health checks and the doctor. Sessions use pipes."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.deadlines import Deadline
from service.realtime import live
from service.realtime.events import parse_object
from service.realtime.frames import Opcode
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Item, Message, MessageEnd, Violation
from service.upstream.dial import UpstreamConnection
from service.wire.control import handle_control

_READ_TYPES: Final = frozenset({"error", "session.created", "response.done", live.SESSION_STARTED, live.SESSION_CLOSED})


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One event. `body` is parsed for the types in `_READ_TYPES`, else empty.

    `type` is empty if the whole message shows none. Such a message proves nothing about the connection.
    """

    type: str
    body: Mapping[str, Any]


class StreamClosed(Exception):
    """The connection has ended. `code` is that of the peer's close frame: None if it had none, or if no frame came."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason


class ProtocolViolation(StreamClosed):
    """The peer violated RFC 6455 or sent too large a message. `code` is the close code for it, `reason` describes it."""


class EventStream:
    """The events of one connection, from the first one on.

    The stream becomes the receiver of the leg: it answers pings and close frames even while `next_event` is not being
    called. It queues events without a limit, so keep reading. It does not close the connection by itself: call `close`.
    """

    def __init__(self, connected: UpstreamConnection) -> None:
        self._connected = connected
        # The connection's own scanner yields other types as messages; it also enforces the limit on their size.
        self._events = Scanner(masked=False, max_message_bytes=sys.maxsize, parsed_types=_READ_TYPES)
        self._received: asyncio.Queue[ServerEvent | None] = asyncio.Queue()  # None: the end
        self._pongs: asyncio.Queue[bytes] = asyncio.Queue()
        self._payload: bytes | None = None  # of the message whose end comes next
        self._ended: tuple[type[StreamClosed], int | None, str] | None = None
        self._process(connected.items)
        connected.leg.start(self)

    async def next_event(self, timeout_seconds: float) -> ServerEvent:
        """Wait for the next event.

        Raises StreamClosed after the last event, and again on every later call. Raises TimeoutError after
        `timeout_seconds`. Timeout and cancellation lose no event. Concurrent calls are not supported.
        """
        async with Deadline(timeout_seconds):
            event = await self._received.get()
        if event is None:
            self._received.put_nowait(None)
            assert self._ended is not None  # noqa: S101 - set before None is queued
            error, code, reason = self._ended
            raise error(code, reason)
        return event

    async def first_event(self, timeout_seconds: float) -> ServerEvent:
        """Wait for the next event that has a type, like `next_event`. Messages without one prove nothing and are skipped."""
        async with Deadline(timeout_seconds):
            while True:
                event = await self.next_event(timeout_seconds)
                if event.type:
                    return event

    def send(self, event: Mapping[str, object]) -> None:
        """Send an event; does nothing after the connection has closed."""
        self._connected.leg.send_event(json.dumps(event, separators=(",", ":")).encode())

    async def ping(self, timeout_seconds: float) -> float:
        """Send a ping and return the seconds until its pong; raises TimeoutError."""
        payload = os.urandom(4)
        sent_at = time.perf_counter()
        self._connected.leg.send_control(Opcode.PING, payload)
        async with Deadline(timeout_seconds):
            while await self._pongs.get() != payload:
                pass  # a pong that nothing asked for (RFC 6455 section 5.5.3)
        return time.perf_counter() - sent_at

    async def close(self) -> None:
        """Close the connection; see `UpstreamConnection.close`."""
        await self._connected.close()

    # -- the leg's receiver -------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Process the next bytes; called by the leg."""
        self._process(self._connected.scanner.feed(data))

    def peer_lost(self) -> None:
        """Record that the connection ended without a close frame; called by the leg."""
        self._end(StreamClosed, None, "")

    def _process(self, items: Iterable[Item]) -> None:
        for item in items:
            match item:
                case Chunk() | Message():
                    self._process_events(self._events.feed(item.raw))
                case ControlFrame(Opcode.PONG, payload):
                    self._pongs.put_nowait(payload)
                case ControlFrame() | Violation():
                    end = handle_control(self._connected.leg, item)
                    if end is not None:
                        self._end(ProtocolViolation if end.is_violation else StreamClosed, end.code, end.reason)
                case _:
                    pass  # MessageEnd: `_events` yields it as well

    def _process_events(self, items: Iterable[Item]) -> None:
        for item in items:
            match item:
                case Message(_, payload, _):
                    self._payload = payload
                case MessageEnd(event_type, _):
                    body, self._payload = parse_object(self._payload or b""), None
                    self._received.put_nowait(ServerEvent(event_type or "", body))
                case _:
                    pass  # part of an event whose body is not read

    def _end(self, error: type[StreamClosed], code: int | None, reason: str) -> None:
        if self._ended is None:
            self._ended = (error, code, reason)
            self._received.put_nowait(None)
