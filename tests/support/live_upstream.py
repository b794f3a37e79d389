"""A scripted upstream of GPT-Live behind a relay: what it received, in order, and how it answers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.harness import RawClient, Relay, eventually, open_raw
from tests.support.raw_websocket_server import ServerConnection
from tests.support.scripted_upstream import scripted_relay

PATH: Final = "/v1/live/sessions"
MODEL: Final = "gpt-live-1"
START: Final = {"type": "session.start", "session": {"model": MODEL}}
STARTED: Final = {
    "type": "session.started",
    "event_id": "event_1",
    "session": {"id": "live_u2_ABC", "model": MODEL, "status": "active", "expires_at": 1_789_258_059},
}


def closed(reason: str = "close_requested", seconds: float = 13.0) -> dict[str, Any]:
    """The last event of a session."""
    return {"type": "session.closed", "event_id": "event_9", "reason": reason, "usage": {"seconds": seconds}}


@dataclass
class LiveUpstream:
    """Answers as the fields say; None is no answer. `received` are the events of the relay, in order."""

    on_start: dict[str, Any] | None = field(default_factory=lambda: dict(STARTED))
    on_close: dict[str, Any] | None = field(default_factory=closed)
    close_code: int | None = None  # of a close frame after the answer to the start
    received: list[dict[str, Any]] = field(default_factory=list)
    head: str = ""
    connection: ServerConnection | None = None
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def types(self) -> list[str]:
        """The types of the received events."""
        return [str(event.get("type")) for event in self.received]

    def send(self, event: dict[str, Any]) -> None:
        """Send an event within the session."""
        assert self.connection is not None
        self.connection.send(json.dumps(event).encode())

    async def script(self, connection: ServerConnection) -> None:
        """Serve one connection, until its peer closes or resets it."""
        self.connection, self.head = connection, connection.head
        try:
            async for payload in connection.messages():
                event = json.loads(payload)
                self.received.append(event)
                self._answer(connection, event["type"])
        finally:
            self.has_ended.set()

    def _answer(self, connection: ServerConnection, event_type: str) -> None:
        if event_type == "session.start" and self.on_start is not None:
            self.send(self.on_start)
            if self.close_code is not None:
                connection.send_close(self.close_code)
        if event_type == "session.close" and self.on_close is not None:
            self.send(self.on_close)
            connection.send_close(1000)


def counted_failures(relay: Relay) -> dict[tuple[str, str, str], float]:
    """The failed connections by phase, reason and status."""
    family = next(iter(relay.app.metrics.connection_failures.collect()))
    return {
        (sample.labels["phase"], sample.labels["reason"], sample.labels["status"]): sample.value
        for sample in family.samples
        if sample.value and sample.name.endswith("_total")
    }


@dataclass(frozen=True, slots=True)
class LiveConnection:
    """A relay with one client of GPT-Live and its upstream."""

    relay: Relay
    client: RawClient
    upstream: LiveUpstream

    async def ended(self, seconds: float = 5.0) -> Any:
        """Wait for the only log line of a session that ended; returns it. The client answers the close frame."""
        answer = asyncio.ensure_future(self.client.answer_close())
        await eventually(lambda: bool(self.relay.events("session.ended")), seconds)
        answer.cancel()
        await asyncio.wait([answer])
        (line,) = self.relay.events("session.ended")
        return line

    async def failed(self, seconds: float = 5.0) -> Any:
        """Wait for the only log line of a session that did not start; returns it."""
        names = ("admission.refused", "upstream.connect_failed")
        await eventually(lambda: any(self.relay.events(name) for name in names), seconds)
        (line,) = [line for name in names for line in self.relay.events(name)]
        assert [] == self.relay.events("session.started") + self.relay.events("session.ended")
        return line

    def failures(self) -> dict[tuple[str, str, str], float]:
        """The failed connections by phase, reason and status."""
        return counted_failures(self.relay)


@asynccontextmanager
async def live_connection(
    upstream: LiveUpstream | None = None, *, path: str = PATH, headers: dict[str, str] | None = None, **settings: str
) -> AsyncIterator[LiveConnection]:
    """Open a connection, without a start. On exit nothing is left of it."""
    upstream = upstream or LiveUpstream()
    async with scripted_relay(upstream.script, behind_101=b"", **settings) as (relay, _):
        client = await open_raw(relay.app.public_port, path, headers or {})
        try:
            yield LiveConnection(relay, client, upstream)
        finally:
            await client.close()


@asynccontextmanager
async def live_session(upstream: LiveUpstream | None = None, **settings: str) -> AsyncIterator[LiveConnection]:
    """Open a session that has started."""
    async with live_connection(upstream, path=PATH, headers=None, **settings) as live:
        assert live.client.answer.status == 101
        live.client.send_event(**START)
        assert (await live.client.next_event()) == live.upstream.on_start
        await eventually(lambda: bool(live.relay.events("session.started")))
        yield live
