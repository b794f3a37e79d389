"""D1 to D22: breaks in the middle of a session. What was said before them arrives, and each is told for what it is."""

import asyncio
import contextlib
import copy
import fcntl
import socket
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest
import structlog

from service.failures import CATALOGUE
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Control
from service.relay.session import Session
from service.relay.watchdog import SessionLimits
from tests.support import scripted_upstream
from tests.support.harness import RawClient, Relay, eventually, open_raw, payload_of, running_relay
from tests.support.invariants import assert_no_leaks
from tests.support.raw_websocket_server import CREATED, Script, ServerConnection, raw_upstream

PATH: Final = "/v1/realtime?model=scripted"
LOST: Final = (1011, CATALOGUE["upstream_lost"].close_text)
DELTA: Final = b'{"type":"response.output_audio.delta","delta":"' + b"A" * 4000 + b'"}'


@asynccontextmanager
async def session(script: Script, reason: str, **settings: str) -> AsyncIterator[tuple[Relay, RawClient, Session]]:
    """A session with a scripted upstream, past its first event. It ends for this reason."""
    async with scripted_upstream.session(script, **settings) as found:
        yield found.relay, found.client, found.session
        await found.client.close()
        assert reason == await found.ended()


async def delivered(connection: ServerConnection) -> None:
    """Until the relay's kernel has all that was sent."""
    sock = connection.writer.get_extra_info("socket")
    await connection.writer.drain()
    await eventually(lambda: not any(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))))


@pytest.mark.parametrize("how", ["reset", "fin"])
async def test_d1_d2_upstream_breaks_off_after_many_messages(how: str) -> None:
    """Three thousand messages, then RST or FIN: all arrive in order, then the client is told that upstream was lost."""
    events = [b'{"type":"x","n":%d,"a":"%s"}' % (number, b"A" * 1000) for number in range(3000)]

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        for event in events:
            connection.send(event)
            await connection.writer.drain()
        await delivered(connection)
        if how == "reset":
            connection.reset()

    async with session(script, "upstream_lost") as (_, client, _):
        assert events == [payload_of(await client.next_item()) for _ in events]
        assert (await client.next_event())["error"]["code"] == "upstream_lost"
        assert LOST == await client.until_close()


async def answer_pings(peer: RawClient | ServerConnection) -> None:
    """Answer pings and nothing else, until the relay's CLOSE, which is answered too."""
    is_client = isinstance(peer, RawClient)
    scanner = Scanner(masked=not is_client, max_message_bytes=1 << 24)
    answers = {Opcode.PING: Opcode.PONG, Opcode.CLOSE: Opcode.CLOSE}
    with contextlib.suppress(ConnectionError):
        while data := await peer.reader.read(65_536):
            for item in scanner.feed(data):
                if isinstance(item, Control) and item.opcode in answers:
                    peer.writer.write(build_frame(answers[item.opcode], item.payload, b"abcd" if is_client else b""))


SILENT_SECONDS: Final = 0.6


