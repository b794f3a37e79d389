"""One attempt to reach a target, phase by phase, until the first event.

Rules of this file:

* One budget covers DNS, connect, HTTP reply and first event; whatever phase it runs out in names the failure.
* A 101 proves nothing: the provider upgrades with a wrong key, an unknown model or no credit, then sends `error` and
  CLOSE in the same millisecond. Only a first event that is no `error` opens the gate.
* Nothing is retried, redirected or decompressed behind our back.
* What is raised is a `Failure`, or CancelledError when the client gave up; either way the socket is gone.
"""

import asyncio
import base64
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Final, Literal

import aiohttp
from yarl import URL

from service.failures import Failure, Phase
from service.realtime.closing import CloseCode
from service.realtime.events import PARSED_EVENT_TYPES, parse_error
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Item
from service.upstream import translate
from service.upstream.first_event import FIRST_EVENT_HOLD, FirstEventReader
from service.upstream.resolver import SharedResolver
from service.upstream.target import DialRequest, Target
from service.wire.closing import CloseReader, close_leg
from service.wire.leg import Leg
from service.wire.seam import accept_for, take_upstream

BODY_BYTES: Final = 65_536
BODY_SECONDS: Final = 1.0


@dataclass(slots=True)
class DialProgress:
    """How far a dial came and how long each phase took, in seconds. Phases that were not needed are absent."""

    phase: Phase = Phase.CONNECT
    seconds: dict[Phase, float] = field(default_factory=dict)
    _since: float = 0.0

    def enter(self, phase: Phase) -> None:
        """A phase begins and the one before it is over."""
        now = time.perf_counter()  # uvloop's own time counts whole milliseconds
        if self._since:
            self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self._since
        self.phase, self._since = phase, now

    def finish(self) -> None:
        """The last phase is over; a retry may follow."""
        self.enter(self.phase)
        self._since = 0.0


@dataclass(slots=True)
class Connected:
    """An upstream socket past its gate.

    `items` is what came up to and behind the first event and has not been forwarded; `scanner` goes on where they end. The
    leg is held as FIRST_EVENT_HOLD until its owner releases it.
    """

    leg: Leg
    scanner: Scanner
    items: list[Item]
    progress: DialProgress

    async def close(self, seconds: float = 1.0) -> None:
        """Hang up without having used it."""
        try:
            self.leg.start(CloseReader(self.leg, self.scanner))
            self.leg.release(FIRST_EVENT_HOLD)
            await close_leg(self.leg, CloseCode.NORMAL, "", deadline=asyncio.get_running_loop().time() + seconds)
        finally:
            self.abort()  # also when cancelled: an upstream socket that nobody owns costs money

    def abort(self) -> None:
        """Drop it at once."""
        self.leg.abort()


