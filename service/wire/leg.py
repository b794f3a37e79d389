"""One socket of a session: read, write, hold back, abort.

Rules of this file:

* One writer per socket: whatever goes out on a leg goes through its `write`, `send_event`, `send_control`, `send_close`.
* Control frames wait for a frame boundary, our own events for a message boundary. After CLOSE nothing is written.
* A full leg says so (`on_full`, `on_drained`) and its owner holds back the reading of the other side. What a leg can hold
  of a peer that does not read is bounded: `WRITE_HIGH_BYTES`, one read of the other side, and one pong.
* A leg that is held back notices nothing by itself, not even that its peer is gone: `peer_is_gone` has to be asked.
"""

import asyncio
import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal, Protocol

from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame

WRITE_HIGH_BYTES: Final = 65_536
"""Above this much unsent data a leg is full. 64 KiB is one second of speech as the API carries it (64 kB/s)."""

PROGRESS_BYTES: Final = 16_384
"""A peer that takes less than this in the time that it gets is stuck; a quarter of a second of speech in twenty seconds."""
QUIET_SECONDS: Final = 25.0
"""After so long without a word, longer than from ping to ping, it is asked whether a client takes what it is sent: its pongs
may wait behind much else."""
PATIENCE_SECONDS: Final = 120.0
"""Who takes everything and says nothing for longer is gone all the same: what acknowledges may be a proxy before it."""

SLICE_BYTES: Final = 65_536
"""What a read brought beyond this waits for the loop's next turn, and so does reading on. A read may bring 256 KiB, and the
loop would read 32 times in a row; in the smallest frames each takes a sixth of a second, and all other sessions wait."""

PEEK_BYTES: Final = 1 << 20
"""How far into unread bytes a CLOSE is looked for: 16 seconds of speech."""

_TCP_INFO_BYTES: Final = 128
_BYTES_ACKED_AT: Final = 120  # tcpi_bytes_acked in Linux's struct tcp_info, since 4.1

