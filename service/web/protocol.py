"""The public listener's HTTP protocol: aiohttp's, with the relay's own answer where aiohttp would refuse by itself.

aiohttp answers what it cannot parse, and what no route serves, with plain text that repeats the input. Here each such
request gets a reason of the catalogue, as a JSON body, a count and a log line.

What this file relies on was read in aiohttp 3.14.5 and is checked by `tests/web/test_unserved.py`:

* `RequestHandler.data_received` passes all bytes to `_parser.feed_data`, and queues its HttpProcessingError as an `_ErrInfo`,
  which it answers through `handle_error` (web_protocol.py:445).
* `finish_response` sends every response, an HTTPException of the router included (web_protocol.py:590).
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_request import BaseRequest

from service.access.forwarded import address_block
from service.deadlines import STALL_SECONDS, DeadlineTimer
from service.failures import Failure
from service.web import unserved
from service.web.address_shares import AddressShare, AddressShares
from service.web.head_limiter import HeadLimiter, IncompleteHead
from service.web.unserved_requests import UnservedRequests
from service.wire import tcp
from service.wire.losses import losses_of

MAX_DISCARDED_BYTES: Final = 1_048_576
"""What a peer may send on a connection that is not read any more, before it is aborted."""
MAX_UNSENT_BYTES: Final = 4096
"""A connection with more unsent data than this answers no further request. An answer of a hundred bytes that waits takes a
kilobyte of memory (see `service.wire.small_writes`)."""
UNSENT_SECONDS: Final = 15.0
"""A connection with unsent bytes whose peer acknowledges none for this long is aborted: it does not read its answers."""
LINGER_SECONDS: Final = 1.0
"""A socket that is closed with unread bytes is reset, and its peer may lose the answer. So the relay reads on until the peer
closes, for this long at most."""
HEAD_SECONDS: Final = 15.0
"""A connection without a complete head after this time, or without a further request, is closed."""


class PublicProtocol(web.RequestHandler):
    """One connection of the public listener. A WebSocket that is answered 101 leaves it for `service.wire`."""

    __slots__ = (
        "_discarded",
        "_from_proxy",
        "_lingers",
        "_losses",
        "_peer_finished",
        "_share",
        "_shares",
        "_unsent_timer",
        "_unserved",
    )

    def __init__(self, server: web.Server, requests: UnservedRequests, shares: AddressShares) -> None:
        # The runner configures its server with arguments for the protocols that the server itself would make.
        super().__init__(server, loop=asyncio.get_running_loop(), **server._kwargs)  # noqa: SLF001 - no public access
        self._unserved = requests
        self._shares = shares
        self._share: AddressShare | None = None
        self._from_proxy = False
        self._parser = cast("Any", HeadLimiter(self._parser))
        self._discarded = 0
        self._lingers = False
        self._losses = losses_of(self._loop)  # here, and not 5,000 times in the turn in which a network fails
        self._peer_finished = False
        self._unsent_timer: DeadlineTimer | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have the kernel reset the connection of a peer that acknowledges nothing or keeps its window closed."""
        super().connection_made(transport)
        # A cast: uvloop's transports do not subclass asyncio's.
        stream = cast("asyncio.Transport", transport)
        stream.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        tcp.enable_dead_peer_detection(stream, int(UNSENT_SECONDS * 1000))
        peer = stream.get_extra_info("peername")
        if peer is None:
            return
        self._from_proxy = self._unserved.is_trusted_proxy(str(peer[0]))
        if not self._from_proxy and not self._take_share(str(peer[0])):
            stream.abort()

    def _take_share(self, address: str) -> bool:
        """Count the connection as one of an address; return False if the address has its share."""
        block = address_block(address)
        if self._share is not None and self._share.address == block:
            return True
        self._release_share()
        self._share = self._shares.take(block)
        return self._share is not None

    async def _handle_request(
        self,
        request: BaseRequest,
        start_time: float | None,
        request_handler: Callable[[BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        """Handle a request. One through a trusted proxy is refused if its client has a share of the connections already."""
        if self._from_proxy:
            client = self._unserved.client_behind_proxy(request)
            if client is None:
                self._release_share()
            elif not self._take_share(client):
                failure = unserved.address_has_its_share(self._shares.maximum or 0)
                return await self.finish_response(request, self._unserved.refuse(failure, request), start_time)
        return await super()._handle_request(request, start_time, request_handler)

    def set_parser(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - passed on unchanged
        """Called when the connection becomes a WebSocket, which the limits on sessions count."""
        super().set_parser(*args, **kwargs)
        self._release_share()

    def _release_share(self) -> None:
        if self._share is not None:
            self._share.release()
            self._share = None

    def data_received(self, data: bytes) -> None:
        """Parse requests. After an error nothing is parsed or kept; its answer is the last."""
        head = cast("HeadLimiter | None", self._parser)  # aiohttp removes it when the connection is lost
        if head is None or self._close or head.failed:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED_BYTES and self.transport is not None:
                self.transport.abort()
            return
        super().data_received(data)
        if head.failed and self.transport is not None:
            self.transport.pause_reading()  # `_linger` resumes it

    def connection_lost(self, exc: BaseException | None) -> None:
        """Release what belongs to the connection, and cancel its handler: see `service.wire.losses`."""
        self._losses.report(partial(self._report_loss, exc))

    def _report_loss(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._release_share()
        if self._unsent_timer is not None:
            self._unsent_timer.cancel()
            self._unsent_timer = None

    def _process_keepalive(self) -> None:
        """Answer a head that is incomplete when its time is over; aiohttp closes the connection without a word."""
        head = cast("HeadLimiter | None", self._parser)
        waiter = self._waiter
        now = self._loop.time()
        if now - self._next_keepalive_close_time > STALL_SECONDS:  # the head may wait in the socket
            self._next_keepalive_close_time = now + STALL_SECONDS
        is_due = now >= self._next_keepalive_close_time
        if head is not None and head.is_incomplete and is_due and waiter is not None and not waiter.done():
            self._keepalive_handle = None
            self._messages.append(head.fail(IncompleteHead()))
            waiter.set_result(None)
        else:
            super()._process_keepalive()

    def pause_writing(self) -> None:
        """Begin to watch whether the peer reads."""
        super().pause_writing()
        self._watch_unsent()

    def _watch_unsent(self) -> None:
        transport = self.transport
        if transport is not None and self._unsent_timer is None and transport.get_write_buffer_size():
            acknowledged = tcp.acknowledged_bytes(transport)
            self._unsent_timer = DeadlineTimer(UNSENT_SECONDS, partial(self._check_unsent, transport, acknowledged))

    def _check_unsent(self, transport: asyncio.Transport, acknowledged_before: int) -> None:
        self._unsent_timer = None
        acknowledged = tcp.acknowledged_bytes(transport)
        if not transport.get_write_buffer_size():
            return
        if acknowledged == acknowledged_before:
            transport.abort()
        else:
            self._unsent_timer = DeadlineTimer(UNSENT_SECONDS, partial(self._check_unsent, transport, acknowledged))

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp narrows asyncio's `bool | None` to None
        """Keep the transport open for the answer to a request. A half-close ends an idle connection, a body, and a dial."""
        head = cast("HeadLimiter | None", self._parser)
        self._peer_finished = True
        if head is None or self._lingers or (self._upgraded and not head.failed):
            return False
        head.end_body()
        return head.failed or head.head_complete or bool(self._messages) or self._current_request is not None

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Answer a request that cannot be parsed, or whose handler failed."""
        if isinstance(exc, HttpProcessingError):
            head = cast("HeadLimiter | None", self._parser)  # aiohttp removes it when the connection is lost
            failure = unserved.unparsed_request(head.first_bytes if head is not None else b"", exc)
        elif request.headers.get("Expect", "100-continue").lower() != "100-continue":
            # aiohttp's refusal repeats the header, and fails if it is not UTF-8
            failure = unserved.unsupported_expectation()
        else:
            # Logs the exception; raises ConnectionError if a part of the response has been sent.
            super().handle_error(request, status, exc, message)
            failure = Failure("internal_error", detail="an exception in a handler")
        self._lingers = True
        return self._unserved.refuse(failure, request)

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response. One that aiohttp's router made is replaced by the relay's own."""
        head = cast("HeadLimiter | None", self._parser)
        if head is not None:
            head.request_answered()
            if self._upgraded and self._payload_parser is None and self._message_tail:
                # Frames of a client that did not wait for its refused upgrade: they are no HTTP, and not parsed as such.
                self._message_tail = b""
                head.failed = self._lingers = True
                resp.force_close()
            elif "Transfer-Encoding" in request.headers or (self._peer_finished and not self._messages):
                resp.force_close()  # RFC 9112 section 6.3: with an unknown coding the end of the request is unknown
        if isinstance(resp, web.HTTPException):
            resp.__traceback__ = None  # its frames refer to the connection, and to it
            resp = await self._replace(request, resp)
        finished = await super().finish_response(request, resp, start_time)
        self._watch_unsent()
        if self._lingers:
            await self._linger()
        return finished

    async def _replace(self, request: BaseRequest, refusal: web.HTTPException) -> web.StreamResponse:
        failure = self._unserved.failure_of_router(request, refusal)
        if failure is None:
            return refusal
        event = await self._unserved.answer_with_event(request, failure)
        if event is not None:
            return event
        response = self._unserved.refuse(failure, request)
        if "Allow" in refusal.headers:
            response.headers["Allow"] = refusal.headers["Allow"]
        self._lingers = True
        return response

    def linger(self) -> None:
        """Close the connection after the next response, and discard what the peer sends meanwhile."""
        self._lingers = True

    async def _linger(self) -> None:
        """Send FIN and discard what the peer sends, until it closes, which cancels this, or LINGER_SECONDS have passed."""
        self.close()  # from here on `data_received` discards
        if self.transport is None:
            return
        if self._peer_finished:
            self.force_close()
            return
        with suppress(OSError, RuntimeError, NotImplementedError):  # disconnected meanwhile
            self.transport.write_eof()
            self.transport.resume_reading()
        await asyncio.sleep(LINGER_SECONDS)
        self.force_close()  # else aiohttp would wait ten seconds more for the rest of a body