@pytest.mark.parametrize(
    ("silent", "other_talks", "reason"),
    [
        pytest.param("upstream", False, "upstream_lost", id="D3"),
        pytest.param("upstream", True, "upstream_lost", id="D4"),
        pytest.param("client", False, "client_lost", id="D5"),
        pytest.param("client", True, "client_lost", id="D5 upstream talks"),
        pytest.param("nobody", False, "client_closed", id="both answer"),
    ],
)
async def test_a_peer_that_falls_silent(
    silent: str, other_talks: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who answers no ping is lost after its time, whatever the other says; who only answers pings may go on for ever."""
    monkeypatch.setattr("service.relay.ticker.TICK_SECONDS", 0.05)
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def be(peer: RawClient | ServerConnection, name: str) -> None:
        """Silent: it reads and says nothing. Else it answers pings, and may talk as well."""
        if name == silent:
            return
        answering = asyncio.ensure_future(answer_pings(peer))
        while not answering.done():
            if other_talks:
                peer.writer.write(build_frame(Opcode.TEXT, b"{}", b"abcd" if name == "client" else b""))
            await asyncio.wait([answering], timeout=0.05)

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await be(connection, "upstream")
        told.set_result(await connection.until_close())

    async with session(script, reason) as (relay, client, live):
        live._limits = SessionLimits(max_message_bytes=1 << 20, ping_seconds=0.1, silent_seconds=SILENT_SECONDS)
        started = asyncio.get_running_loop().time()
        being = asyncio.ensure_future(be(client, "client"))
        if silent == "nobody":
            await asyncio.sleep(2 * SILENT_SECONDS)  # what silence would cost
            assert not live._ended.done()
            client.send_frame(Opcode.CLOSE, close_payload(1000))
        await eventually(live._ended.done)
        if silent != "nobody":
            assert (
                round(asyncio.get_running_loop().time() - started, 3) >= SILENT_SECONDS
            )  # its clock counts milliseconds
        if silent == "client":
            with contextlib.suppress(ConnectionError):
                await client.until_close()
        await eventually(lambda: bool(relay.events("session.ended")))
        being.cancel()
        await asyncio.wait([being])
    assert told.done()


async def test_d3_d4_d5_the_kernel_looks_for_dead_peers() -> None:
    """On both sides keepalive finds a silent machine within 35 s, and a user timeout one that acknowledges nothing."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.until_close()

    async with session(script, "client_lost") as (_, _, live):
        for leg, user_timeout in ((live._client, 60_000), (live._upstream, 20_000)):
            sock = leg._transport.get_extra_info("socket")
            names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            options = [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
            assert [20, 5, 3, user_timeout] == options
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize(
    ("code", "text", "told"),
    [
        pytest.param(3000, "invalid_request_error.invalid_api_key", "invalid_request_error.invalid_api_key", id="3000"),
        pytest.param(4000, "x" * 123, "x" * 123, id="the longest reason"),
        pytest.param(1013, "\u00e9" * 61, "\u00e9" * 61, id="two bytes each"),
        pytest.param(4000, ("sk-proj-a1b2c3d4 " * 9)[:123], "[redacted] " * 7, id="nothing but keys"),
        pytest.param(None, "", "", id="D10 no code"),
    ],
)
async def test_d9_d10_upstream_says_goodbye_and_hangs_on(code: int | None, text: str, told: str) -> None:
    """Code and reason are passed on, without keys and never too long; upstream's socket is gone within two seconds."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await asyncio.sleep(0)
        connection.send_close(code, text)
        await asyncio.wait_for(connection.read_until_eof(), 2)
        closed.set()

    closed = asyncio.Event()
    async with session(script, "upstream_closed") as (_, client, _):
        close = await client.until_close()
        await asyncio.wait_for(closed.wait(), 2)

        assert close is not None
        assert (code or 1000) == close[0]
        assert close[1].startswith(told)
        assert "sk-proj" not in close[1]


@pytest.mark.parametrize("reads_on", [True, False], ids=["in time", "never"])
async def test_d14_upstream_closes_before_a_slow_client(reads_on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the client is flushed if it reads within its time, CLOSE last; else it is cut off. Upstream is gone."""
    monkeypatch.setattr("service.relay.session.CLIENT_CLOSE_SECONDS", 0.5)
    frame = build_frame(Opcode.TEXT, DELTA)
    lives: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
    closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        live, count = await lives, 0
        while live._client.buffered_bytes < 3 * len(frame):
            connection.writer.write(frame)
            count += 1
            await asyncio.sleep(0.0005)
        connection.send_close(1001, "deploy")
        await asyncio.wait_for(connection.read_until_eof(), 2)
        closed.set_result(count)

    async with session(script, "upstream_closed") as (relay, client, live):
        transport: Any = client.writer.transport
        transport.pause_reading()
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        live._client._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        lives.set_result(live)
        count = await asyncio.wait_for(closed, 5)
        assert live._client.buffered_bytes > 0
        if reads_on:
            transport.resume_reading()
            assert [frame] * count == [await client.next_item() for _ in range(count)]
            assert (1001, "deploy") == await client.until_close()
        await client.close() if reads_on else await eventually(lambda: bool(relay.events("session.ended")), 2)
        await eventually(lambda: bool(relay.events("session.ended")))
        assert reads_on or relay.events("session.ended")[0]["duration_seconds"] >= 0.5


async def test_d16_a_session_that_expired_is_known_by_its_event() -> None:
    """The provider's `session_expired` before its CLOSE is passed on, names the end, and its code goes on."""
    event = b'{"type":"error","error":{"type":"invalid_request_error","code":"session_expired","message":"60 minutes"}}'

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.send(event)
        connection.send_close(1000, "")
        await connection.wait_closed()

    async with session(script, "session_expired") as (relay, client, _):
        assert event == payload_of(await client.next_item())
        assert (1000, "") == await client.until_close()
        assert 1 == relay.metric("realtime_relay_upstream_error_events_total", code="session_expired")


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        pytest.param(b"\xc1\x00", 1002, id="reserved bit"),
        pytest.param(b"\x83\x00", 1002, id="reserved opcode"),
        pytest.param(b"\x80\x00", 1002, id="continuation of nothing"),
        pytest.param(b"\x09\x00", 1002, id="fragmented ping"),
        pytest.param(b"\x88\x02\x03\xee", 1002, id="close 1006"),
        pytest.param(b"\x88\x03\x03\xe8\xff", 1007, id="close reason not UTF-8"),
        pytest.param(b"\x81\x80abcd", 1002, id="D22 masked"),
    ],
)
async def test_d21_upstream_breaks_the_protocol(raw: bytes, code: int) -> None:
    """Upstream is told the RFC's code, the client by event and 1011 that it was not its fault."""
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.write(raw)
        told.set_result(await connection.until_close())

    async with session(script, "upstream_protocol_error") as (_, client, _):
        assert (await client.next_event())["error"]["code"] == "upstream_protocol_error"
        assert (1011, CATALOGUE["upstream_protocol_error"].close_text) == await client.until_close()
        assert (code, "") == await asyncio.wait_for(told, 2)


