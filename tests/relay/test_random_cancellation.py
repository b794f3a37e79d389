"""D18: whatever happens to a call, and wherever its handler is cancelled, it ends once and leaves nothing behind.

A call goes its whole way here, from its request to the last byte, with a `tests.deep.Line` on either side of the relay.
"""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise, product
from typing import Any, Final, cast
from unittest.mock import patch

import pytest
import structlog
from aiohttp import web
from hypothesis import example, given
from hypothesis import strategies as st

from service.realtime.closing import close_code_may_be_sent, close_payload
from service.realtime.framing import Opcode, build_frame
from service.relay.drain import Haste, Tally, Times
from service.relay.registry import Registry
from service.relay.session import Instruments
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.redact import Redactor
from service.upstream.dial import Dialler
from service.upstream.reach import Reach
from service.upstream.target import Target
from service.web.public import Entrance
from tests.deep import DEEP_SECONDS, IS_DEEP, HandClock, Line, LineLeg, examples
from tests.harness import environment
from tests.raw_upstream import CREATED

REQUEST: Final = (
    b"GET /v1/realtime?model=m HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
)
DIAL_SECONDS: Final = 8.0
EARLY_BYTES: Final = 250_000
"""While a call is being dialled aiohttp reads little more than this; behind it a FIN is not seen until the dial is over."""


class Peer:
    """One of the two whom the relay joins. `line` is None until it has one, and what it does then comes to nothing."""

    def __init__(self, key: bytes, line: Line | None = None) -> None:
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

    def do(self, act: Callable[[Line], object]) -> None:
        """Do something to its line."""
        if self.line is not None:
            act(self.line)


class Call:
    """One call through a relay, and what can happen to it."""

    def __init__(self, relay: "MemoryRelay", read_bytes: int) -> None:
        self.relay = relay
        self.read_bytes = read_bytes
        self.dialled: list[Line] = []
        relay.take(self)
        self.client = Peer(b"abcd", Line(relay.server(), read_bytes))
        self.upstream: Peer = Peer(b"")
        self.client.do(lambda line: line.say(REQUEST))
        self.deadline: float | None = None  # for the end of upstream, once the client has gone
        self.drains: list[asyncio.Task[Tally]] = []
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

    def client_goes(self, act: Callable[[Line], object] | None) -> None:
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
        for session in tuple(self.relay.registry._sessions.values()):
            session.end("relay_draining")

    def drain(self) -> None:
        """The relay drains."""
        self.drains.append(asyncio.ensure_future(self.relay.registry.drain(Times(0.2, 0.05), Haste())))


PEER_STEPS: Final[dict[str, Callable[[Peer], object]]] = {
    "sends": lambda peer: peer.send(100),
    "sends much": lambda peer: peer.send(60_000),
    "sends a large frame": lambda peer: peer.send(70_000),
    "sends half a frame": lambda peer: peer.send(100, cut=50),
    "sends half a large frame": lambda peer: peer.send(70_000, cut=35_000),
    "sends a fragment": lambda peer: peer.send(100, fin=False),
    "pings": lambda peer: peer.control(Opcode.PING, b"p"),
    "breaks the rules": Peer.break_the_rules,
    "stops reading": lambda peer: peer.do(Line.deafen),
    "reads on": lambda peer: peer.do(Line.listen),
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
    "upstream hangs up": lambda call: call.upstream.do(Line.hang_up),
    "upstream resets": lambda call: call.upstream.do(Line.reset),
    "client closes": lambda call: call.client_goes(None),
    "client hangs up": lambda call: call.client_goes(Line.hang_up),
    "client resets": lambda call: call.client_goes(Line.reset),
    **{f"client {name}": on_client(act) for name, act in PEER_STEPS.items()},
    **{f"upstream {name}": on_upstream(act) for name, act in PEER_STEPS.items()},
}


