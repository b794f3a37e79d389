"""When the peer of a leg was last alive, and what it acknowledges: a slow peer is neither stuck nor dead."""

import asyncio
from typing import Final

from service.wire import tcp
from service.wire.outlet import Outlet

MIN_PROGRESS_BYTES: Final = 16_384
"""A full peer that acknowledges less than this within `SessionLimits.slow_seconds` is stuck: a quarter of a second of
speech in twenty seconds."""
ACK_CHECK_SECONDS: Final = 25.0
"""After this long without data, more than one ping interval, a client's acknowledgements count as a sign of life: its pongs
may wait behind much other data."""
DELIVERY_SECONDS: Final = 1.0
"""How long what has been read is still delivered after the peer has disconnected: that of a flood could take a minute."""


class SignsOfLife(Outlet):
    """The part of a leg that judges its peer. `masks`: the peer is upstream."""

    def __init__(self, transport: asyncio.Transport, *, masks: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._masks = masks
        self.full_since: float | None = None  # moves forward while the peer makes progress
        self._acknowledged_bytes = 0  # at the last check that found progress
        self._gone_since: float | None = None  # when the peer was first found disconnected
        self.last_alive_at: float = self._loop.time()  # data, or acknowledgements that count as a sign of life
        self.last_received_at = self.last_alive_at  # data and control frames only

    @property
    def acknowledged_bytes(self) -> int:
        """The number of bytes that the peer's kernel, or that of a proxy in between, has acknowledged so far."""
        return tcp.acknowledged_bytes(self._transport)

    def _is_gone(self, *, is_delivering: bool) -> bool:
        """Whether the peer has disconnected; while bytes are being delivered, at least `DELIVERY_SECONDS` ago."""
        is_gone = tcp.peer_disconnected(self._transport)
        if is_gone and is_delivering:
            self._gone_since = self._gone_since or self._loop.time()
            return self._loop.time() - self._gone_since >= DELIVERY_SECONDS
        return is_gone

    def note_life(self) -> None:
        """Record that something has been received. Audio that `on_read` processes counts at the next tick."""
        self.last_alive_at = self.last_received_at = self._loop.time()

    def check_progress(self) -> None:
        """Called by the session's ticker: a peer that acknowledges what it is sent is slow, neither stuck nor dead."""
        now = self._loop.time()
        if self.full_since is None and now - self.last_alive_at < ACK_CHECK_SECONDS:
            self._acknowledged_bytes = 0
            return
        acknowledged = self.acknowledged_bytes
        if self._acknowledged_bytes and acknowledged - self._acknowledged_bytes >= MIN_PROGRESS_BYTES:
            if not self._masks:  # clients may play slowly what arrived fast; a live upstream answers pings
                self.last_alive_at = now
            if self.full_since is not None:
                self.full_since = now
            self._acknowledged_bytes = acknowledged
        elif not self._acknowledged_bytes:
            self._acknowledged_bytes = acknowledged

    def credit_stall(self, seconds: float, *, alive_until: float) -> None:
        """Exclude a stall of the process from the peer's silence and slowness. It was alive at `alive_until`, or later."""
        now = self._loop.time()
        self.last_alive_at = min(now, max(self.last_alive_at + seconds, alive_until))
        self.last_received_at = min(now, self.last_received_at + seconds)
        if self.full_since is not None:
            self.full_since = min(now, self.full_since + seconds)
