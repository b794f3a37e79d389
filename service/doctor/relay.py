"""The client's side of the chain: from this machine through whatever stands between to a running relay."""

import asyncio
import base64
import os
import statistics
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import aiohttp
from yarl import URL

from service.doctor import network, reply, response_check, tls
from service.doctor.network import Route
from service.doctor.provider import request_response
from service.doctor.reply import UPGRADED, WORDS, Reply
from service.doctor.rungs import Broken, Found, Ladder, broken_by
from service.failures import Failure, Phase
from service.realtime.frames import Scanner
from service.realtime.keys import Secret
from service.realtime.names import is_loopback
from service.upstream import translate
from service.upstream.dial import Connected, DialProgress, open_session, read_body
from service.upstream.proxy import VARIABLES
from service.upstream.stream import EventStream, StreamClosed
from service.wire.seam import accept_for, take_upstream

_PINGS: Final = 3
_PING_SECONDS: Final = 5.0
_ACCESS: Final = frozenset({"origin_refused", "token_missing", "token_invalid"})
_SOCKET_PATH: Final = "/v1/realtime"


@dataclass(frozen=True, slots=True)
class RelayAttempt:
    """Which relay to visit, and as whom. `origin` makes it a browser's visit: credentials go as a subprotocol."""

    url: URL
    model: str
    token: Secret | None = None
    origin: str | None = None
    seconds: float = 10.0  # what official clients wait for a socket to open
    with_turn: bool = False


def socket_url(url: URL, model: str) -> URL:
    """The address of the socket: the path and the model are added where they are missing."""
    path = url.path.rstrip("/")
    if path in {"", "/v1"}:
        url = url.with_path(_SOCKET_PATH).with_query(url.query)
    url = url.with_scheme({"ws": "http", "wss": "https"}.get(url.scheme, url.scheme))
    return url if {"model", "call_id", "intent"} & url.query.keys() else url.update_query(model=model)


