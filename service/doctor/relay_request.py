"""The doctor's HTTP requests to a relay: its health, and the upgrade that a client sends."""

import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
from yarl import URL

from service.deadlines import Deadline
from service.doctor import tls
from service.doctor.network import Route
from service.doctor.reply import RELAY_EXPLANATIONS, UPGRADED, Reply
from service.doctor.steps import StepFailed
from service.failures import Failure, Phase
from service.realtime.keys import Secret
from service.realtime.scanner import Scanner
from service.settings import Settings
from service.upstream import translate
from service.upstream.dial import DialProgress, UpstreamConnection, read_body
from service.upstream.stream import EventStream
from service.wire.seam import sec_websocket_accept, take_upstream


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """How to connect to a relay. With `origin`, the doctor connects as a browser: the token is sent as a subprotocol."""

    url: URL
    model: str
    token: Secret | None = None
    origin: str | None = None
    timeout_seconds: float = 10.0  # the open timeout of the official clients
    with_turn: bool = False
    with_live: bool = False


class RelayRequest:
    """Sends requests to one relay, and names what prevents an answer: every method raises StepFailed."""

    def __init__(self, options: RelayOptions, route: Route) -> None:
        self._options = options
        self._route = route

    async def fetch(self, session: aiohttp.ClientSession, url: URL) -> Reply:
        """GET a URL."""
        response = await self._send(session, url, {"Accept": "application/json"})
        return await _reply_of(response)

    async def upgrade(self, session: aiohttp.ClientSession, url: URL) -> tuple[Reply, EventStream | None]:
        """Upgrade to a WebSocket as a client does; returns the stream of its events as well if the answer is 101."""
        key = base64.b64encode(os.urandom(16)).decode("ascii")
        response = await self._send(session, url, self._upgrade_headers(key))
        if response.status == UPGRADED:
            return Reply(UPGRADED, response.headers), self._open_stream(response, key)
        return await _reply_of(response), None

    def _upgrade_headers(self, key: str) -> dict[str, str]:
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": key,
        }
        token = self._options.token.reveal() if self._options.token is not None else None
        if self._options.origin is not None:
            subprotocols = ["realtime", *([f"openai-insecure-api-key.{token}"] if token else [])]
            headers |= {"Origin": self._options.origin, "Sec-WebSocket-Protocol": ", ".join(subprotocols)}
        elif token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    async def _send(
        self, session: aiohttp.ClientSession, url: URL, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        try:
            async with Deadline(self._options.timeout_seconds):
                return await session.get(url, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            raise await self._request_failed(exc) from None

    async def _request_failed(self, exc: Exception) -> StepFailed:
        failure = translate.from_exception(exc, Phase.UPGRADE, tls=self._route.is_tls)
        notes = []
        if not self._route.is_tls and await tls.speaks_tls(self._route.host, self._route.port):
            notes.append("This port speaks TLS: use https:// or wss:// in the URL.")
        return step_failed(failure, *notes)

    def _open_stream(self, response: aiohttp.ClientResponse, key: str) -> EventStream:
        problem = self._check_upgrade(response, key)
        if problem is not None:
            response.close()
            raise step_failed(Failure("bad_reply", Phase.UPGRADE, http_status=UPGRADED, detail=problem))
        try:
            leg = take_upstream(response)
        except ConnectionResetError:
            response.close()
            raise step_failed(Failure("dropped_early", Phase.UPGRADE)) from None
        scanner = Scanner(masked=False, max_message_bytes=Settings().max_message_bytes)
        return EventStream(UpstreamConnection(leg, scanner, [], DialProgress()))

    def _check_upgrade(self, response: aiohttp.ClientResponse, key: str) -> str | None:
        if response.headers.get("Sec-WebSocket-Accept", "").strip() != sec_websocket_accept(key):
            return "Sec-WebSocket-Accept is wrong: a proxy on the route answers upgrades itself"
        if self._options.origin is not None and response.headers.get("Sec-WebSocket-Protocol") != "realtime":
            return "the response lacks the subprotocol 'realtime', without which browsers close the WebSocket"
        return None


def step_failed(failure: Failure, *notes: str) -> StepFailed:
    """A failed step on the way to a relay, in the words for clients of one."""
    return StepFailed.from_failure(failure, *notes, explanations=RELAY_EXPLANATIONS)


async def _reply_of(response: aiohttp.ClientResponse) -> Reply:
    try:
        return Reply(response.status, response.headers, await read_body(response))
    finally:
        response.close()
