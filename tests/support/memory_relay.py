"""One relay in memory, on a clock that is moved by hand, and what client, upstream and relay can do to a call."""

import asyncio
import base64
import hashlib
from collections.abc import Callable
from typing import Any, Final, cast

from aiohttp import web

from service.access.policy import AccessPolicy
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.relay.drain import Drainer, DrainResult, DrainSignals, DrainTiming
from service.relay.reporter import SessionTelemetry
from service.relay.watchdog import SessionLimits
from service.telemetry.metrics import Metrics
from service.telemetry.redact import Redactor
from service.upstream.connector import Connector
from service.upstream.dial import Dialler
from service.upstream.dials import DialsInFlight
from service.upstream.target import Target
from service.web.realtime import RealtimeHandler
from tests.support.memory_transport import MemoryTransport
from tests.support.raw_websocket_server import CREATED

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
    trusted_proxies=(),
    max_sessions=10,
    max_sessions_per_client=0,
    max_reconnects_per_minute=0,
    draining_event=False,
)
SESSION_LIMITS: Final = SessionLimits(
    max_message_bytes=16 << 20, idle_timeout_seconds=900, max_session_seconds=3900, max_messages_per_second=5000
)
DIAL_SECONDS: Final = 8.0
EARLY_BYTES: Final = 250_000
"""While a call is being dialled aiohttp reads little more than this; behind it a FIN is not seen until the dial is over."""


class Peer:
    """One of the two whom the relay joins. `line` is None until it has one, and what it does then comes to nothing."""

    def __init__(self, key: bytes, line: MemoryTransport | None = None) -> None:
        self._key = key
        self.line = line
        self.data = bytearray()  # its data frames as far as they were begun
        self.rest = b""  # of a frame of which a part was sent; it goes out before whatever comes next
        self.last = 0  # the size of the last data frame
        self._open = False  # a message is being sent in fragments
        self.is_broken = False  # what it sends is no WebSocket any more, a CLOSE no CLOSE

    def send(self, size: int, *, fin: bool = True, cut: int | None = None) -> None:
        """Send a data frame, or its first bytes."""
        opcode = Opcode.CONTINUATION if self._open else Opcode.TEXT
        payload = (b'{"type":"x","n":%d,"a":"' % len(self.data)).ljust(size, b"A")
        self.send_frame(build_frame(opcode, payload, self._key), fin=fin, cut=cut)

    def send_frame(self, frame: bytes, *, fin: bool = True, cut: int | None = None) -> None:
        """Send a data frame that was built."""
        if self.line is None:
            return
        frame = frame if fin else bytes((frame[0] & 0x7F,)) + frame[1:]
        self._open = not fin
        self.line.say(self.rest + frame[:cut])
        self.rest, self.last = frame[cut:] if cut is not None else b"", len(frame)
        self.data += frame

    def control(self, opcode: Opcode, payload: bytes) -> None:
        """Send a control frame."""
        if self.line is not None:
            self.line.say(self.rest + build_frame(opcode, payload, self._key))
            self.rest = b""

    def break_the_rules(self) -> None:
        """Send a frame that RFC 6455 forbids: reserved bits, a reserved opcode."""
        if self.line is not None:
            self.line.say(self.rest + b"\xff\xff")
            self.rest, self.is_broken = b"", True

    def do(self, act: Callable[[MemoryTransport], object]) -> None:
        """Do something to its line."""
        if self.line is not None:
            act(self.line)