class RelayChain:
    """Climbs from the relay's name to the time of a round trip."""

    def __init__(self, visit: RelayAttempt, environ: Mapping[str, str]) -> None:
        self._visit = visit
        self._environ = environ
        self._url = socket_url(visit.url, visit.model)
        self._way = Route(self._url, seconds=visit.seconds, words=WORDS)
        self._addresses: list[str] = []
        self._stack = AsyncExitStack()
        self._reply = Reply(0, {})
        self._line: EventStream | None = None

    def describe(self) -> dict[str, object]:
        """What is examined."""
        return {"relay": str(self._url.with_query(None)), "origin": self._visit.origin, "model": self._visit.model}

    async def climb(self, ladder: Ladder) -> None:
        """Try every rung; whatever was opened is closed at the end."""
        ladder.words = WORDS
        async with self._stack:
            await ladder.climb("address", self._address)
            await ladder.climb("dns", self._dns)
            await ladder.climb("tcp", self._tcp)
            await ladder.climb("tls", self._tls)
            await ladder.climb("relay", self._ask_health)
            await ladder.climb("upgrade", self._upgrade)
            await ladder.climb("origin", self._origin)
            await ladder.climb("token", self._token)
            await ladder.climb("first_event", self._first_event)
            await ladder.climb("round_trip", self._round_trip)
            if self._visit.with_turn:
                ladder.announce(response_check.COST)
                await ladder.climb("turn", self._turn)
            if self._line is not None:
                await self._line.close()

    async def _address(self) -> Found:
        notes = []
        is_plain = not self._way.is_tls
        if is_plain and self._visit.token is not None and not is_loopback(self._way.host):
            notes.append("The token travels in clear text; put TLS in front of the relay and use https:// or wss://.")
        if is_plain and (self._visit.origin or "").startswith("https://"):
            notes.append("Browsers refuse ws:// from a page that came by https://; the page needs wss://.")
        proxies = [name for name in VARIABLES if self._environ.get(name, "").strip()]
        status = "warn" if notes else "ok"
        if proxies and not is_loopback(self._way.host):
            notes.append(f"{proxies[0]} is set; this visit goes straight to the relay, but SDKs and browsers may not.")
        return Found(str(self._url.with_query(None)), notes, "warn" if status == "warn" else "ok")

    async def _dns(self) -> Found:
        found, self._addresses = await network.resolve(self._way)
        return found

    async def _tcp(self) -> Found:
        return await network.connect(self._way, self._addresses)

    async def _tls(self) -> Found:
        if not self._way.is_tls:
            return Found("plain HTTP, as the URL says", status="skipped")
        return await tls.shake_hands(self._way)

    async def _ask_health(self) -> Found:
        """Who answers: a hint only, since an ingress may pass on nothing but the socket's path."""
        url = self._url.with_path("/healthz").with_query(None)
        async with open_session() as session:
            answer = await self._get(session, url, {"Accept": "application/json"})
        status = answer.headers.get("X-Health-Status")
        if status in {"pass", "warn", "fail"}:
            unwell = (
                ["The relay itself cannot reach the provider; run the doctor where it runs."]
                if status == "fail"
                else []
            )
            return Found(f"a relay answers; its health: {status}", unwell, "warn" if status != "pass" else "ok")
        page = " with a page of HTML" if answer.is_html else ""
        note = "A proxy or ingress may pass on the socket's path only; the upgrade decides."
        return Found(f"no relay answers at /healthz (HTTP {answer.status}{page})", [note], "warn")

    async def _upgrade(self) -> Found:
        session = await self._stack.enter_async_context(open_session())
        key = base64.b64encode(os.urandom(16)).decode("ascii")
        self._reply = await self._get(session, self._url, self._headers(key), key)
        error = self._reply.relay_error
        if self._reply.status == UPGRADED:
            return Found("101 Switching Protocols")
        if error is None:
            raise reply.refused_by_stranger(self._reply, scheme=self._url.scheme)
        if reply.reason_of(error) == "not_a_websocket":
            raise reply.refused_by_relay(error, "The upgrade was asked for, so it was lost on the way to the relay.")
        return Found(f"the relay itself answered: HTTP {self._reply.status}")

    async def _origin(self) -> Found:
        error = self._refusal()
        if error is not None and reply.reason_of(error) == "origin_refused":
            shown = self._visit.origin or "none was sent, so something on the way adds one"
            raise reply.refused_by_relay(error, f"Origin: {shown}.")
        if self._visit.origin is None:
            return Found("not asked: only browsers send one; --origin pretends to be a page of it", status="skipped")
        return Found(f"pages of {self._visit.origin} may connect")

    async def _token(self) -> Found:
        error = self._refusal()
        reason = reply.reason_of(error) if error is not None else None
        if error is not None and reason in _ACCESS:
            raise reply.refused_by_relay(error, *self._token_notes(str(reason)))
        if self._visit.token is None:
            return Found("none was sent, none is wanted: whoever reaches the relay may use it")
        way = "as a subprotocol, as browsers do" if self._visit.origin else "as Authorization: Bearer"
        return Found(f"taken, or not asked for; it was sent {way}")

    def _token_notes(self, reason: str) -> Sequence[str]:
        if self._visit.token is None:
            return ("None was given: name it with --token-env or --token-file.",)
        if reason == "token_missing":
            return ("A token was sent but did not arrive: something on the way drops it.",)
        return ()

    async def _first_event(self) -> Found:
        error = self._refusal()
        if error is not None:
            raise reply.refused_by_relay(error)
        assert self._line is not None  # noqa: S101 - without a refusal there is a line
        try:
            event = await self._line.next_event(self._visit.seconds)
        except TimeoutError:
            raise broken_by(Failure("first_event_timeout", Phase.FIRST_EVENT), words=WORDS) from None
        except StreamClosed as closed:
            shown = f"Closed with {closed.code}." if closed.code is not None else "Closed without a word."
            raise broken_by(Failure("dropped_early", Phase.FIRST_EVENT), shown, words=WORDS) from None
        if event.type == "error":
            told = reply.relay_error_in(event.body)
            if told is not None:
                raise reply.refused_by_relay(told)
            raise broken_by(Failure("upstream_error", Phase.FIRST_EVENT))
        return Found(f"session ready: {event.type or 'an event'}")

    async def _round_trip(self) -> Found:
        assert self._line is not None  # noqa: S101 - the rung below has made it
        try:
            times = [await self._line.ping(_PING_SECONDS) for _ in range(_PINGS)]
        except TimeoutError:
            note = "A proxy that does not pass WebSocket control frames on will cut quiet sessions."
            return Found(f"no pong within {_PING_SECONDS:g} s", [note], "warn")
        middle = statistics.median(times)
        return Found(
            f"{middle * 1000:.1f} ms to the relay and back (median of {_PINGS})",
            ["To the relay only; the provider answers later."],
            seconds=middle,
        )

    async def _turn(self) -> Found:
        assert self._line is not None  # noqa: S101 - the rung below has made it
        return await request_response(self._line)

    # -- the request --------------------------------------------------------------------------------------------------

    def _refusal(self) -> Mapping[str, object] | None:
        return self._reply.relay_error

    def _headers(self, key: str) -> dict[str, str]:
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
        }
        token = self._visit.token.reveal() if self._visit.token is not None else None
        if self._visit.origin is not None:
            offered = ["realtime", *([f"openai-insecure-api-key.{token}"] if token else [])]
            headers |= {"Origin": self._visit.origin, "Sec-WebSocket-Protocol": ", ".join(offered)}
        elif token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    async def _get(
        self, session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str], key: str | None = None
    ) -> Reply:
        """GET; a 101 to our key becomes the line. Raises Broken in the words of this side."""
        progress = DialProgress()
        try:
            async with asyncio.timeout(self._visit.seconds):
                response = await session.get(url, headers=headers, allow_redirects=False, trace_request_ctx=progress)
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise await self._no_answer(exc) from None
        if response.status == UPGRADED and key is not None:
            self._take_line(response, key)
            return Reply(UPGRADED, response.headers)
        try:
            return Reply(response.status, response.headers, await read_body(response))
        finally:
            response.close()

    async def _no_answer(self, exc: Exception) -> Broken:
        failure = translate.from_exception(exc, Phase.UPGRADE, tls=self._way.is_tls)
        notes = []
        if not self._way.is_tls and await tls.speaks_tls(self._way.host, self._way.port):
            notes.append("This port speaks TLS: use https:// or wss:// in the URL.")
        return broken_by(failure, *notes, words=WORDS)

    def _take_line(self, response: aiohttp.ClientResponse, key: str) -> None:
        problem = None
        if response.headers.get("Sec-WebSocket-Accept", "").strip() != accept_for(key):
            problem = "Sec-WebSocket-Accept is wrong: something on the way answers upgrades itself"
        elif self._visit.origin is not None and response.headers.get("Sec-WebSocket-Protocol") != "realtime":
            problem = "the subprotocol 'realtime' did not come back, without which browsers refuse the socket"
        if problem is not None:
            response.close()
            raise broken_by(Failure("bad_reply", Phase.UPGRADE, http_status=UPGRADED, detail=problem), words=WORDS)
        try:
            leg = take_upstream(response)
        except ConnectionResetError:
            response.close()
            raise broken_by(Failure("dropped_early", Phase.UPGRADE), words=WORDS) from None
        scanner = Scanner(masked=False, max_message_bytes=1 << 24)
        self._line = EventStream(Connected(leg, scanner, [], DialProgress()))
