"""One connection of a session after its upgrade: reads, writes, backpressure, keepalive.

Invariants of this file:

* One writer per socket: all that is sent on a leg goes through its `write`, `send_event`, `send_control`, `send_close`.
* Control frames wait for a frame boundary, the relay's own events for a message boundary. After CLOSE nothing is written.
* A full leg reports it (`on_full`, `on_writable`) and its owner holds back the other leg. What a leg buffers for a peer that
  does not read is bounded: `WRITE_HIGH_BYTES`, one read of the other leg, and one pong.
* A held leg receives no events from the event loop, not even the peer's FIN or RST: poll `peer_disconnected`.
"""

import asyncio
import math
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.wire import tcp
from service.wire.losses import losses_of
from service.wire.outlet import drop
from service.wire.receiver import OnRead, Receiver
from service.wire.signs_of_life import SignsOfLife
from service.wire.small_writes import SMALL_BYTES, SmallWrites
from service.wire.turns import CHEAP_SECONDS, Debt, scheduler_of

WRITE_HIGH_BYTES: Final = 65_536
"""A leg with more unsent data than this is full, also one with many small writes. 64 KiB is one second of speech as the API
carries it (64 kB/s)."""

SLICE_BYTES: Final = 65_536
"""A longer read is delivered in slices (`turns.py`). A read may return 256 KiB, and the loop would read 32 times in a row."""

HoldReason = Literal["backlog", "journal_full", "no_receiver", "sink_full"]
"""Why a leg is not read: bytes of a read wait, its journal or the other leg is full, or it has no receiver yet."""
_UNDELIVERED: Final[frozenset[HoldReason]] = frozenset({"journal_full", "no_receiver"})
"""Read bytes wait as well: to keep them as items takes up to thirty times their size."""


