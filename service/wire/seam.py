"""Takes connections over from aiohttp after a WebSocket upgrade, on either side.

aiohttp does HTTP, TLS and the two upgrades; from then on the relay reads and writes the frames. No other file depends on
aiohttp's internals. What this one relies on was read in aiohttp 3.14.5 and is checked by `tests/wire/test_seam.py`:

* `RequestHandler.set_parser` (web_protocol.py:418) and `ResponseHandler.set_parser` (client_proto.py:226) pass the bytes that
  arrived after the upgrade to a "parser", and resume reading that a full buffer had paused.
* Between the 101 and the takeover there is no `await`, or bytes would go to aiohttp's buffers again.
* `websocket_mask` of `_websocket/helpers.py` masks a `bytearray` in place; it is compiled where aiohttp is.
* `connection_lost` has to reach aiohttp's protocol, or its server and connector would count the socket forever.
"""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from aiohttp import ClientResponse, web
from aiohttp._websocket.helpers import websocket_mask

from service.realtime.frames import Masking
from service.wire.leg import Leg

UPGRADE_RESPONSE: Final = web.RequestKey("upgrade_response", web.StreamResponse)
"""Where a request keeps the 101 that was sent, for its handler to return."""
Masking.in_place = websocket_mask
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def sec_websocket_accept(key: str) -> str:
    """`Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2)."""
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


class _Collector:
    """Takes the place of aiohttp's frame reader and keeps the bytes that it is fed."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """Called by aiohttp when the connection is lost, which the transport also reports to the leg."""


def take_upstream(response: ClientResponse) -> Leg:
    """Take over the socket after a 101 response.

    Call it without an `await` after the response, or bytes that arrive meanwhile go to aiohttp's buffers. The caller owns the
    leg, and aiohttp's connection with it: the response is then empty and needs no close. Frames that arrived with the 101 are
    kept for the leg's first receiver.

    Raises ConnectionResetError if upstream has already closed the connection; the caller then closes the response.
    """
    connection = response.connection
    if connection is None or connection.transport is None or connection.protocol is None:
        raise ConnectionResetError("upstream disconnected after its 101")
    collector = _Collector()
    transport, protocol = connection.transport, connection.protocol
    # The second argument is the queue that aiohttp's own reader would fill.
    protocol.set_parser(cast("Any", collector), cast("Any", None))
    leg = _take_over(transport, protocol, collector, masks=True, on_lost=connection.close)
    # The response, with its headers, request and URL, need not live as long as the session: the leg has the connection.
    response._connection = None  # noqa: SLF001 - else the response would close the connection when it is collected
    return leg


async def answer_client(
    request: web.Request, key: str, subprotocol: str | None, further_headers: Mapping[str, str] | None = None
) -> Leg:
    """Send 101 to a client and take its socket over.

    The takeover follows the 101 without an `await`, so that no frame is missed. The caller owns the leg
    and must end it; its handler returns `request[UPGRADE_RESPONSE]`. If cancelled while the 101 is sent, the socket is still
    aiohttp's, which closes it.

    Raises ConnectionResetError if the client has already disconnected.
    """
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": sec_websocket_accept(key)}
    if subprotocol is not None:
        headers["Sec-WebSocket-Protocol"] = subprotocol
    headers.update(further_headers or {})
    # Not WebSocketResponse: it would offer extensions, log the subprotocols (tokens travel in them) and read the frames.
    response = web.StreamResponse(status=101, headers=headers)
    response.force_close()
    await response.prepare(request)
    protocol, transport = request.protocol, request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("client disconnected before its 101")
    protocol.keep_alive(False)  # noqa: FBT003 - aiohttp's own signature; cancels its idle timer
    collector = _Collector()
    protocol.set_parser(cast("Any", collector))
    request[UPGRADE_RESPONSE] = response
    return _take_over(transport, protocol, collector, masks=False)


def _take_over(
    transport: asyncio.Transport,
    aiohttp_protocol: asyncio.BaseProtocol,
    collector: _Collector,
    *,
    masks: bool,
    on_lost: Callable[[], None] | None = None,
) -> Leg:
    leg = Leg(transport, aiohttp_protocol, bytes(collector.data), masks=masks, on_lost=on_lost)
    collector.data = bytearray()  # aiohttp's protocol keeps the collector as long as the session lives
    transport.set_protocol(leg)
    # aiohttp's buffer limit may have paused reading. aiohttp has cleared its flag; the transport has to match it.
    if not transport.is_reading() and not transport.is_closing():
        transport.resume_reading()
    return leg