async def test_d21_text_that_is_not_utf8_is_for_the_endpoint() -> None:
    """It passes byte for byte, and the 1007 with which the client answers reaches upstream."""
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    frame = build_frame(Opcode.TEXT, b'{"type":"x","a":"\xff\xc0"}')

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.write(frame)
        told.set_result(await connection.until_close())

    async with session(script, "client_closed") as (_, client, _):
        assert frame == await client.next_item()
        client.send_frame(Opcode.CLOSE, close_payload(1007, "not UTF-8"))
        assert (1007, "not UTF-8") == await asyncio.wait_for(told, 2)
        assert (1007, "") == await client.until_close()


class BrokenLog:
    """A logger whose stream is gone, for these events or for all."""

    def __init__(self, log: Any, events: tuple[str, ...] = ()) -> None:
        self._log, self._events = log, events

    def bind(self, **values: object) -> "BrokenLog":
        """The same, with values."""
        return BrokenLog(self._log.bind(**values), self._events)

    def __getattr__(self, method: str) -> Callable[..., object]:
        def write(*words: Any, **values: object) -> object:
            if not self._events or set(words) & set(self._events):
                raise BrokenPipeError
            return getattr(self._log, method)(*words, **values)

        return write


def broken(*_: object, **__: object) -> None:
    """Fail."""
    raise ZeroDivisionError


ERROR_EVENT: Final = b'{"type":"error","error":{"type":"invalid_request_error","code":"invalid_value","message":"m"}}'


def break_metric(live: Session, name: str, method: str) -> None:
    """One of the metrics that all sessions share fails for this one."""
    live._reporter._metrics = copy.copy(live._reporter._metrics)
    setattr(live._reporter._metrics, name, SimpleNamespace(**{method: broken}))


def break_counter(live: Session) -> None:
    """The counter of messages fails for this session."""
    live._to_client._traffic = cast("Any", SimpleNamespace(bytes=0, held_back_seconds=0.0, count=broken))


def break_log(live: Session, *events: str) -> None:
    """The log fails for this session, for some of its lines or all."""
    live._reporter._log = BrokenLog(live._reporter._log, events)


FAULTS: Final[dict[str, Callable[[Session], None]]] = {
    "client_to_upstream": lambda live: setattr(live._to_upstream, "process", broken),
    "upstream_to_client": lambda live: setattr(live._to_client, "process", broken),
    "writing to upstream": lambda live: setattr(live._upstream, "write", broken),
    "a counter on the way": break_counter,
    "a metric of an incident": lambda live: break_metric(live, "upstream_errors", "labels"),
    "a log line on the way": lambda live: break_log(live, "session.incident_seen"),
    "every log line": break_log,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_d17_a_fault_within_one_session(fault: str) -> None:
    """Wherever it strikes, both sockets are closed, the client is told, the end is counted, and others go on."""

    async def echo_and_fail(connection: ServerConnection) -> None:
        connection.send(CREATED)
        async for payload in connection.messages():
            connection.send(payload)
            connection.send(ERROR_EVENT)

    async with (
        assert_no_leaks(),
        raw_upstream(echo_and_fail) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
        contextlib.AsyncExitStack() as closing,
    ):
        await eventually(lambda: relay.app.monitor.ready)
        other, struck = await open_raw(relay.app.public_port, PATH), await open_raw(relay.app.public_port, PATH)
        for client in (other, struck):
            closing.push_async_callback(client.close)
            await client.next_event()
        FAULTS[fault](tuple(relay.app.sessions)[-1])
        struck.send_event(type="session.update")
        close = await asyncio.wait_for(struck.until_close(), 2)
        await struck.close()
        await eventually(lambda: upstream.open == 1, 2)
        await eventually(lambda: len(relay.app.sessions) == 1)

        assert (1011, CATALOGUE["internal_error"].close_text) == close
        assert 1 == relay.metric("realtime_relay_sessions_ended_total", reason="internal_error")
        assert 1 == relay.metric("realtime_relay_sessions_active")
        if fault != "every log line":
            ids = [line["session_id"] for line in relay.events("session.failed") + relay.events("session.ended")]
            assert len(ids) >= 2
            assert len(set(ids)) == 1
        other.send_event(type="session.update")
        assert {"type": "session.update"} == await other.next_event()


async def test_d17_a_log_that_is_gone_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session whose first line cannot be written costs no upstream that nobody owns."""
    real = structlog.get_logger

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.wait_closed()

    async with (
        assert_no_leaks(),
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        await eventually(lambda: relay.app.monitor.ready)
        lost = SimpleNamespace(get_logger=lambda: BrokenLog(real(), ("session.started",)))
        monkeypatch.setattr("service.relay.reporter.structlog", lost)
        client = await open_raw(relay.app.public_port, PATH)
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(client.until_close(), 2)
        await client.close()

        await eventually(lambda: upstream.open == 0, 2)
        await eventually(lambda: len(relay.app.sessions) == 0)
        assert 0 == relay.metric("realtime_relay_sessions_active")
