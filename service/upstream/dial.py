"""One dial of a target: DNS, connect, opening handshake, first event.

Rules of this file:

* One timeout covers all phases. The phase in which it expires determines the failure.
* A 101 proves nothing: the provider upgrades with a wrong key, an unknown model or no credit, then sends `error` and a
  close frame in the same millisecond. A dial succeeds with a first event that is not an `error`.
* aiohttp retries nothing, follows no redirect and decompresses nothing.
* A dial that does not succeed raises Failure, or CancelledError if it was cancelled, and has closed its socket.
"""

import asyncio
import base64
import os
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Final, Literal

import aiohttp
from yarl import URL

from service.deadlines import Deadline
from service.failures import Failure, Phase
from service.realtime import live
from service.realtime.closing import CloseCode
from service.realtime.events import PARSED_EVENT_TYPES, Api
from service.realtime.policy import MAX_SERVER_EVENT_BYTES, SESSION_EVENT_TYPES
from service.realtime.scanner import MAX_EVENT_BYTES, Scanner
from service.realtime.scanner_items import Item
from service.upstream import hints, translate
from service.upstream.first_event import FirstEventReader
from service.upstream.resolver import CachingResolver
from service.upstream.response_head import LimitedResponseHandler
from service.upstream.target import DialRequest, Target
from service.wire.closing import PeerCloseReceiver, close_leg
from service.wire.leg import Leg
from service.wire.seam import sec_websocket_accept, take_upstream

BODY_BYTES: Final = 65_536
CLOSE_SECONDS: Final = 2.0
BODY_SECONDS: Final = 1.0
MAX_HEADER_BYTES: Final = 65_536
"""Of one header of a response. The provider's edge sends policies and cookies above aiohttp's default of 8 kB."""
_INFLATED: Final = frozenset({"gzip", "x-gzip", "deflate"})
_GZIP_OR_ZLIB: Final = 32  # of `wbits` in zlib: the header of the data decides


@dataclass(slots=True)
class DialProgress:
    """The current phase of a dial, and the duration of each phase in seconds. A phase that was skipped is absent.

    A dial that is retried adds to the durations of the first attempt.
    """

    phase: Phase = Phase.CONNECT
    seconds: dict[Phase, float] = field(default_factory=dict)
    refusal: Failure | None = None  # that the provider has begun to send, if the dial was cancelled or timed out then
    _since: float = 0.0

    def enter(self, phase: Phase) -> None:
        """End the current phase and begin another."""
        now = time.perf_counter()  # uvloop's own time has a resolution of a millisecond
        if self._since:
            self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self._since
        self.phase, self._since = phase, now

    def finish(self) -> None:
        """End the current phase."""
        self.enter(self.phase)
        self._since = 0.0


@dataclass(slots=True)
class UpstreamConnection:
    """The upstream connection of a successful dial.

    The holder owns the socket: it has to call `close` or `abort`, or pass the ownership on. `items` are all items received
    so far: the first event and whatever followed it, or none where no first event is awaited. None has been forwarded.
    `scanner` continues where they end. The leg reads nothing more until its owner calls `leg.start(receiver)`.
    """

    leg: Leg
    scanner: Scanner
    items: list[Item]
    progress: DialProgress

    async def close(self, timeout_seconds: float = 1.0) -> None:
        """Close with 1000. Everything that is received meanwhile is discarded.

        On return the socket is closed, by the closing handshake or aborted after `timeout_seconds`. Cancellation aborts it.
        """
        try:
            self.leg.start(PeerCloseReceiver(self.leg, self.scanner))
            await close_leg(
                self.leg, CloseCode.NORMAL, "", deadline=asyncio.get_running_loop().time() + timeout_seconds
            )
        finally:
            self.abort()  # also when cancelled: a session that stays open costs money

    def abort(self) -> None:
        """Close the socket immediately, without a close frame."""
        self.leg.abort()


