"""A relay in memory, on virtual time, and the actions of client, upstream and relay during one client's connection."""

import asyncio
import base64
import hashlib
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import web

from service.access.policy import AccessPolicy
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.realtime.keys import Secret
from service.relay.drain import Drainer, DrainResult, DrainSignals, DrainTiming
from service.relay.reporter import SharedTelemetry
from service.relay.watchdog import SessionLimits
from service.store.factory import make_backend
from service.store.shared import SharedStore
from service.telemetry.metrics import Metrics
from service.telemetry.redact import Redactor
from service.upstream.connector import UpstreamConnector
from service.upstream.dial import Dialler
from service.upstream.dials import DialsInFlight
from service.upstream.target import Target
from service.web.attempts import AttemptReporter
from service.web.realtime import RealtimeHandler
from tests.support.memory_transport import MemoryTransport
from tests.support.raw_websocket_server import CREATED
from tests.support.series import sum_of_series

REQUEST: Final = (
    b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)
POLICY: Final = AccessPolicy(
    mode="open",
    open_anywhere=False,
    client_tokens=(),
    allowed_origins=(),
    allowed_models=(),
    live=True,
    trusted_proxies=(),
    max_sessions=10,
    max_sessions_per_client=0,
    max_reconnects_per_minute=0,
    draining_event=False,
    safety_key=Secret("k" * 16),
)
SESSION_LIMITS: Final = SessionLimits(
    max_message_bytes=16 << 20, idle_timeout_seconds=900, max_session_seconds=3900, max_messages_per_second=5000
)
DIAL_SECONDS: Final = 8.0
AIOHTTP_READ_BYTES: Final = 250_000
"""During a dial aiohttp reads little more than this; it notices a FIN after more data only when the dial has ended."""


class MemoryPeer:
    """The client or the upstream of a connection. Without a transport, since it is not connected, its actions do nothing."""

    def __init__(self, key: bytes, transport: MemoryTransport | None = None) -> None:
        self._key = key
        self.transport = transport
        self.data = bytearray()  # its data frames, those begun included
        self.rest = b""  # the missing part of a frame, sent before the next one
        self.held_size = 0  # of the last message, whose fragments the relay may hold
        self._inside_message = False
        self.sent_invalid = False  # what follows an invalid frame is not parsed, not even a close frame

    def send(self, size: int, *, fin: bool = True, cut: int | None = None) -> None:
        """Send a data frame, or its first `cut` bytes."""
        opcode = Opcode.CONTINUATION if self._inside_message else Opcode.TEXT
        payload = (b'{"type":"x","n":%d,"a":"' % len(self.data)).ljust(size, b"A")
        self.send_frame(build_frame(opcode, payload, self._key), fin=fin, cut=cut)

    @property
    def is_incomplete(self) -> bool:
        """Whether the last message lacks fragments, or its last frame a part."""
        return self._inside_message or bool(self.rest)

    def send_frame(self, frame: bytes, *, fin: bool = True, cut: int | None = None) -> None:
        """Send a data frame that has been built, or its first `cut` bytes."""
        if self.transport is None:
            return
        frame = frame if fin else bytes((frame[0] & 0x7F,)) + frame[1:]
        self.held_size = len(frame) + (self.held_size if self._inside_message else 0)
        self._inside_message = not fin
        self.transport.peer_send(self.rest + frame[:cut])
        self.rest = frame[cut:] if cut is not None else b""
        self.data += frame

    def send_control(self, opcode: Opcode, payload: bytes) -> None:
        """Send a control frame."""
        if self.transport is not None:
            self.transport.peer_send(self.rest + build_frame(opcode, payload, self._key))
            self.rest = b""

    def send_invalid_frame(self) -> None:
        """Send a frame with reserved bits and a reserved opcode."""
        if self.transport is not None:
            self.transport.peer_send(self.rest + b"\xff\xff")
            self.rest, self.sent_invalid = b"", True

    def act(self, action: Callable[[MemoryTransport], object]) -> None:
        """Call one of the transport's `peer_...` methods."""
        if self.transport is not None:
            action(self.transport)


