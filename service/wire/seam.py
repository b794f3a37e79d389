"""Takes the frames over from aiohttp after an upgrade, on either side.

aiohttp does HTTP, TLS and the two upgrades; from here on the bytes are ours. This file is the only one that touches
aiohttp's inside; what it relies on was read in aiohttp 3.14.5 and is held by `tests/wire/test_seam.py`:

* `RequestHandler.set_parser` (web_protocol.py:418) and `ResponseHandler.set_parser` (client_proto.py:226) give a "parser"
  the bytes that came behind the upgrade, and lift the pause that a full buffer had put on reading.
* No `await` may stand between the 101 and the take-over, or bytes would go to aiohttp's buffers again.
* `connection_lost` has to reach aiohttp's protocol, or its server and connector would count the socket for ever.
"""

import asyncio
import base64
import hashlib
from typing import Any, Final, cast

from aiohttp import ClientResponse, web

from service.wire.leg import Leg

ANSWER: Final = web.RequestKey("answer", web.StreamResponse)
"""Where a request keeps the 101 that it was answered with, for its handler to return."""
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept_for(key: str) -> str:
    """`Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 section 4.2.2)."""
    digest = hashlib.sha1(key.encode("ascii") + _GUID, usedforsecurity=False).digest()
    return base64.b64encode(digest).decode("ascii")


class _Collector:
    """Stands where aiohttp expects its frame reader, and keeps what it is given."""

    def __init__(self) -> None:
        self.data = bytearray()

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """Told by aiohttp when the connection is lost; the leg knows by itself."""


def take_upstream(response: ClientResponse) -> Leg:
    """The socket behind a 101 that we asked for.

    Raises ConnectionResetError if it is gone already.
    """
    connection = response.connection
    if connection is None or connection.transport is None or connection.protocol is None:
        raise ConnectionResetError("upstream hung up behind its 101")
    collector = _Collector()
    transport, protocol = connection.transport, connection.protocol
    # The second argument is the queue that aiohttp's own reader would fill.
    protocol.set_parser(cast("Any", collector), cast("Any", None))
    leg = _take(transport, protocol, collector, masks=True)
    leg.on_lost = connection.close
    # The response, with its headers, request and URL, need not live as long as the session: the leg has the connection.
    response._connection = None  # noqa: SLF001 - else the response would close the connection when it is collected
    return leg


async def answer_client(request: web.Request, key: str, subprotocol: str | None) -> Leg:
    """Answer a client's upgrade with 101 and take its socket over.

    Raises ConnectionResetError if the client is gone.
    """
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": accept_for(key)}
    if subprotocol is not None:
        headers["Sec-WebSocket-Protocol"] = subprotocol
    # Not WebSocketResponse: it would offer extensions, log the subprotocols (tokens travel in them) and read the frames.
    response = web.StreamResponse(status=101, headers=headers)
    response.force_close()
    await response.prepare(request)
    protocol, transport = request.protocol, request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("client hung up before its 101")
    protocol.keep_alive(False)  # noqa: FBT003 - aiohttp's own signature; cancels its idle timer
    collector = _Collector()
    protocol.set_parser(cast("Any", collector))
    request[ANSWER] = response
    return _take(transport, protocol, collector, masks=False)


def _take(transport: asyncio.Transport, host: asyncio.BaseProtocol, collector: _Collector, *, masks: bool) -> Leg:
    leg = Leg(transport, host, bytes(collector.data), masks=masks)
    collector.data = bytearray()  # the host keeps the collector as long as the session lives
    transport.set_protocol(leg)
    # The buffer limit of aiohttp may have paused reading; its own flag has been cleared, the transport has to agree.
    if not transport.is_reading() and not transport.is_closing():
        transport.resume_reading()
    return leg
