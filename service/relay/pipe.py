"""One direction of a session: scan, count, forward, hold back.

A pipe reads one leg and writes the other. Data frames go on verbatim; control frames belong to the leg that they came
on. When the sink is full the source is held back, so that a stuck peer costs `WRITE_HIGH_BYTES` and one read.
"""

import time
from collections.abc import Callable
from typing import Final, Protocol

from service.realtime.closing import parse_close
from service.realtime.events import Direction
from service.realtime.frames import Opcode
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, Completed, Control, Item, Message, Violation
from service.realtime.server_events import ParsedEvent, parse_server_event
from service.relay.latency import OF_CLIENTS, LatencyTimer
from service.telemetry.traffic import Traffic
from service.wire.leg import Leg

LOOK_SECONDS: Final = 0.005
LOOK_BYTES: Final = 8192
"""So long at most, and so much at a time, is a CLOSE looked for in what a held source has sent."""


class Owner(Protocol):
    """The session, as its pipes see it."""

    def peer_closed(self, direction: Direction, code: int | None, reason: str) -> None:
        """The pipe's source said CLOSE."""

    def peer_lost(self, direction: Direction) -> None:
        """The pipe's source is gone without a word."""

    def peer_broke_protocol(self, direction: Direction, violation: Violation) -> None:
        """The pipe's source sent what it must not."""

    def event_read(self, reading: ParsedEvent) -> None:
        """One of the events went by that the relay looks into."""

    def redact(self, text: str) -> str:
        """A text without secrets."""

    def failed(self) -> None:
        """The relay itself failed; called while the exception is handled."""


class Pipe:
    """Carries one direction. `draining_to_close` makes it look for the peer's CLOSE only."""

    def __init__(
        self, source: Leg, sink: Leg, scanner: Scanner, *, traffic: Traffic, turn: LatencyTimer, owner: Owner
    ) -> None:
        self._source = source
        self._sink = sink
        self._scanner = scanner
        self._traffic = traffic
        self._turn = turn
        self._of_upstream = traffic.direction == Direction.UPSTREAM_TO_CLIENT
        self._direction = traffic.direction
        self._owner = owner
        self.draining_to_close = False
        self.messages = 0
        self.controls = 0
        self.bytes = 0
        self.held_back_seconds = 0.0
        self._held_back_at: float | None = None
        self.after_take: Callable[[], None] | None = None  # called when the slow path has handed something on
        sink.on_full = self._hold_back
        sink.on_writable = self._let_go

    @property
    def at_message_boundary(self) -> bool:
        """Whether an event of our own may be written to the sink now."""
        return self._scanner.at_message_boundary and not self._scanner.mid_frame

    @property
    def frames(self) -> int:
        """All frames of the source so far."""
        return self.messages + self.controls + self._scanner.fragments

    def receive(self, data: bytes) -> None:
        """Take the next bytes of the source."""
        try:
            kind = self._scanner.whole_event_type(data)
            if kind is None:
                self.take(self._scanner.feed(data))
            elif not self.draining_to_close:
                self._forward(data)
                self._count(kind)
        except Exception:  # noqa: BLE001 - whatever escapes here is our bug; the session has to end, others must not notice
            self._owner.failed()

    def take(self, items: list[Item]) -> None:
        """Handle what the scanner made of the source's bytes."""
        for item in items:
            match item:
                case Control(opcode, payload):
                    self._take_control(opcode, payload)
                case _ if self.draining_to_close:
                    pass
                case Chunk(raw, mid_frame):
                    self._forward(raw, mid_frame=mid_frame)
                case Completed(kind, _):
                    self._count(kind)
                case Message(kind, payload, raw):
                    self._take_message(kind, payload, raw)
                case Violation():
                    self._owner.peer_broke_protocol(self._direction, item)
        if self.after_take is not None:
            self.after_take()

    def peer_lost(self) -> None:
        """The source is gone."""
        self._owner.peer_lost(self._direction)

    def look_for_close(self) -> None:
        """While the source is held back, see whether its CLOSE waits behind what was not read."""
        unread, until = self._source.peek(), time.perf_counter() + LOOK_SECONDS
        # A copy scans ahead; the pipe's own scanner stays where the reading stopped.
        lookahead = self._scanner.copy() if unread else self._scanner
        for at in range(0, len(unread), LOOK_BYTES):
            for item in lookahead.feed(unread[at : at + LOOK_BYTES]):
                if isinstance(item, Control) and item.opcode is Opcode.CLOSE:
                    self._owner.peer_closed(self._direction, *parse_close(item.payload))
                    return
            if time.perf_counter() > until:
                return  # a flood of small frames; that its sender is gone, the kernel will tell

    def stop_holding_back(self) -> None:
        """Read the source again: the session ends, and its CLOSE has to be seen."""
        self._let_go()
        self._sink.on_full = self._sink.on_writable = None

    def _forward(self, raw: bytes, *, mid_frame: bool = False) -> None:
        self._sink.write(raw, mid_frame=mid_frame)
        size = len(raw)
        self.bytes += size
        self._traffic.bytes += size

    def _count(self, kind: str | None) -> None:
        self.messages += 1
        self._traffic.count(kind)
        if kind in (self._turn.watched if self._of_upstream else OF_CLIENTS):
            self._turn.passed(kind)

    def _take_control(self, opcode: Opcode, payload: bytes) -> None:
        self.controls += 1
        if opcode is Opcode.PING:
            self._source.send_control(Opcode.PONG, payload)
        elif opcode is Opcode.CLOSE:
            self._owner.peer_closed(self._direction, *parse_close(payload))

    def _take_message(self, kind: str, payload: bytes, raw: bytes) -> None:
        """An event that may tell of a failure: passed on untouched, unless its words carry a piece of a key."""
        reading = parse_server_event(kind, payload)
        self._owner.event_read(reading)
        if reading.incident is None:  # a response that is well may speak of anything, keys included
            self._forward(raw)
            return
        text = payload.decode("utf-8", "surrogateescape")
        clean = self._owner.redact(text)
        if clean == text:
            self._forward(raw)
        else:
            self._sink.send_event(clean.encode("utf-8", "surrogateescape"))

    def _hold_back(self) -> None:
        self._held_back_at = self._traffic.hold()
        self._source.hold("sink_full")

    def _let_go(self) -> None:
        self._source.release("sink_full")
        if self._held_back_at is not None:
            self.held_back_seconds += self._traffic.release(self._held_back_at)
            self._held_back_at = None