class MemoryRelay:
    """All of a relay that a call passes through, without a network. One call at a time."""

    def __init__(self, logs: list[Any]) -> None:
        self.logs = logs
        self.metrics = Metrics("compatible")
        self._instruments = Instruments(self.metrics, Redactor())
        self._settings = Settings.load(environment(RELAY_MAX_RECONNECTS_PER_MINUTE="0"))

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
        self.registry = Registry()
        self._entrance = Entrance(
            self._settings,
            Reach(self.dialler, None),
            self.registry,
            instruments=self._instruments,
            max_sessions=10,
            on_dialled=lambda _: None,
        )

    async def _attend(self, request: web.Request) -> web.StreamResponse:
        return await self._entrance.conversation(request)

    async def _connect(self, _request: object, _traces: object, _timeout: object) -> Any:
        await asyncio.sleep(0)
        protocol = self.connector._factory()
        self._call.dialled.append(Line(protocol, self._call.read_bytes))
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


def heard_by(line: Line) -> tuple[list[bytes], bytes]:
    """The frames in what a peer has read, and an unfinished one behind them. Shares no code with the scanner."""
    raw = bytes(line.heard).split(b"\r\n\r\n", 1)[1] if line.heard.startswith(b"HTTP/") else bytes(line.heard)
    frames, at = [], 0
    while at + 2 <= len(raw):
        size, end = raw[at + 1] & 0x7F, at + 2
        if size > 125:
            width = 2 if size == 126 else 8
            size, end = int.from_bytes(raw[end : end + width], "big"), end + width
        end += size + (4 if raw[at + 1] & 0x80 else 0)
        if end > len(raw):
            break
        frames.append(raw[at:end])
        at = end
    return frames, raw[at:]


def check_what_was_heard(line: Line, sender: Peer, *, is_open: bool) -> None:
    """A prefix of what was sent, and all of it while the session lives; at most one CLOSE, and nothing behind it."""
    frames, rest = heard_by(line)
    closes = [number for number, frame in enumerate(frames) if frame[0] == 0x88]
    assert closes in ([], [len(frames) - 1])
    for frame in (frames[number] for number in closes if frames[number][1] & 0x7F):
        start = 6 if frame[1] & 0x80 else 2
        code = bytes(a ^ b for a, b in zip(frame[start : start + 2], frame[2:start] or b"\0\0", strict=False))
        assert close_code_may_be_sent(int.from_bytes(code, "big"))
    assert not (closes and rest)
    data = [frame for frame in frames if not frame[0] & 0x08]
    # A message begins where the one before it has ended, the relay's own event too.
    assert all((one[0] >= 0x80) is bool(two[0] & 0x0F) for one, two in pairwise(data))
    if data and b'"relay_error"' in data[-1]:
        data.pop()
    received = b"".join(data) + rest
    assert bytes(sender.data[: len(received)]) == received
    if is_open:
        at_least = len(sender.data) - (sender.last if sender.rest else 0)
        assert at_least <= len(received) <= len(sender.data) - len(sender.rest)


async def live(relay: MemoryRelay, loop: HandClock, steps: list[str], read_bytes: int) -> None:
    """One call with these steps, and all that has to hold at its end."""
    tasks = asyncio.all_tasks()
    call = Call(relay, read_bytes)
    for step in steps:
        if step in WAITS:
            await asyncio.sleep(WAITS[step])
        else:
            STEPS[step](call)
    client, upstream = call.client.line, call.upstream.line
    assert client is not None
    if call.deadline is not None:
        await asyncio.sleep(max(0.0, call.deadline - loop.time()))
        assert all(line.lost_at is not None for line in call.dialled), "upstream outlives its client"
    await asyncio.sleep(WAITS["what is due"])
    if relay.count("session.started") > relay.count("session.ended"):
        call.client.do(Line.listen)
        call.upstream.do(Line.listen)
        await asyncio.sleep(WAITS["what is due"])
    is_open = any(not session._ended.done() for session in relay.registry._sessions.values())
    if upstream is not None and relay.count("session.started"):
        check_what_was_heard(client, call.upstream, is_open=is_open)
        check_what_was_heard(upstream, call.client, is_open=is_open)
    assert not (is_open and any(drain.done() for drain in call.drains))
    if is_open or not relay.count("session.started"):
        call.client_goes(Line.hang_up)
    # A session is over six seconds after its client at the latest, a tick and five for the CLOSE. A call that never became
    # one is refused when its dial has had its time, and aiohttp lingers for ten more.
    await asyncio.sleep(6 if relay.count("session.started") else DIAL_SECONDS + 12)

    for line in (client, *call.dialled):
        assert line.lost_at is not None, "a socket is left"
    assert tasks == asyncio.all_tasks()
    assert len(relay.registry) == 0
    assert relay.count("session.started") == relay.count("session.ended") <= 1
    gone = {"sessions active": 0, "upstream connections": 0, "client connections": 0}
    assert {"sessions ended": relay.count("session.ended"), **gone} == relay.grown()
    assert [] == [line for line in relay.logs if line["event"] in {"session.failed", "request.failed"}]
    complaints = loop.complaints.copy()
    loop.complaints.clear()
    assert [] == complaints