class Call:
    """One call through a relay, and what can happen to it."""

    def __init__(self, relay: "MemoryRelay", read_bytes: int) -> None:
        self.relay = relay
        self.read_bytes = read_bytes
        self.dialled: list[MemoryTransport] = []
        relay.take(self)
        self.client = Peer(b"abcd", MemoryTransport(relay.server(), read_bytes))
        self.upstream: Peer = Peer(b"")
        self.client.do(lambda line: line.say(REQUEST))
        self.deadline: float | None = None  # for the end of upstream, once the client has gone
        self.drains: list[asyncio.Task[DrainResult]] = []
        self.is_cancelled = False  # then aiohttp closes the client's socket, and nobody reads from it any more

    def upgrade(self, *, speak: bool = False) -> None:
        """Upstream answers the newest dial with 101, and perhaps its first event."""
        line = self.dialled[-1] if self.dialled else None
        if line is None or line.lost or line is self.upstream.line or not line.heard.endswith(b"\r\n\r\n"):
            return
        key = line.heard.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())  # noqa: S324 - RFC 6455
        line.heard.clear()
        line.say(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        self.upstream = Peer(b"", line)
        if speak:
            self.upstream.send_frame(build_frame(Opcode.TEXT, CREATED))

    def client_goes(self, act: Callable[[MemoryTransport], object] | None) -> None:
        """The client hangs up, or says CLOSE."""
        line = self.client.line
        assert line is not None
        is_open = self.relay.count("session.started") > self.relay.count("session.ended")
        by_close = is_open and not self.client.is_broken
        by_hanging_up = is_open or len(self.client.data) < EARLY_BYTES
        is_noticed = by_close if act is None else by_hanging_up
        if is_noticed and not self.is_cancelled and self.deadline is None:
            self.deadline = asyncio.get_running_loop().time() + 2
        if act is None:
            self.client.control(Opcode.CLOSE, close_payload(3001, "bye"))
        else:
            act(line)

    def cancel(self) -> None:
        """The handler is cancelled, wherever it waits; aiohttp then closes the client's socket."""
        for task in asyncio.all_tasks():
            if getattr(task.get_coro(), "__qualname__", "") == "RequestHandler._handle_request":
                task.cancel()
                self.is_cancelled, self.deadline = True, None

    def end(self) -> None:
        """The relay ends its sessions."""
        for session in self.relay.sessions:
            session.end("relay_draining")

    def drain(self) -> None:
        """The relay drains."""
        self.drains.append(asyncio.ensure_future(self.relay.drainer.drain(DrainTiming(0.2, 0.05), DrainSignals())))


PEER_STEPS: Final[dict[str, Callable[[Peer], object]]] = {
    "sends": lambda peer: peer.send(100),
    "sends much": lambda peer: peer.send(60_000),
    "sends a large frame": lambda peer: peer.send(70_000),
    "sends half a frame": lambda peer: peer.send(100, cut=50),
    "sends half a large frame": lambda peer: peer.send(70_000, cut=35_000),
    "sends a fragment": lambda peer: peer.send(100, fin=False),
    "pings": lambda peer: peer.control(Opcode.PING, b"p"),
    "breaks the rules": Peer.break_the_rules,
    "stops reading": lambda peer: peer.do(MemoryTransport.deafen),
    "reads on": lambda peer: peer.do(MemoryTransport.listen),
}


def on_client(act: Callable[[Peer], object]) -> Callable[[Call], object]:
    """What the client does."""
    return lambda call: act(call.client)


def on_upstream(act: Callable[[Peer], object]) -> Callable[[Call], object]:
    """What upstream does."""
    return lambda call: act(call.upstream)


WAITS: Final = {"one turn": 0.0, "what is due": 1e-6, "a tick": 0.6, "three seconds": 3.0, "the slow are noticed": 21.0}
STEPS: Final[dict[str, Callable[[Call], object]]] = {
    "the handler is cancelled": Call.cancel,
    "the session is ended": Call.end,
    "the relay drains": Call.drain,
    "upstream upgrades": Call.upgrade,
    "upstream upgrades and speaks": lambda call: call.upgrade(speak=True),
    "upstream closes": lambda call: call.upstream.control(Opcode.CLOSE, close_payload(4001, "bye")),
    "upstream hangs up": lambda call: call.upstream.do(MemoryTransport.hang_up),
    "upstream resets": lambda call: call.upstream.do(MemoryTransport.reset),
    "client closes": lambda call: call.client_goes(None),
    "client hangs up": lambda call: call.client_goes(MemoryTransport.hang_up),
    "client resets": lambda call: call.client_goes(MemoryTransport.reset),
    **{f"client {name}": on_client(act) for name, act in PEER_STEPS.items()},
    **{f"upstream {name}": on_upstream(act) for name, act in PEER_STEPS.items()},
}


class MemoryRelay:
    """All of a relay that a call passes through, without a network. One call at a time."""

    def __init__(self, logs: list[Any]) -> None:
        self.logs = logs
        self.metrics = Metrics("compatible")
        self._telemetry = SessionTelemetry(self.metrics, Redactor())

    async def start(self) -> None:
        """Put together what the calls share."""
        app = web.Application()
        app.router.add_get("/v1/realtime", self._attend)
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
        """Release it."""
        await self.dialler.close()
        await self.runner.cleanup()

    def take(self, call: Call) -> None:
        """Remember nothing of the call before."""
        self._call = call
        self.logs.clear()
        self.before = self._books()
        dials = DialsInFlight()
        self.drainer = Drainer(dials)
        self.sessions = self.drainer.sessions
        self._entrance = RealtimeHandler(
            POLICY,
            Connector(self.dialler, None),
            self.drainer,
            dials,
            telemetry=self._telemetry,
            session_limits=SESSION_LIMITS,
            max_dials=100,
            on_dial_result=lambda _: None,
        )

    async def _attend(self, request: web.Request) -> web.StreamResponse:
        return await self._entrance.conversation(request)

    async def _connect(self, _request: object, _traces: object, _timeout: object) -> Any:
        await asyncio.sleep(0)
        protocol = self.connector._factory()
        self._call.dialled.append(MemoryTransport(protocol, self._call.read_bytes))
        return protocol

    def count(self, event: str) -> int:
        """How often something was logged."""
        return sum(line["event"] == event for line in self.logs)

    def grown(self) -> dict[str, float]:
        """What this call has added to the books. What an example left that failed is not laid at the door of the next."""
        return {name: value - self.before[name] for name, value in self._books().items()}

    def _books(self) -> dict[str, float]:
        family = next(iter(self.metrics.sessions_ended.collect()))
        return {
            "sessions ended": sum(sample.value for sample in family.samples if sample.name.endswith("_total")),
            "sessions active": self.metrics.registry.get_sample_value("realtime_relay_sessions_active") or 0,
            "upstream connections": len(self.connector._acquired),
            "client connections": len(self.server.connections),
        }