class Dialler:
    """Dials one target. Owns the HTTP session, which shares nothing between users: no cookies, no pool, no proxies."""

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
        """Release the HTTP session."""
        await self.session.close()

    async def dial(
        self,
        route: DialRequest,
        progress: DialProgress | None = None,
        *,
        seconds: float | None = None,
        target: Target | None = None,
    ) -> Connected:
        """Reach the target, or another one with this one's rules; raises Failure, also when the budget runs out."""
        progress = progress or DialProgress()
        progress.enter(Phase.CONNECT)
        try:
            async with asyncio.timeout(seconds or self.timeout_seconds):
                return await self._dial(target or self.target, route, progress)
        except TimeoutError:
            raise translate.from_timeout(progress.phase) from None
        finally:
            progress.finish()

    async def _dial(self, target: Target, route: DialRequest, progress: DialProgress) -> Connected:
        response = await self._upgrade(target, route, progress)
        try:
            leg = take_upstream(response)
        except ConnectionResetError:
            response.close()
            raise Failure("dropped_early", Phase.UPGRADE) from None
        scanner = Scanner(masked=False, max_message_bytes=self._max_message_bytes, parsed_types=PARSED_EVENT_TYPES)
        connected = Connected(leg, scanner, [], progress)
        if not route.promises_first_event or self.first_event == "optional":
            leg.hold(FIRST_EVENT_HOLD)
            return connected
        progress.enter(Phase.FIRST_EVENT)
        gate = FirstEventReader(leg, scanner)
        leg.start(gate)
        try:
            connected.items = await gate.opened
        except BaseException:
            del gate  # it has the exception, which has this frame: a circle would wait for the garbage collector
            # Also when the client gave up: a socket that nobody owns would cost money.
            connected.abort()
            raise
        return connected

    async def _upgrade(self, target: Target, route: DialRequest, progress: DialProgress) -> aiohttp.ClientResponse:
        url = target.socket_url(route)
        key = base64.b64encode(os.urandom(16)).decode("ascii")
        headers = target.headers() | {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
            "Accept-Encoding": "identity",
        }
        if route.safety_identifier is not None:
            headers["OpenAI-Safety-Identifier"] = route.safety_identifier
        try:
            response = await request(self.session, target, url, headers, progress)
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise translate.from_exception(
                exc, progress.phase, tls=url.scheme == "https", proxied=target.proxy is not None
            ) from None
        problem = _check_upgrade(response, key) if response.status == 101 else None  # noqa: PLR2004 - Switching Protocols
        if response.status == 101 and problem is None:  # noqa: PLR2004 - Switching Protocols
            return response
        try:
            if problem is not None:
                raise Failure("bad_reply", Phase.UPGRADE, http_status=101, detail=problem)
            error = parse_error(await read_body(response))
            raise translate.from_status(response.status, error, response.headers, is_call=route.has("call_id"))
        finally:
            response.close()


async def request(
    session: aiohttp.ClientSession, target: Target, url: URL, headers: Mapping[str, str], progress: DialProgress
) -> aiohttp.ClientResponse:
    """GET from a target, through its proxy if it has one, following nothing; the caller closes the response."""
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
    """An HTTP session that keeps nothing between requests and retries nothing."""
    connector = aiohttp.TCPConnector(
        limit=0,  # admission is ours; the default of 100 would queue the 101st socket for minutes
        force_close=True,
        use_dns_cache=False,  # the resolver has its own
        resolver=SharedResolver(),
    )
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),  # one user's __cf_bm must not be sent for another
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # the dial's own budget covers all of it
        auto_decompress=False,  # a refusal's body must not be a bomb
        trust_env=False,
        trace_configs=[_trace()],
    )
    # aiohttp sends a GET again when a connection drops (client.py:909 in 3.14.5); a second paid handshake must be ours
    # to decide. Its own test client switches it off in this way (test_utils.py:306).
    session._retry_connection = False  # noqa: SLF001 - no public switch exists
    return session


def _trace() -> aiohttp.TraceConfig:
    """Tells the `Progress` of a request which phase it is in."""
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
    """The start of a refusal's body: at most 64 KiB and one second, whatever it claims to be."""
    body = bytearray()
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(BODY_SECONDS):
            while len(body) < BODY_BYTES:
                piece = await response.content.read(BODY_BYTES - len(body))
                if not piece:
                    break
                body += piece
    return bytes(body)


def _check_upgrade(response: aiohttp.ClientResponse, key: str) -> str | None:
    """What is wrong with a 101 (RFC 6455 section 4.1), or None."""
    headers = response.headers
    if headers.get("Upgrade", "").strip().lower() != "websocket":
        return "101 without 'Upgrade: websocket'"
    connection = ",".join(headers.getall("Connection", ()))  # a list may span lines (RFC 9110 section 5.3)
    if "upgrade" not in {token.strip().lower() for token in connection.split(",")}:
        return "101 without 'Connection: Upgrade'"
    if headers.get("Sec-WebSocket-Accept", "").strip() != accept_for(key):
        return "101 with a wrong Sec-WebSocket-Accept"
    if headers.get("Sec-WebSocket-Extensions") or headers.get("Sec-WebSocket-Protocol"):
        return "101 with an extension or subprotocol that was not offered"
    return None
