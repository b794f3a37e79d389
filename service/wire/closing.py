"""The closing handshake (RFC 6455 section 7), bounded by a deadline.

The side that starts it calls `close_leg`. While that waits, the leg's receiver has to go on reading, because the peer's
close frame may be after data. `PeerCloseReceiver` is the receiver for an owner that has no other use for that data.
"""

import asyncio
from contextlib import suppress
from typing import Final

from service.realtime.frames import Opcode
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import ControlFrame
from service.wire.leg import Leg
from service.wire.turns import feed_some

_ABORT_SECONDS: Final = 1.0
"""Upper bound on an abort, which the transport completes in a later iteration of the event loop."""


async def close_leg(leg: Leg, code: int | None, reason: str, *, deadline: float) -> bool:
    """Send a close frame, wait until the peer closes the connection, and abort it at `deadline` (loop time).

    The leg's receiver must go on reading meanwhile and call `leg.close` when the peer's close frame arrives. On return the
    socket is closed. Raises nothing; if cancelled, the socket stays open and the caller has to abort it.

    Returns whether the peer counts as informed: the close frame was passed to the kernel, or the peer had closed the
    connection first. A peer that never closes its end counts as informed.
    """
    is_informed = leg.send_close(code, reason)
    if not is_informed:
        is_informed = leg.at_eof
        leg.abort()
    with suppress(TimeoutError):
        async with asyncio.timeout_at(deadline):
            await asyncio.shield(leg.closed)
    if not leg.closed.done():
        is_informed = is_informed and not leg.buffered_bytes
        leg.abort()
        await asyncio.wait({leg.closed}, timeout=_ABORT_SECONDS)
    return is_informed


class PeerCloseReceiver:
    """A receiver that discards everything until the peer's close frame or the end of the stream, then closes the socket.

    It answers no ping: it is started when this side sends its own close frame, and no frame may follow that one.
    """

    def __init__(self, leg: Leg, scanner: Scanner) -> None:
        self._leg = leg
        self._scanner = scanner

    def receive(self, data: bytes) -> None:
        """Called by the leg."""
        items = feed_some(self._leg, self._scanner, data)
        if any(isinstance(item, ControlFrame) and item.opcode is Opcode.CLOSE for item in items):
            self._leg.close()

    def peer_lost(self) -> None:
        """Called by the leg."""
        self._leg.close()