class Dialler:
    """Dials one target. Owns an HTTP session, which shares nothing between clients: no cookies and no connection pool."""

    def __init__(
        self,
        target: Target,
        *,
        timeout_seconds: float,
        first_event: Literal["required", "optional"],
        max_message_bytes: int,
    ) -> None:
        self.target = target
        self.timeout_seconds = timeout_seconds
        self.first_event = first_event
        self._max_message_bytes = max_message_bytes
        self.session = open_session()

    async def close(self) -> None:
        """Close the HTTP session, and with it every connection that is still open, without a close frame."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.session.close()

    async def dial(
        self,
        request: DialRequest,
        progress: DialProgress | None = None,
        *,
        timeout_seconds: float | None = None,
        target: Target | None = None,
    ) -> UpstreamConnection:
        """Connect, upgrade, and wait for the first event if the request promises one.

        `timeout_seconds`, or else the dialler's own timeout, covers DNS, connect, TLS, HTTP reply and first event together.
        `target` replaces the dialler's own target for this dial. `progress` is updated during the dial, also if it fails.

        Raises Failure for every refusal and error, and for the timeout; its phase is that of the expiry. Raises
        CancelledError if it is cancelled. In both cases the socket is closed. On return the caller owns the connection; see
        `UpstreamConnection`.
        """
        progress = progress or DialProgress()
        progress.refusal = None  # of an earlier attempt
        target = target or self.target
        progress.enter(Phase.CONNECT)
        try:
            return await self._dial_within(timeout_seconds or self.timeout_seconds, target, request, progress)
        except Failure as failure:
            hints.add_hint(failure, target, request=request)
            raise
        except asyncio.CancelledError:
            if progress.refusal is not None:
                hints.add_hint(progress.refusal, target, request=request)
            raise
        finally:
            progress.finish()

    async def _dial_within(
        self, timeout_seconds: float, target: Target, request: DialRequest, progress: DialProgress
    ) -> UpstreamConnection:
        try:
            async with Deadline(timeout_seconds):
                return await self._dial(target, request, progress)
        except TimeoutError:
            raise progress.refusal or translate.from_timeout(progress.phase) from None

    async def _dial(self, target: Target, request: DialRequest, progress: DialProgress) -> UpstreamConnection:
        response = await self._upgrade(target, request, progress)
        try:
            leg = take_upstream(response)
        except ConnectionResetError:
            response.close()
            raise Failure("dropped_early", Phase.UPGRADE) from None
        connected = UpstreamConnection(leg, self._scanner(request), [], progress)
        if not request.promises_first_event or self.first_event == "optional":
            leg.hold("no_receiver")
            return connected
        progress.enter(Phase.FIRST_EVENT)
        reader = FirstEventReader(leg, connected.scanner)
        leg.start(reader)
        try:
            connected.items = await reader.items
        except BaseException:
            progress.refusal = reader.known_failure()
            # It refers to the exception, and that to this frame: only the garbage collector would free the cycle.
            del reader
            connected.abort()  # also when cancelled: a session that stays open costs money
            raise
        return connected

    def _scanner(self, request: DialRequest) -> Scanner:
        parsed_types = (
            live.PARSED_EVENT_TYPES if request.api is Api.LIVE else PARSED_EVENT_TYPES | request.further_types
        )
        return Scanner(
            masked=False,
            max_message_bytes=self._max_message_bytes,
            parsed_types=parsed_types,
            kept_types=request.kept_types,
            max_event_bytes=MAX_SERVER_EVENT_BYTES if parsed_types >= SESSION_EVENT_TYPES else MAX_EVENT_BYTES,
        )

    async def _upgrade(self, target: Target, request: DialRequest, progress: DialProgress) -> aiohttp.ClientResponse:
        url = target.socket_url(request)
        key = base64.b64encode(os.urandom(16)).decode("ascii")
        headers = target.headers() | {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
            "Accept-Encoding": "identity",
        }
        if request.safety_identifier is not None:
            headers["OpenAI-Safety-Identifier"] = request.safety_identifier
        try:
            response = await http_get(self.session, target, url, headers, progress)
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise translate.from_exception(exc, progress.phase, tls=url.scheme == "https", proxy=target.proxy) from None
        problem = _check_upgrade(response, key) if response.status == 101 else None  # noqa: PLR2004 - Switching Protocols
        if response.status == 101 and problem is None:  # noqa: PLR2004 - Switching Protocols
            return response
        try:
            if problem is not None:
                raise Failure("bad_reply", Phase.UPGRADE, http_status=101, detail=problem)
            refusal = partial(
                translate.from_status,
                response.status,
                None,
                response.headers,
                is_call=request.names_a_call,
                is_live=request.api is Api.LIVE,
                facts=hints.facts_of(target, url.path),
            )
            progress.refusal = refusal(body=b"")
            raise refusal(body=await read_body(response))
        finally:
            response.close()


async def http_get(
    session: aiohttp.ClientSession, target: Target, url: URL, headers: Mapping[str, str], progress: DialProgress
) -> aiohttp.ClientResponse:
    """Send a GET to a target, through its proxy if it has one. Follows no redirect. The caller closes the response."""
    proxy = target.proxy
    return await session.get(
        url,
        headers=headers,
        allow_redirects=False,
        trace_request_ctx=progress,
        proxy=proxy.url if proxy is not None else None,
        proxy_headers=target.proxy_headers(),
    )


def open_session() -> aiohttp.ClientSession:
    """An HTTP session that keeps no state between requests and retries nothing."""
    connector = aiohttp.TCPConnector(
        limit=0,  # admission limits the dials; the default of 100 would queue the 101st connection for minutes
        force_close=True,
        use_dns_cache=False,  # CachingResolver has its own
        resolver=CachingResolver(),
    )
    # aiohttp has no public way to replace the protocol of its connections; a partial of a subclass is one of its class, too.
    connector._factory = partial(LimitedResponseHandler, loop=asyncio.get_running_loop())  # type: ignore[assignment]  # noqa: SLF001
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),  # the __cf_bm cookie of one client must not be sent for another
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # the dial's timeout covers everything
        auto_decompress=False,  # the body of a refusal may be a decompression bomb
        trust_env=False,
        max_line_size=MAX_HEADER_BYTES,
        max_field_size=MAX_HEADER_BYTES,
        trace_configs=[_trace()],
    )
    # aiohttp repeats a GET when the connection drops (client.py:909 in 3.14.5), which would open a second paid session.
    # Its own test client disables that in the same way (test_utils.py:306).
    session._retry_connection = False  # noqa: SLF001 - no public switch exists
    return session


def _trace() -> aiohttp.TraceConfig:
    """A trace that updates the DialProgress of a request, which aiohttp passes as `trace_request_ctx`."""
    trace = aiohttp.TraceConfig()

    def on(phase: Phase) -> Callable[[aiohttp.ClientSession, SimpleNamespace, object], Awaitable[None]]:
        async def enter(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
            progress = context.trace_request_ctx
            if isinstance(progress, DialProgress):
                progress.enter(phase)

        return enter

    trace.on_connection_create_start.append(on(Phase.CONNECT))
    trace.on_dns_resolvehost_start.append(on(Phase.DNS))
    trace.on_dns_resolvehost_end.append(on(Phase.CONNECT))
    trace.on_connection_create_end.append(on(Phase.UPGRADE))
    return trace


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """The body of a refusal, cut at `BODY_BYTES` and at what arrives within `BODY_SECONDS`."""
    body = bytearray()
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with Deadline(BODY_SECONDS):
            while len(body) < BODY_BYTES:
                chunk = await response.content.read(BODY_BYTES - len(body))
                if not chunk:
                    break
                body += chunk
    return _inflated(bytes(body)) if response.headers.get("Content-Encoding", "").lower() in _INFLATED else bytes(body)


def _inflated(body: bytes) -> bytes:
    """A body that was compressed although the request accepts only `identity`, cut at `BODY_BYTES` as well."""
    with suppress(zlib.error):
        return zlib.decompressobj(zlib.MAX_WBITS | _GZIP_OR_ZLIB).decompress(body, BODY_BYTES)
    return body


def _check_upgrade(response: aiohttp.ClientResponse, key: str) -> str | None:
    """The requirement of RFC 6455 section 4.1 that a 101 violates, or None."""
    headers = response.headers
    if headers.get("Upgrade", "").strip().lower() != "websocket":
        return "101 without 'Upgrade: websocket'"
    connection = ",".join(headers.getall("Connection", ()))  # a list may span lines (RFC 9110 section 5.3)
    if "upgrade" not in {token.strip().lower() for token in connection.split(",")}:
        return "101 without 'Connection: Upgrade'"
    if headers.get("Sec-WebSocket-Accept", "").strip() != sec_websocket_accept(key):
        return "101 with a wrong Sec-WebSocket-Accept"
    if headers.get("Sec-WebSocket-Extensions") or headers.get("Sec-WebSocket-Protocol"):
        return "101 with an extension or subprotocol that was not offered"
    return None