@pytest.fixture(scope="module")
def memory_relay() -> Iterator[tuple[HandClock, MemoryRelay]]:
    """A relay for all examples, and its clock."""
    with (
        closing(HandClock()) as loop,
        structlog.testing.capture_logs() as logs,
        patch("service.wire.seam.Leg", LineLeg),
    ):
        relay = MemoryRelay(logs)
        loop.run_until_complete(relay.start())
        yield loop, relay
        loop.run_until_complete(relay.stop())


OPENING: Final = ["what is due", "upstream upgrades and speaks", "what is due"]
OPENINGS: Final[tuple[list[str], ...]] = (
    [],
    ["what is due"],
    ["what is due", "upstream upgrades", "what is due"],
    OPENING,
    ["what is due", "the relay drains", "a tick", "upstream upgrades and speaks", "what is due"],
    [*OPENING, "upstream stops reading", *["client sends much"] * 4, "what is due"],
    [*OPENING, "client stops reading", *["upstream sends much"] * 4, "what is due"],
    [*OPENING, "upstream sends a fragment", "what is due"],
    [*OPENING, "client sends half a large frame", "upstream sends half a large frame", "what is due"],
)
ANY_STEP: Final = st.sampled_from([*STEPS, *WAITS])


@pytest.mark.timeout(DEEP_SECONDS if IS_DEEP else 60)
@examples(300)
@example(OPENINGS[1], ["upstream upgrades and speaks", "client hangs up"], 1000)  # in the last moment before its 101
@example(OPENINGS[2], ["the handler is cancelled"], 1000)
@example(OPENINGS[4], [], 1000)
@example(OPENINGS[5], ["client closes"], 1000)
@example(OPENINGS[5], ["client hangs up"], 1000)
@example(OPENINGS[7], ["the session is ended"], 1000)
@given(
    st.sampled_from(OPENINGS),
    st.lists(ANY_STEP, max_size=6) | st.lists(ANY_STEP, min_size=7, max_size=15),
    st.sampled_from([256 * 1024, 256 * 1024, 1000, 37]),
)
def test_any_life_ends_once(
    memory_relay: tuple[HandClock, MemoryRelay], opening: list[str], steps: list[str], read_bytes: int
) -> None:
    """In any order of events, cancellations included, a call ends once, in time, and leaves no socket, task or count."""
    loop, relay = memory_relay
    loop.run_until_complete(live(relay, loop, [*opening, *steps], read_bytes))


WAYS: Final = ("closes", "hangs up", "resets")


def test_d13_both_leave_in_the_same_turn(memory_relay: tuple[HandClock, MemoryRelay]) -> None:
    """A thousand times both go at once, by CLOSE, FIN or RST, whoever is first: each is one end, for one of the two."""
    loop, relay = memory_relay
    pairs = product(("client", "upstream"), WAYS, WAYS, range(56))
    for first, way, other_way, _ in pairs:
        second = "upstream" if first == "client" else "client"
        loop.run_until_complete(live(relay, loop, [*OPENING, f"{first} {way}", f"{second} {other_way}"], 1000))

        ends = [line["reason"] for line in relay.logs if line["event"] == "session.ended"]
        assert len(ends) == 1
        assert ends[0] in {"client_closed", "client_lost", "upstream_closed", "upstream_lost"}
