"""A conversation on an open socket, for the few words that the doctor says: events, pings, goodbye."""

import asyncio
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from service.realtime.closing import parse_close, sendable_close_code
from service.realtime.frames import Scanner
from service.realtime.framing import Opcode
from service.realtime.items import Chunk, Completed, Control, Item, Message, Violation
from service.upstream.dial import Connected

_READ_TYPES: Final = frozenset({"error", "session.created", "response.done"})
_MAX_MESSAGE_BYTES: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Event:
    """An event; `body` only of the few types that the doctor reads, else empty."""

    type: str
    body: Mapping[str, object]


class HungUp(Exception):
    """The peer has closed the socket; no code means that it fell silent without CLOSE."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(code)
        self.code = code
        self.reason = reason


class EventStream:
    """One socket past its upgrade. Close it."""

    def __init__(self, connected: Connected) -> None:
        self._connected = connected
        self._reader = Scanner(masked=False, max_message_bytes=_MAX_MESSAGE_BYTES, read_types=_READ_TYPES)
        self._heard: asyncio.Queue[Event | HungUp] = asyncio.Queue()
        self._pongs: asyncio.Queue[bytes] = asyncio.Queue()
        self._payload: bytes | None = None
        self._lost = False
        self._take(connected.items)
        connected.leg.start(self)
        connected.leg.release("gate")

    async def next_event(self, seconds: float) -> Event:
        """The next event; raises HungUp, or TimeoutError."""
        async with asyncio.timeout(seconds):
            heard = await self._heard.get()
        if isinstance(heard, HungUp):
            self._heard.put_nowait(heard)  # it stays so
            raise heard
        return heard

    def send(self, event: Mapping[str, object]) -> None:
        """Send an event."""
        self._connected.leg.send_event(json.dumps(event, separators=(",", ":")).encode())

    async def ping(self, seconds: float) -> float:
        """The time from a ping to its pong, in seconds; raises TimeoutError."""
        payload = os.urandom(4)
        since = time.perf_counter()
        self._connected.leg.send_control(Opcode.PING, payload)
        async with asyncio.timeout(seconds):
            while await self._pongs.get() != payload:
                pass
        return time.perf_counter() - since

    async def close(self) -> None:
        """Say goodbye and hang up."""
        await self._connected.close()

    # -- the leg's receiver -------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Called by the leg."""
        self._take(self._connected.scanner.feed(data))

    def peer_lost(self) -> None:
        """Called by the leg."""
        if not self._lost:
            self._lost = True
            self._heard.put_nowait(HungUp(None, ""))

    def _take(self, items: Iterable[Item]) -> None:
        for item in items:
            match item:
                case Chunk() | Message():
                    self._read(self._reader.feed(item.raw))
                case Control(Opcode.PING, payload):
                    self._connected.leg.send_control(Opcode.PONG, payload)
                case Control(Opcode.PONG, payload):
                    self._pongs.put_nowait(payload)
                case Control(Opcode.CLOSE, payload):
                    code, reason = parse_close(payload)
                    self._connected.leg.send_close(sendable_close_code(code), "")
                    self._lost = True
                    self._heard.put_nowait(HungUp(code, reason))
                case Violation(code, detail):
                    self._lost = True
                    self._heard.put_nowait(HungUp(code, detail))
                case _:
                    pass  # told by the second scanner

    def _read(self, items: Iterable[Item]) -> None:
        for item in items:
            match item:
                case Message(_, payload, _):
                    self._payload = payload
                case Completed(kind, _):
                    body, self._payload = _parse(self._payload), None
                    self._heard.put_nowait(Event(kind or "", body))
                case _:
                    pass  # a piece of an event that is not read


def _parse(payload: bytes | None) -> Mapping[str, object]:
    try:
        body = json.loads(payload or b"{}")
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, Mapping) else {}