class Leg(SignsOfLife):
    """One WebSocket connection after its upgrade, taken over from aiohttp by `wire.seam`. `masks`: frames sent are masked.

    Ownership: one owner at a time starts a receiver, writes, and ends the leg with `close_leg` or `abort`. A leg that is
    dropped without either keeps its socket. All calls are made in the event loop's thread; none of them waits.
    Reading: bytes are delivered in order, and before `peer_lost`. `hold` and `release` name a reason; the transport is read
    while no reason is left. Bytes that have already been read are delivered if the other leg is full, else they wait.
    Writing: the leg is the only writer of its socket. Frames are sent in the order of the calls, except that control frames
    wait for a frame boundary. A full leg calls `on_full`, later `on_writable`. After CLOSE, and once the socket is closing,
    everything written is dropped.
    Errors: no call raises for a lost connection. `peer_lost` reports it, and `closed` is done once the socket is closed.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        aiohttp_protocol: asyncio.BaseProtocol,
        early_data: bytes,
        *,
        masks: bool,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(transport, masks=masks)
        self.write_frames = transport.write
        self._aiohttp_protocol = aiohttp_protocol
        self._receiver: Receiver | None = None
        self._eof = False  # the peer will send nothing more
        self._mid_frame = False  # the last write ended inside a frame
        self._close_sent = False
        self._pending_control: list[bytes] = []  # control frames that wait for a frame boundary
        self._pending_pong: bytes | None = None  # the newest; earlier pings need no answer (RFC 6455 section 5.5.3)
        self._hold_reasons: set[HoldReason] = set()
        self.backlog = bytearray(early_data)  # has been read, and is delivered in later turns of the event loop
        self._waits_for_turn = False
        self._turns = scheduler_of(self._loop)
        self._losses = losses_of(self._loop)
        self.debt = Debt()
        self.held_since: float | None = None
        self.on_full: Callable[[], None] | None = None
        self.on_writable: Callable[[], None] | None = None
        self._on_lost = on_lost
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self._small_writes = SmallWrites(transport, WRITE_HIGH_BYTES)
        tcp.enable_dead_peer_detection(transport, tcp.UPSTREAM_TIMEOUT_MS if masks else tcp.CLIENT_TIMEOUT_MS)

    # -- reading ------------------------------------------------------------------------------------------------------

    def start(self, receiver: Receiver, on_read: OnRead | None = None) -> None:
        """Deliver all bytes to `receiver`, those that arrived earlier included; another call replaces the receiver.

        It releases `no_receiver`. `on_read` is called by the transport for each read, without a detour. It passes to
        `receive_read` what it does not process. A held leg has no reads, so that none can overtake bytes that wait.
        """
        self._receiver, early = receiver, b""
        if not (self._waits_for_turn or self._turns.is_spent or len(self.backlog) > SLICE_BYTES):
            early = bytes(self.backlog)
            self.backlog.clear()
            self.release("backlog")
        self.release("no_receiver")
        if on_read is not None or "data_received" in self.__dict__:
            self.__dict__.pop("data_received", None)
            if on_read is not None:
                self.__dict__["data_received"] = on_read  # hides the method
            if not self._eof:  # else it has dropped the leg, and would keep it until the garbage is collected
                self._transport.set_protocol(self)  # which looks it up once
        if early:
            self._receive(early)
        if not self.backlog:
            self._report_end()

    def _report_end(self) -> None:
        if self._eof:
            self._end_of_stream()
        if self.closed.done():
            # They refer to the session, which would wait for the garbage collector.
            self._receiver = self.on_full = self.on_writable = None
            self.__dict__.pop("data_received", None)

    def receive_read(self, data: bytes) -> None:
        """Deliver a read to the receiver, now or in a later turn of the event loop."""
        self.note_life()
        if self._receiver is None:
            self.backlog += data
            self.hold("no_receiver")  # else the transport would read 32 times in a row
        elif self.backlog or len(data) > SLICE_BYTES or self._turns.is_spent or self.debt.is_heavy:
            self._wait_for_turn(data)
        else:
            self._receive(data)

    data_received = receive_read
    """Called by the transport."""

    def _receive(self, data: bytes) -> None:
        turns, clock = self._turns, self._turns.clock
        started = clock()
        self._receiver.receive(data)  # type: ignore[union-attr]  # callers have one
        seconds = clock() - started
        turns.uncharged_seconds += seconds
        if turns.uncharged_seconds > CHEAP_SECONDS:
            turns.charge(self, seconds)

    def charge_look(self, seconds: float) -> None:
        """Count a search of the bytes that `peek` returned."""
        self._turns.charge_look(self, seconds)

    def put_back(self, data: bytes) -> None:
        """Called by the receiver: deliver the end of this delivery in a later turn of the event loop."""
        self.backlog[:0] = data
        self._wait_for_turn(b"")

    def _wait_for_turn(self, data: bytes) -> None:
        self.backlog += data
        if not self._waits_for_turn:
            self._waits_for_turn = True
            self.hold("backlog")
            self._turns.add(self)

    def deliver(self, size: int) -> bool:
        """Called by the scheduler of turns. `start` and `release` queue the leg again."""
        if self._receiver is None or not self._hold_reasons.isdisjoint(_UNDELIVERED):
            self._waits_for_turn = False
            return False
        part = bytes(self.backlog[:size])
        del self.backlog[:size]
        if part:
            self._receiver.receive(part)
        if self.backlog:
            return True
        self._waits_for_turn = False
        self.release("backlog")
        self._report_end()
        return False

    def eof_received(self) -> bool:
        """Called by the transport. A WebSocket has no half-open state: FIN ends the connection."""
        self._eof, self.write_frames = True, drop
        self._losses.report(self._end_of_stream)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport, once."""
        self._eof, self.write_frames = True, drop
        self._losses.report(lambda: self._report_loss(exc))

    def _report_loss(self, exc: Exception | None) -> None:
        self._aiohttp_protocol.connection_lost(exc)
        if self._on_lost is not None:
            self._on_lost()
            self._on_lost = None
        if not self.closed.done():
            self.closed.set_result(None)
        if not self.backlog:
            self._report_end()

    def _end_of_stream(self) -> None:
        self._eof = True
        if self._receiver is not None and not self.backlog:  # else it is reported after the last byte
            self._receiver.peer_lost()

    def hold(self, reason: HoldReason) -> None:
        """Stop reading; the peer's sending then stops at the TCP window. Holding twice for one reason has no effect."""
        if not self._hold_reasons:
            self.held_since = self._loop.time()
            if not self._transport.is_closing():
                self._transport.pause_reading()
        self._hold_reasons.add(reason)

    def release(self, reason: HoldReason) -> None:
        """Resume reading, unless another reason is left. Releasing a reason that does not hold has no effect."""
        self._hold_reasons.discard(reason)
        if self.backlog and not self._waits_for_turn:
            self._wait_for_turn(b"")
        if self._hold_reasons or self.held_since is None:
            return
        self.held_since = None
        self.last_alive_at = self.last_received_at = self._loop.time()  # the silence was not the peer's
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def peer_disconnected(self) -> bool:
        """Whether the peer has closed the connection. Asks the kernel, since the event loop does not watch a held leg."""
        if self._eof or self._transport.is_closing():
            return True
        return self._is_gone(is_delivering=self._waits_for_turn)

    def peek(self) -> bytes:
        """What a held leg has not delivered, left in place. Empty while work has to wait; on TLS only what has been read."""
        if self._waits_for_turn or self._transport.is_closing() or not self._turns.may_look(self):
            return b""
        return bytes(self.backlog) + tcp.peek_unread(self._transport)

    # -- writing ------------------------------------------------------------------------------------------------------

    @property
    def can_send(self) -> bool:
        """Whether the relay may write a frame of its own now: at a frame boundary, before CLOSE, on an open socket."""
        return not (self._mid_frame or self._close_sent or self._transport.is_closing())

    @property
    def at_eof(self) -> bool:
        """Whether the peer will send nothing more."""
        return self._eof

    @property
    def buffered_bytes(self) -> int:
        """The number of bytes that have been written and not yet passed to the kernel."""
        return self._transport.get_write_buffer_size()

    def write(self, raw: bytes, *, mid_frame: bool = False) -> None:
        """Send bytes of data frames. `mid_frame`: they end inside a frame, which the next write continues."""
        if self._close_sent or self._transport.is_closing():
            return
        if len(raw) < SMALL_BYTES:
            self._small_writes.add()
        self._transport.write(raw)
        self._mid_frame = mid_frame
        if not mid_frame and (self._pending_control or self._pending_pong is not None):
            self._send_pending()

    def drop_data(self) -> None:
        """Send no more data frames, at a frame boundary; control frames go on."""
        self.write_frames = drop
        self.__dict__["write"] = _drop_write  # hides the method

    def send_event(self, payload: bytes) -> None:
        """Send an event of the relay's own. The caller guarantees a message boundary."""
        self.write(build_frame(Opcode.TEXT, payload, self._mask_key()))

    def send_control(self, opcode: Opcode, payload: bytes) -> None:
        """Send a ping or a pong at the next frame boundary; a pong only once the leg is not full."""
        if self._close_sent or self._transport.is_closing():
            return
        if opcode is Opcode.PONG and (self._mid_frame or self.full_since is not None):
            self._pending_pong = payload
        elif self._mid_frame:
            self._pending_control.append(build_frame(opcode, payload, self._mask_key()))
        else:
            self._small_writes.add()
            self._transport.write(build_frame(opcode, payload, self._mask_key()))

    def send_probe(self) -> float:
        """Send a ping; return its time. Only what is received from now on makes `last_received_at` as late as that."""
        now = self._loop.time()  # uvloop's has a resolution of 1 ms: a pong may arrive at the same time
        self.last_received_at = min(self.last_received_at, math.nextafter(now, 0.0))
        self.send_control(Opcode.PING, b"")
        return now

    def send_close(self, code: int | None, reason: str) -> bool:
        """Send a close frame, the last; return whether one has been sent, which is impossible inside a frame."""
        if not self.can_send:
            return self._close_sent
        self._transport.write(build_frame(Opcode.CLOSE, close_payload(code, reason), self._mask_key()))
        self._close_sent = True
        self.write_frames = drop
        self._pending_control.clear()
        self._pending_pong = None
        return True

    def close(self) -> None:
        """Close the socket once everything has been sent."""
        self.write_frames = drop
        self._transport.close()

    def write_eof(self) -> None:
        """Send FIN after everything written, and go on reading: closing a socket with unread bytes resets it.

        Does nothing on TLS, which has no half-open state.
        """
        with suppress(OSError):  # already disconnected
            if self._transport.can_write_eof() and not self._transport.is_closing():
                self.write_frames = drop
                self._transport.write_eof()

    def abort(self) -> None:
        """Close the socket immediately; drop what is unsent or undelivered."""
        self.backlog.clear()
        self.write_frames = drop
        self._transport.abort()

    def pause_writing(self) -> None:
        """Called by the transport: more than `WRITE_HIGH_BYTES` are unsent, or as many small writes as may wait."""
        self.full_since = self._loop.time()
        self._acknowledged_bytes = 0
        if self.on_full is not None:
            self.on_full()

    def resume_writing(self) -> None:
        """Called by the transport: the peer has caught up."""
        self.full_since = None
        self._small_writes.written()
        if self._pending_pong is not None and not self._mid_frame:
            self._send_pending()
        if self.on_writable is not None:
            self.on_writable()

    def _send_pending(self) -> None:
        if self._pending_pong is not None and self.full_since is None:
            self._pending_control.append(build_frame(Opcode.PONG, self._pending_pong, self._mask_key()))
            self._pending_pong = None
        pending, self._pending_control = self._pending_control, []
        for frame in pending:
            self._transport.write(frame)

    def _mask_key(self) -> bytes:
        return os.urandom(4) if self._masks else b""


def _drop_write(_: bytes, *, mid_frame: bool = False) -> None:
    """Nothing more is sent."""
