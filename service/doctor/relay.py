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
from service.doctor.reply import RELAY_EXPLANATIONS, UPGRADED, Reply
from service.doctor.steps import Finding, StepFailed, StepRunner, step_failed
from service.failures import Failure, Phase
from service.realtime.keys import Secret
from service.realtime.names import is_loopback
from service.realtime.scanner import Scanner
from service.upstream import translate
from service.upstream.dial import Connected, DialProgress, open_session, read_body
from service.upstream.proxy import PROXY_VARIABLES
from service.upstream.stream import EventStream, StreamClosed
from service.wire.seam import sec_websocket_accept, take_upstream

_PINGS: Final = 3
_PING_SECONDS: Final = 5.0
_ACCESS: Final = frozenset({"origin_refused", "token_missing", "token_invalid"})
_SOCKET_PATH: Final = "/v1/realtime"


@dataclass(frozen=True, slots=True)
class RelayOptions:
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

    def __init__(self, options: RelayOptions, environ: Mapping[str, str]) -> None:
        self._options = options
        self._environ = environ
        self._url = socket_url(options.url, options.model)
        self._route = Route(self._url, seconds=options.seconds, words=RELAY_EXPLANATIONS)
        self._addresses: list[str] = []
        self._stack = AsyncExitStack()
        self._reply = Reply(0, {})
        self._line: EventStream | None = None

    def describe(self) -> dict[str, object]:
        """What is examined."""
        return {"relay": str(self._url.with_query(None)), "origin": self._options.origin, "model": self._options.model}

    async def run(self, runner: StepRunner) -> None:
        """Try every rung; whatever was opened is closed at the end."""
        runner.words = RELAY_EXPLANATIONS
        async with self._stack:
            await runner.run_step("address", self._address)
            await runner.run_step("dns", self._dns)
            await runner.run_step("tcp", self._tcp)
            await runner.run_step("tls", self._tls)
            await runner.run_step("relay", self._ask_health)
            await runner.run_step("upgrade", self._upgrade)
            await runner.run_step("origin", self._origin)
            await runner.run_step("token", self._token)
            await runner.run_step("first_event", self._first_event)
            await runner.run_step("round_trip", self._round_trip)
            if self._options.with_turn:
                runner.announce(response_check.COST)
                await runner.run_step("turn", self._turn)
            if self._line is not None:
                await self._line.close()

    async def _address(self) -> Finding:
        notes = []
        is_plain = not self._route.is_tls
        if is_plain and self._options.token is not None and not is_loopback(self._route.host):
            notes.append("The token travels in clear text; put TLS in front of the relay and use https:// or wss://.")
        if is_plain and (self._options.origin or "").startswith("https://"):
            notes.append("Browsers refuse ws:// from a page that came by https://; the page needs wss://.")
        proxies = [name for name in PROXY_VARIABLES if self._environ.get(name, "").strip()]
        status = "warn" if notes else "ok"
        if proxies and not is_loopback(self._route.host):
            notes.append(f"{proxies[0]} is set; this visit goes straight to the relay, but SDKs and browsers may not.")
        return Finding(str(self._url.with_query(None)), notes, "warn" if status == "warn" else "ok")

    async def _dns(self) -> Finding:
        found, self._addresses = await network.resolve(self._route)
        return found

    async def _tcp(self) -> Finding:
        return await network.connect(self._route, self._addresses)

    async def _tls(self) -> Finding:
        if not self._route.is_tls:
            return Finding("plain HTTP, as the URL says", status="skipped")
        return await tls.check_handshake(self._route)

    async def _ask_health(self) -> Finding:
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
            return Finding(f"a relay answers; its health: {status}", unwell, "warn" if status != "pass" else "ok")
        page = " with a page of HTML" if answer.is_html else ""
        note = "A proxy or ingress may pass on the socket's path only; the upgrade decides."
        return Finding(f"no relay answers at /healthz (HTTP {answer.status}{page})", [note], "warn")

    async def _upgrade(self) -> Finding:
        session = await self._stack.enter_async_context(open_session())
        key = base64.b64encode(os.urandom(16)).decode("ascii")
        self._reply = await self._get(session, self._url, self._headers(key), key)
        error = self._reply.relay_error
        if self._reply.status == UPGRADED:
            return Finding("101 Switching Protocols")
        if error is None:
            raise reply.refused_by_other_server(self._reply, scheme=self._url.scheme)
        if reply.reason_of(error) == "not_a_websocket":
            raise reply.refused_by_relay(error, "The upgrade was asked for, so it was lost on the way to the relay.")
        return Finding(f"the relay itself answered: HTTP {self._reply.status}")

    async def _origin(self) -> Finding:
        error = self._refusal()
        if error is not None and reply.reason_of(error) == "origin_refused":
            shown = self._options.origin or "none was sent, so something on the way adds one"
            raise reply.refused_by_relay(error, f"Origin: {shown}.")
        if self._options.origin is None:
            return Finding("not asked: only browsers send one; --origin pretends to be a page of it", status="skipped")
        return Finding(f"pages of {self._options.origin} may connect")

    async def _token(self) -> Finding:
        error = self._refusal()
        reason = reply.reason_of(error) if error is not None else None
        if error is not None and reason in _ACCESS:
            raise reply.refused_by_relay(error, *self._token_notes(str(reason)))
        if self._options.token is None:
            return Finding("none was sent, none is wanted: whoever reaches the relay may use it")
        how = "as a subprotocol, as browsers do" if self._options.origin else "as Authorization: Bearer"
        return Finding(f"taken, or not asked for; it was sent {how}")

    def _token_notes(self, reason: str) -> Sequence[str]:
        if self._options.token is None:
            return ("None was given: name it with --token-env or --token-file.",)
        if reason == "token_missing":
            return ("A token was sent but did not arrive: something on the way drops it.",)
        return ()

    async def _first_event(self) -> Finding:
        error = self._refusal()
        if error is not None:
            raise reply.refused_by_relay(error)
        assert self._line is not None  # noqa: S101 - without a refusal there is a line
        try:
            event = await self._line.next_event(self._options.seconds)
        except TimeoutError:
            raise step_failed(Failure("first_event_timeout", Phase.FIRST_EVENT), words=RELAY_EXPLANATIONS) from None
        except StreamClosed as closed:
            shown = f"Closed with {closed.code}." if closed.code is not None else "Closed without a word."
            raise step_failed(Failure("dropped_early", Phase.FIRST_EVENT), shown, words=RELAY_EXPLANATIONS) from None
        if event.type == "error":
            told = reply.relay_error_in(event.body)
            if told is not None:
                raise reply.refused_by_relay(told)
            raise step_failed(Failure("upstream_error", Phase.FIRST_EVENT))
        return Finding(f"session ready: {event.type or 'an event'}")

    async def _round_trip(self) -> Finding:
        assert self._line is not None  # noqa: S101 - the rung below has made it
        try:
            times = [await self._line.ping(_PING_SECONDS) for _ in range(_PINGS)]
        except TimeoutError:
            note = "A proxy that does not pass WebSocket control frames on will cut quiet sessions."
            return Finding(f"no pong within {_PING_SECONDS:g} s", [note], "warn")
        middle = statistics.median(times)
        return Finding(
            f"{middle * 1000:.1f} ms to the relay and back (median of {_PINGS})",
            ["To the relay only; the provider answers later."],
            seconds=middle,
        )

    async def _turn(self) -> Finding:
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
        token = self._options.token.reveal() if self._options.token is not None else None
        if self._options.origin is not None:
            offered = ["realtime", *([f"openai-insecure-api-key.{token}"] if token else [])]
            headers |= {"Origin": self._options.origin, "Sec-WebSocket-Protocol": ", ".join(offered)}
        elif token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    async def _get(
        self, session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str], key: str | None = None
    ) -> Reply:
        """GET; a 101 to our key becomes the line. Raises Broken in the words of this side."""
        progress = DialProgress()
        try:
            async with asyncio.timeout(self._options.seconds):
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

    async def _no_answer(self, exc: Exception) -> StepFailed:
        failure = translate.from_exception(exc, Phase.UPGRADE, tls=self._route.is_tls)
        notes = []
        if not self._route.is_tls and await tls.speaks_tls(self._route.host, self._route.port):
            notes.append("This port speaks TLS: use https:// or wss:// in the URL.")
        return step_failed(failure, *notes, words=RELAY_EXPLANATIONS)

    def _take_line(self, response: aiohttp.ClientResponse, key: str) -> None:
        problem = None
        if response.headers.get("Sec-WebSocket-Accept", "").strip() != sec_websocket_accept(key):
            problem = "Sec-WebSocket-Accept is wrong: something on the way answers upgrades itself"
        elif self._options.origin is not None and response.headers.get("Sec-WebSocket-Protocol") != "realtime":
            problem = "the subprotocol 'realtime' did not come back, without which browsers refuse the socket"
        if problem is not None:
            response.close()
            raise step_failed(
                Failure("bad_reply", Phase.UPGRADE, http_status=UPGRADED, detail=problem), words=RELAY_EXPLANATIONS
            )
        try:
            leg = take_upstream(response)
        except ConnectionResetError:
            response.close()
            raise step_failed(Failure("dropped_early", Phase.UPGRADE), words=RELAY_EXPLANATIONS) from None
        scanner = Scanner(masked=False, max_message_bytes=1 << 24)
        self._line = EventStream(Connected(leg, scanner, [], DialProgress()))