class ClientConnection:
    """One client's connection through a relay, from its request on, and the actions during it.

    `deadline` is the time at which upstream has to be closed, set when the client disconnects.
    """

    def __init__(self, relay: "MemoryRelay", read_bytes: int) -> None:
        self.relay = relay
        self.read_bytes = read_bytes
        self.dialled: list[MemoryTransport] = []
        relay.reset(self)
        self.client = MemoryPeer(b"abcd", MemoryTransport(relay.server(), read_bytes))
        self.upstream: MemoryPeer = MemoryPeer(b"")
        self.client.act(lambda transport: transport.peer_send(REQUEST))
        self.deadline: float | None = None
        self.drains: list[asyncio.Task[DrainResult]] = []
        self.is_cancelled = False  # aiohttp has closed the client's socket, and nothing of it is read any more

    def upgrade(self, *, send_first_event: bool = False) -> None:
        """Let upstream answer the newest dial with 101."""
        transport = self.dialled[-1] if self.dialled else None
        if (
            transport is None
            or transport.is_lost
            or transport is self.upstream.transport
            or not transport.peer_received.endswith(b"\r\n\r\n")
        ):
            return
        key = transport.peer_received.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324 - RFC 6455
        transport.peer_received.clear()
        transport.peer_send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.upstream = MemoryPeer(b"", transport)
        if send_first_event:
            self.upstream.send_frame(build_frame(Opcode.TEXT, CREATED))

    def send_client_close(self) -> None:
        """Let the client send a close frame."""
        is_open = self.relay.has_open_session()
        self._expect_upstream_closed(is_noticed=is_open and not self.client.sent_invalid)
        self.client.send_control(Opcode.CLOSE, close_payload(3001, "bye"))

    def disconnect_client(self, action: Callable[[MemoryTransport], object]) -> None:
        """Let the client send FIN or RST."""
        assert self.client.transport is not None
        is_noticed = self.relay.has_open_session() or len(self.client.data) < AIOHTTP_READ_BYTES
        self._expect_upstream_closed(is_noticed=is_noticed)
        action(self.client.transport)

    def _expect_upstream_closed(self, *, is_noticed: bool) -> None:
        if is_noticed and not self.is_cancelled and self.deadline is None:
            self.deadline = asyncio.get_running_loop().time() + 2

    def cancel_handler(self) -> None:
        """Cancel the request handler, wherever it waits; aiohttp then closes the client's socket."""
        for task in asyncio.all_tasks():
            if getattr(task.get_coro(), "__qualname__", "") == "RequestHandler._handle_request":
                task.cancel()
                self.is_cancelled, self.deadline = True, None

    def end_session(self) -> None:
        """Let the relay end its sessions."""
        for session in self.relay.sessions:
            session.end("relay_draining")

    def drain(self) -> None:
        """Let the relay drain."""
        self.drains.append(asyncio.ensure_future(self.relay.drainer.drain(DrainTiming(0.2, 0.05), DrainSignals())))


PEER_STEPS: Final[dict[str, Callable[[MemoryPeer], object]]] = {
    "sends 100 bytes": lambda peer: peer.send(100),
    "sends 60 kB": lambda peer: peer.send(60_000),
    "sends a large frame": lambda peer: peer.send(70_000),
    "sends half a frame": lambda peer: peer.send(100, cut=50),
    "sends half a large frame": lambda peer: peer.send(70_000, cut=35_000),
    "sends a fragment": lambda peer: peer.send(100, fin=False),
    "sends a ping": lambda peer: peer.send_control(Opcode.PING, b"p"),
    "sends an invalid frame": MemoryPeer.send_invalid_frame,
    "pauses reading": lambda peer: peer.act(MemoryTransport.peer_pause_reading),
    "resumes reading": lambda peer: peer.act(MemoryTransport.peer_resume_reading),
}


def on_client(action: Callable[[MemoryPeer], object]) -> Callable[[ClientConnection], object]:
    """A step of the client."""
    return lambda connection: action(connection.client)


def on_upstream(action: Callable[[MemoryPeer], object]) -> Callable[[ClientConnection], object]:
    """A step of upstream."""
    return lambda connection: action(connection.upstream)


