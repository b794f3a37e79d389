"""A client connection to the relay, and the outcome that a client observes: status, reason, close code.

Uses aiohttp only, because it runs in the relay's image.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

import aiohttp

MODEL: Final = "gpt-realtime"
REALTIME_PATH: Final = "/v1/realtime"
TRANSLATION_PATH: Final = "/v1/realtime/translations"
_OPEN_TIMEOUT_SECONDS: Final = 30.0
_CLOSE_TIMEOUT_SECONDS: Final = 3.0
_SWITCHING_PROTOCOLS: Final = 101


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. `reason` is the code of the relay's or the provider's error, None without an error."""

    status: int | None = None  # HTTP status of the upgrade; None without a response
    reason: str | None = None
    message: str = ""
    close_code: int | None = None
    close_text: str = ""

    def __str__(self) -> str:
        parts = [f"HTTP {self.status}" if self.status else "no answer"]
        if self.close_code:
            parts.append(f"close {self.close_code}" + (f" '{self.close_text}'" if self.close_text else ""))
        if self.reason:
            parts.append(self.reason)
        return ", ".join(parts) + (f" - {self.message}" if self.message else "")


class Refused(Exception):
    """The connection failed; `outcome` describes how."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome


def error_of(event: dict[str, Any]) -> tuple[str, str] | None:
    """Code and message of an `error` event or of a failed response; None for any other event."""
    error = event.get("error")
    if event.get("type") == "response.done":
        error = ((event.get("response") or {}).get("status_details") or {}).get("error")
    if not isinstance(error, dict):
        return None
    return str(error.get("code") or error.get("type")), str(error.get("message") or "")


class Call:
    """An open client connection."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.outcome = Outcome(_SWITCHING_PROTOCOLS)
        self.is_closed = False

    async def send(self, event_type: str, **fields: object) -> bool:
        """Send an event; False if the connection is closed."""
        try:
            await self._socket.send_json({"type": event_type, **fields})
        except (ConnectionError, RuntimeError):
            return False
        return True

    async def receive(self) -> dict[str, Any] | None:
        """The next event; None once the connection is closed."""
        while True:
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                event: dict[str, Any] = json.loads(message.data)
                error = error_of(event)
                if error is not None:
                    self.outcome = replace(self.outcome, reason=error[0], message=error[1])
                return event
            if message.type is aiohttp.WSMsgType.CLOSE:
                self.outcome = replace(self.outcome, close_code=message.data, close_text=message.extra or "")
            if message.type is not aiohttp.WSMsgType.BINARY:
                self.is_closed = True  # closed or lost
                return None

    async def wait_for(self, event_type: str | None, seconds: float) -> bool:
        """Read until an event of this type, an error or the end of the connection; False on timeout."""
        try:
            async with asyncio.timeout(seconds):
                while (event := await self.receive()) is not None:
                    if event_type is not None and event["type"] in {event_type, "error"}:
                        break
        except TimeoutError:
            return False
        return True

    @property
    def transport(self) -> asyncio.Transport:
        """The TCP transport, for tests that violate the protocol."""
        connection = self._socket._response.connection  # noqa: SLF001 - aiohttp offers no other access
        if connection is None or connection.transport is None:
            raise Refused(self.outcome)
        return connection.transport


class RelayClient:
    """Opens calls to one relay. `http` must have `middlewares=(raise_refusal,)`."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http = http
        self.url = url

    @asynccontextmanager
    async def call(
        self,
        token: str | None,
        *,
        path: str = REALTIME_PATH,
        query: Sequence[tuple[str, str]] = (("model", MODEL),),
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Call]:
        """Open a call, and close it at exit; raises Refused."""
        authorization = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            async with asyncio.timeout(_OPEN_TIMEOUT_SECONDS):
                socket = await self.http.ws_connect(
                    self.url + path, params=query, headers=authorization | dict(headers or {}), max_msg_size=0
                )
        except (OSError, aiohttp.ClientError, TimeoutError) as exc:
            raise Refused(Outcome(message=f"{type(exc).__name__}: {exc}")) from None
        try:
            yield Call(socket)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_SECONDS):
                    await socket.close()


async def raise_refusal(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """A middleware that reads the body of a refused upgrade, which `ws_connect` discards; raises Refused."""
    response = await handler(request)
    if response.status == _SWITCHING_PROTOCOLS:
        return response
    try:
        error = json.loads(await response.read())["error"]
    except (ValueError, KeyError, TypeError):
        raise Refused(Outcome(response.status)) from None
    raise Refused(Outcome(response.status, str(error.get("code")), str(error.get("message"))))
