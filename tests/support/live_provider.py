"""A provider of GPT-Live on a raw HTTP server: it knows no session to attach to, and runs a script for each new session."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.raw_http_server import Exchange
from tests.support.raw_websocket_server import ServerConnection

STARTED: Mapping[str, object] = {
    "type": "session.started",
    "session": {"id": "live_u1_A", "expires_at": 1789258059, "model": "gpt-live-1", "status": "active"},
}


def refusal(code: str | None, error_type: str = "invalid_request_error", message: str = "CANARY") -> dict[str, object]:
    """An error event of the provider, or the body of a refused request."""
    return {"type": "error", "error": {"type": error_type, "code": code, "message": message}}


def closed(reason: str = "close_requested", seconds: float | None = 12.0) -> dict[str, object]:
    """A `session.closed`, as captured: without the session."""
    return {"type": "session.closed", "reason": reason, "usage": {"seconds": seconds}}


@dataclass
class LiveConnection:
    """One upgraded connection. `received` are the events of the client, in order."""

    connection: ServerConnection
    received: list[dict[str, Any]] = field(default_factory=list)

    def send(self, event: Mapping[str, object]) -> None:
        """Send an event."""
        self.connection.send(json.dumps(event).encode())

    async def read_until(self, event_type: str) -> dict[str, Any] | None:
        """Read to the next event of this type; None if the client disconnects first."""
        async for payload in self.connection.messages():
            event = json.loads(payload)
            self.received.append(event)
            if event["type"] == event_type:
                return dict(event)
        return None


Script = Callable[[LiveConnection], Awaitable[None]]


@dataclass
class LiveProvider:
    """Use it as the script of a raw HTTP server. `connections` are those that were upgraded."""

    script: Script
    attach_status: str = "404 Not Found"
    attach_body: bytes = json.dumps(refusal("session_id_not_found")).encode()
    connections: list[LiveConnection] = field(default_factory=list)

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        if "/attach" in exchange.head.split("\r\n")[0]:
            exchange.answer(self.attach_status, self.attach_body)
            return
        exchange.upgrade()
        connection = LiveConnection(ServerConnection(exchange.reader, exchange.writer, exchange.head))
        self.connections.append(connection)
        await self.script(connection)

    @property
    def sent_types(self) -> list[str]:
        """The types of the events that all clients have sent."""
        return [event["type"] for connection in self.connections for event in connection.received]


async def converse(connection: LiveConnection) -> None:
    """Start a session, answer with audio, and close it when the client asks for that."""
    await connection.read_until("session.start")
    connection.send(STARTED)
    await connection.read_until("session.input_audio.append")
    connection.send({"type": "session.output_audio.delta", "delta": "AAAA"})
    await connection.read_until("session.close")
    connection.send(closed())
    connection.connection.send_close(1000)