WAITS: Final = {
    "one iteration": 0.0,
    "pending callbacks": 1e-6,
    "one tick": 0.6,
    "three seconds": 3.0,
    "slow peers time out": 21.0,
}
"""Steps that wait, in seconds."""
STEPS: Final[dict[str, Callable[[ClientConnection], object]]] = {
    "relay cancels the handler": ClientConnection.cancel_handler,
    "relay ends the session": ClientConnection.end_session,
    "relay drains": ClientConnection.drain,
    "upstream sends 101": ClientConnection.upgrade,
    "upstream sends 101 and first event": lambda connection: connection.upgrade(send_first_event=True),
    "upstream sends CLOSE": lambda connection: connection.upstream.send_control(
        Opcode.CLOSE, close_payload(4001, "bye")
    ),
    "upstream sends FIN": lambda connection: connection.upstream.act(MemoryTransport.peer_close),
    "upstream sends RST": lambda connection: connection.upstream.act(MemoryTransport.peer_reset),
    "client sends CLOSE": ClientConnection.send_client_close,
    "client sends FIN": lambda connection: connection.disconnect_client(MemoryTransport.peer_close),
    "client sends RST": lambda connection: connection.disconnect_client(MemoryTransport.peer_reset),
    **{f"client {name}": on_client(action) for name, action in PEER_STEPS.items()},
    **{f"upstream {name}": on_upstream(action) for name, action in PEER_STEPS.items()},
}


class MemoryRelay:
    """The parts of a relay that a client's connection passes through, without a network. One connection at a time."""

    def __init__(self, logs: list[Any]) -> None:
        self.logs = logs
        self.metrics = Metrics("compatible")
        self._telemetry = SharedTelemetry(self.metrics, Redactor())

    async def start(self) -> None:
        """Build what all connections share."""
        app = web.Application()
        app.router.add_get("/v1/realtime", self._handle)
        self.runner = web.AppRunner(
            app, handle_signals=False, access_log=None, handler_cancellation=True, keepalive_timeout=15
        )
        await self.runner.setup()
        assert self.runner.server is not None
        self.server = self.runner.server
        self.dialler = Dialler(
            Target("http://upstream.test/v1"),
            timeout_seconds=DIAL_SECONDS,
            first_event="required",
            max_message_bytes=1 << 20,
        )
        self.connector = cast("Any", self.dialler.session.connector)
        self.connector._create_connection = self._connect

    async def stop(self) -> None:
        """Release everything."""
        await self.dialler.close()
        await self.runner.cleanup()

    def reset(self, connection: ClientConnection) -> None:
        """Prepare for the next connection; nothing of the one before counts."""
        self._connection = connection
        self.logs.clear()
        self._counts_before = self._counts()
        dials = DialsInFlight()
        self.drainer = Drainer(dials)
        self.sessions = self.drainer.sessions
        self._handler = RealtimeHandler(
            POLICY,
            UpstreamConnector(self.dialler, None),
            self.drainer,
            dials,
            reporter=AttemptReporter(self.metrics, lambda _: None),
            telemetry=self._telemetry,
            session_limits=SESSION_LIMITS,
            max_dials=100,
            clients=POLICY.directory(),
            store=SharedStore(make_backend(None), self._telemetry.metrics.store),
        )

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        return await self._handler.conversation(request)

    async def _connect(self, _request: object, _traces: object, _timeout: object) -> Any:
        await asyncio.sleep(0)
        protocol = self.connector._factory()
        self._connection.dialled.append(MemoryTransport(protocol, self._connection.read_bytes))
        return protocol

    def count(self, event: str) -> int:
        """The number of log lines with this event name."""
        return sum(line["event"] == event for line in self.logs)

    def has_open_session(self) -> bool:
        """Whether a session has started and not ended."""
        return self.count("session.started") > self.count("session.ended")

    def counts(self) -> dict[str, float]:
        """What this connection has added to the metrics and to aiohttp's counts of connections."""
        return {name: value - self._counts_before[name] for name, value in self._counts().items()}

    def _counts(self) -> dict[str, float]:
        family = next(iter(self.metrics.sessions_ended.collect()))
        return {
            "sessions ended": sum(sample.value for sample in family.samples if sample.name.endswith("_total")),
            "sessions active": sum_of_series(self.metrics.registry, "realtime_relay_sessions_active"),
            "upstream connections": len(self.connector._acquired),
            "client connections": len(self.server.connections),
        }
