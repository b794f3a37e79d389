"""One call to the relay, and what a caller can see of its end: status, reason, close code.

Only aiohttp is needed, because this runs in the relay's own image.
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
CONVERSATIONS: Final = "/v1/realtime"
TRANSLATIONS: Final = "/v1/realtime/translations"
_ANSWERED_WITHIN_SECONDS: Final = 30.0
_HANGS_UP_WITHIN_SECONDS: Final = 3.0
_SWITCHING: Final = 101


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call went. `reason` is the relay's or the provider's word for it, None if nothing was said."""

    status: int | None = None  # of the upgrade; None without an answer
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
    """The call did not come about."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome


def error_of(event: dict[str, Any]) -> tuple[str, str] | None:
    """The code and the sentence of an `error` event, or of a response that failed."""
    error = event.get("error")
    if event.get("type") == "response.done":
        error = ((event.get("response") or {}).get("status_details") or {}).get("error")
    if not isinstance(error, dict):
        return None
    return str(error.get("code") or error.get("type")), str(error.get("message") or "")


class Call:
    """An open call."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.outcome = Outcome(_SWITCHING)
        self.is_over = False

    async def send(self, kind: str, **fields: object) -> bool:
        """Send an event; False if the call is over."""
        try:
            await self._socket.send_json({"type": kind, **fields})
        except (ConnectionError, RuntimeError):
            return False
        return True

    async def receive(self) -> dict[str, Any] | None:
        """The next event; None when the call is over."""
        while True:
            message = await self._socket.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                event: dict[str, Any] = json.loads(message.data)
                told = error_of(event)
                if told is not None:
                    self.outcome = replace(self.outcome, reason=told[0], message=told[1])
                return event
            if message.type is aiohttp.WSMsgType.CLOSE:
                self.outcome = replace(self.outcome, close_code=message.data, close_text=message.extra or "")
            if message.type is not aiohttp.WSMsgType.BINARY:
                self.is_over = True  # closed, or lost
                return None

    async def wait_for(self, kind: str | None, seconds: float) -> bool:
        """Read up to an event of this kind or an error, or to the end of the call; False if the time was too short."""
        try:
            async with asyncio.timeout(seconds):
                while (event := await self.receive()) is not None:
                    if kind is not None and event["type"] in {kind, "error"}:
                        break
        except TimeoutError:
            return False
        return True

    @property
    def transport(self) -> asyncio.Transport:
        """What lies below, for callers that break the rules."""
        connection = self._socket._response.connection  # noqa: SLF001 - there is no other way to break the rules
        if connection is None or connection.transport is None:
            raise Refused(self.outcome)
        return connection.transport


class Line:
    """Where calls are made. `http` is to be made with `middlewares=(hear_why,)`."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http = http
        self.url = url

    @asynccontextmanager
    async def call(
        self,
        token: str | None,
        *,
        path: str = CONVERSATIONS,
        query: Sequence[tuple[str, str]] = (("model", MODEL),),
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Call]:
        """Call; raises Refused."""
        shown = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            async with asyncio.timeout(_ANSWERED_WITHIN_SECONDS):
                socket = await self.http.ws_connect(
                    self.url + path, params=query, headers=shown | dict(headers or {}), max_msg_size=0
                )
        except (OSError, aiohttp.ClientError, TimeoutError) as fault:
            raise Refused(Outcome(message=f"{type(fault).__name__}: {fault}")) from None
        try:
            yield Call(socket)
        finally:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HANGS_UP_WITHIN_SECONDS):
                    await socket.close()


async def hear_why(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Read the body of a refusal, which `ws_connect` would throw away; raises Refused."""
    response = await handler(request)
    if response.status == _SWITCHING:
        return response
    try:
        error = json.loads(await response.read())["error"]
    except (ValueError, KeyError, TypeError):
        raise Refused(Outcome(response.status)) from None
    raise Refused(Outcome(response.status, str(error.get("code")), str(error.get("message"))))