# The kernel gives up an upstream that acknowledges nothing, or keeps its window at zero, after 20 s. A client may play slowly
# what came fast, its window at zero meanwhile, and gets 60 s; one that vanished is found by our pings (39 s). A user timeout
# takes the place of the count of keepalive probes (tcp(7)), which holds where there is none.
_KEEPALIVE: Final = (
    (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
    (socket.IPPROTO_TCP, "TCP_KEEPIDLE", 20),
    (socket.IPPROTO_TCP, "TCP_KEEPINTVL", 5),
    (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
)
_USER_TIMEOUT_MS: Final = {"client": 60_000, "upstream": 20_000}


HoldReason = Literal["backlog", "first_event", "sink_full"]
"""Why a leg is not read: bytes of an earlier read wait, its next owner has not started, the other leg is full."""


class Receiver(Protocol):
    """Who reads a leg: the dial's gate first, then a pipe."""

    def receive(self, data: bytes) -> None:
        """Take the next bytes."""

    def peer_lost(self) -> None:
        """The peer is gone: end of file, reset or abort. May be told more than once."""


class Leg(asyncio.Protocol):
    """One socket after its upgrade, taken over from aiohttp.

    `masks` says whether what is written must be masked (towards a server). `host` is aiohttp's protocol for the socket; it
    is told when the connection is lost, so that aiohttp's registries stay right.
    """

    def __init__(self, transport: asyncio.Transport, host: asyncio.BaseProtocol, early: bytes, *, masks: bool) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._transport = transport
        self._host = host
        self._masks = masks
        self._receiver: Receiver | None = None
        self._early = bytearray(early)
        self._eof = False  # the peer will send nothing more
        self._mid_frame = False  # the last thing written was part of a frame
        self._close_sent = False
        self._waiting: list[bytes] = []  # control frames that wait for a frame boundary
        self._pong: bytes | None = (
            None  # the newest pong that waits; older ones need no answer (RFC 6455 section 5.5.3)
        )
        self._holds: set[HoldReason] = set()
        self._backlog = bytearray()  # read, and to be handed on in the next turns
        self.full_since: float | None = None  # and since then its peer has taken next to nothing
        self._taken = 0  # what the peer had acknowledged at the last look that found progress
        self.held_since: float | None = None
        self.heard_at: float = loop.time()
        self._spoke_at = self.heard_at  # what is acknowledged is no word
        self.on_full: Callable[[], None] | None = None
        self.on_drained: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.closed: asyncio.Future[None] = loop.create_future()
        transport.set_write_buffer_limits(high=WRITE_HIGH_BYTES)
        _watch_for_dead_peer(transport, _USER_TIMEOUT_MS["upstream" if masks else "client"])

    # -- reading ------------------------------------------------------------------------------------------------------

    def start(self, receiver: Receiver) -> None:
        """Hand all that came and comes to `receiver`; it may be replaced later by another start."""
        self._receiver = receiver
        if self._early:
            self._backlog[:0], self._early = self._early, bytearray()
            self._next_slice()
        if self._eof:
            self._lose()
        if self.closed.done():
            self._forget()

    def data_received(self, data: bytes) -> None:
        """Called by the transport."""
        self.heard_at = self._spoke_at = self._loop.time()
        if self._receiver is None:
            self._early += data
        elif self._backlog or len(data) > SLICE_BYTES:
            is_first = not self._backlog
            self._backlog += data
            if is_first:
                self._next_slice()
        else:
            self._receiver.receive(data)

    def _next_slice(self) -> None:
        part = bytes(self._backlog[:SLICE_BYTES])
        del self._backlog[:SLICE_BYTES]
        if part and self._receiver is not None:
            self._receiver.receive(part)
        if self._backlog:
            self.hold("backlog")
            self._loop.call_soon(self._next_slice)  # after all that is ready now, before the loop waits again
        else:
            self.release("backlog")

    def eof_received(self) -> bool:
        """Called by the transport: a WebSocket has no half-open state, so the peer is gone."""
        self._lose()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the transport, once."""
        self._host.connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()
            self.on_lost = None
        if not self.closed.done():
            self.closed.set_result(None)
        self._lose()
        self._forget()

    def _forget(self) -> None:
        """Nobody is told anything more, and nothing of a leg that is gone should wait for the garbage collector."""
        self._receiver = self.on_full = self.on_drained = None

    def _lose(self) -> None:
        self._eof = True
        if self._receiver is not None:
            if self._backlog:
                rest, self._backlog = bytes(self._backlog), bytearray()
                self._receiver.receive(rest)
            self._receiver.peer_lost()

    def hold(self, why: HoldReason) -> None:
        """Stop reading; the kernel's window then stops the peer."""
        if not self._holds:
            self.held_since = self._loop.time()
            if not self._transport.is_closing():
                self._transport.pause_reading()
        self._holds.add(why)

    def release(self, why: HoldReason) -> None:
        """Read again, unless something else holds."""
        self._holds.discard(why)
        if self._holds or self.held_since is None:
            return
        self.held_since = None
        self.heard_at = self._spoke_at = self._loop.time()  # it was we who did not listen
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def peer_is_gone(self) -> bool:
        """Whether the peer has hung up, asked of the kernel, since a held leg is not told."""
        if self._eof or self._transport.is_closing():
            return True
        if self._backlog:
            return False  # what it said before is still being handed on
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def peek(self) -> bytes:
        """What the peer has sent and a held leg has not read, without reading it; empty on TLS, where it is ciphertext."""
        if self._backlog:
            return b""  # what was read comes first
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0 or self._transport.get_extra_info("sslcontext") is not None:
            return b""
        # asyncio's view of a socket cannot receive; a duplicate of its descriptor can.
        with suppress(OSError), socket.socket(fileno=os.dup(sock.fileno())) as double:
            return double.recv(PEEK_BYTES, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return b""

    # -- writing ------------------------------------------------------------------------------------------------------

    @property
    def can_speak(self) -> bool:
        """Whether a frame of our own could be written now."""
        return not (self._mid_frame or self._close_sent or self._transport.is_closing())

    @property
    def hung_up(self) -> bool:
        """Whether the peer will send nothing more."""
        return self._eof

    @property
    def buffered_bytes(self) -> int:
        """How much waits to be sent."""
        return self._transport.get_write_buffer_size()

    def _acknowledged_bytes(self) -> int:
        """How many bytes the peer's system has taken so far, as the kernel counts; 0 where it does not."""
        if sys.platform != "linux":
            return 0
        sock = self._transport.get_extra_info("socket")
        with suppress(OSError, AttributeError, struct.error):  # a socket that is gone, or none; an old kernel
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            return int(struct.unpack_from("Q", info, _BYTES_ACKED_AT)[0])
        return 0

    def watch_progress(self) -> None:
        """To be called now and then: a peer that takes what it is sent is slow, and neither stuck nor dead."""
        now = self._loop.time()
        if self.full_since is None and now - self.heard_at < QUIET_SECONDS:
            self._taken = 0
            return
        taken = self._acknowledged_bytes()
        if self._taken and taken - self._taken >= PROGRESS_BYTES:
            if not self._masks and now - self._spoke_at < PATIENCE_SECONDS:
                self.heard_at = now  # a client may play slowly what came fast; an upstream that is alive answers
            if self.full_since is not None:
                self.full_since = now
            self._taken = taken
        elif not self._taken:
            self._taken = taken

    def write(self, raw: bytes, *, mid_frame: bool = False) -> None:
        """Send bytes of data frames; `mid_frame` says that the last frame in them goes on in the next write."""
        if self._close_sent or self._transport.is_closing():
            return
        self._transport.write(raw)
        self._mid_frame = mid_frame
        if not mid_frame and (self._waiting or self._pong is not None):
            self._send_waiting()

    def send_event(self, payload: bytes) -> None:
        """Send an event of our own. The caller has made sure of a message boundary."""
        self.write(build_frame(Opcode.TEXT, payload, self._key()))

    def send_control(self, opcode: Opcode, payload: bytes) -> None:
        """Send a ping or pong as soon as no frame is open; a pong only once the peer reads."""
        if self._close_sent or self._transport.is_closing():
            return
        if opcode is Opcode.PONG and (self._mid_frame or self.full_since is not None):
            self._pong = payload
        elif self._mid_frame:
            self._waiting.append(build_frame(opcode, payload, self._key()))
        else:
            self._transport.write(build_frame(opcode, payload, self._key()))

    def send_close(self, code: int | None, reason: str) -> bool:
        """Send CLOSE, after which nothing more is written; False if an open frame or a dead socket forbids it."""
        if not self.can_speak:
            return self._close_sent
        self._transport.write(build_frame(Opcode.CLOSE, close_payload(code, reason), self._key()))
        self._close_sent = True
        self._waiting.clear()
        self._pong = None
        return True

    def close(self) -> None:
        """Close the socket once everything is sent."""
        self._transport.close()

    def finish(self) -> None:
        """Say FIN behind what is sent, and go on reading: a socket that is closed with bytes unread resets what was sent.

        Does nothing on TLS, which has no half-open state.
        """
        with suppress(OSError):  # gone already
            if self._transport.can_write_eof() and not self._transport.is_closing():
                self._transport.write_eof()

    def abort(self) -> None:
        """Close the socket now, whatever is unsent."""
        self._transport.abort()

    def pause_writing(self) -> None:
        """Called by the transport: the peer does not keep up."""
        self.full_since = self._loop.time()
        self._taken = 0
        if self.on_full is not None:
            self.on_full()

    def resume_writing(self) -> None:
        """Called by the transport: the peer has caught up."""
        self.full_since = None
        if self._pong is not None and not self._mid_frame:
            self._send_waiting()
        if self.on_drained is not None:
            self.on_drained()

    def _send_waiting(self) -> None:
        if self._pong is not None and self.full_since is None:
            self._waiting.append(build_frame(Opcode.PONG, self._pong, self._key()))
            self._pong = None
        waiting, self._waiting = self._waiting, []
        for frame in waiting:
            self._transport.write(frame)

    def _key(self) -> bytes:
        return os.urandom(4) if self._masks else b""


def _watch_for_dead_peer(transport: asyncio.Transport, user_timeout_ms: int) -> None:
    sock = transport.get_extra_info("socket")
    if sock is None:
        return
    for level, name, value in (*_KEEPALIVE, (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", user_timeout_ms)):
        with suppress(OSError):  # a socket that is not TCP, or that is already dead
            if hasattr(socket, name):
                sock.setsockopt(level, getattr(socket, name), value)
