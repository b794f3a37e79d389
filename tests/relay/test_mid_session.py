"""Disconnects, silence, close frames and violations within a session. What was sent before them is forwarded."""

import asyncio
import contextlib
import fcntl
import socket
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest

from service.failures import CATALOGUE
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import ControlFrame
from service.relay.session import Session
from service.relay.watchdog import SessionLimits
from tests.support import scripted_upstream
from tests.support.harness import RawClient, Relay, eventually, payload_of, within
from tests.support.raw_websocket_server import CREATED, Script, ServerConnection
from tests.support.scaled_limits import scale_limits

PATH: Final = "/v1/realtime?model=scripted"
UPSTREAM_LOST: Final = (1011, CATALOGUE["upstream_lost"].close_text)
DELTA: Final = b'{"type":"response.output_audio.delta","delta":"' + b"A" * 4000 + b'"}'


@asynccontextmanager
async def session(script: Script, reason: str, **settings: str) -> AsyncIterator[tuple[Relay, RawClient, Session]]:
    """Open a session with a scripted upstream; on exit it has ended for this reason."""
    async with scripted_upstream.session(script, **settings) as found:
        yield found.relay, found.client, found.session
        await found.client.close()
        assert reason == await found.ended()


async def wait_delivered(connection: ServerConnection) -> None:
    """Wait until the relay's kernel has received everything that was sent."""
    sock = connection.writer.get_extra_info("socket")
    await connection.writer.drain()
    await eventually(lambda: not any(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))))


@pytest.mark.parametrize("method", ["reset", "fin"])
async def test_messages_before_an_upstream_disconnect_are_forwarded(method: str) -> None:
    """Three thousand messages, then RST or FIN; the error event follows them."""
    events = [b'{"type":"x","n":%d,"a":"%s"}' % (number, b"A" * 1000) for number in range(3000)]

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        for event in events:
            connection.send(event)
            await connection.writer.drain()
        await wait_delivered(connection)
        if method == "reset":
            connection.reset()

    async with session(script, "upstream_lost") as (_, client, _):
        assert events == [payload_of(await client.next_item()) for _ in events]
        assert (await client.next_event())["error"]["code"] == "upstream_lost"
        assert UPSTREAM_LOST == await client.until_close()


async def test_upstream_that_has_closed_is_not_pinged_while_its_messages_wait() -> None:
    """Its kernel would answer a ping with RST, and the next one would end the connection with all that is not read of it."""
    session_ready: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
    sent: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    frame = build_frame(Opcode.TEXT, DELTA)

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        relay_session, count = await session_ready, 0
        while "sink_full" not in relay_session._upstream._hold_reasons:
            connection.writer.write(frame)
            count += 1
            await asyncio.sleep(0)
        connection.send_close(4000, "limit")
        connection.writer.close()
        await connection.writer.wait_closed()
        sent.set_result(count)

    async with session(script, "upstream_closed") as (_, client, relay_session):
        transport: Any = client.writer.transport
        transport.pause_reading()
        session_ready.set_result(relay_session)
        count = await within(sent, 20)
        for _ in range(3):
            relay_session.stalled(3.0)  # the client is pinged, as it is every 20 s
            await asyncio.sleep(0.01)
        transport.resume_reading()
        assert [frame] * count == [await client.next_item() for _ in range(count)]
        assert (4000, "limit") == await client.until_close()


async def answer_pings(peer: RawClient | ServerConnection) -> None:
    """Answer pings, and the close frame at the end."""
    is_client = isinstance(peer, RawClient)
    scanner = Scanner(masked=not is_client, max_message_bytes=1 << 24)
    answers = {Opcode.PING: Opcode.PONG, Opcode.CLOSE: Opcode.CLOSE}
    with contextlib.suppress(ConnectionError):
        while data := await peer.reader.read(65_536):
            for item in scanner.feed(data):
                if isinstance(item, ControlFrame) and item.opcode in answers:
                    peer.writer.write(build_frame(answers[item.opcode], item.payload, b"abcd" if is_client else b""))


SILENT_SECONDS: Final = 0.6


@pytest.mark.parametrize(
    ("silent_side", "other_sends", "reason"),
    [
        pytest.param("upstream", False, "upstream_lost", id="silent upstream"),
        pytest.param("upstream", True, "upstream_lost", id="silent upstream, client sends"),
        pytest.param("client", False, "client_lost", id="silent client"),
        pytest.param("client", True, "client_lost", id="silent client, upstream sends"),
        pytest.param("neither", False, "client_closed", id="both answer"),
    ],
)
async def test_peer_that_answers_no_ping_is_lost(
    silent_side: str, other_sends: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the other side sends. Peers that only answer pings keep their session."""
    monkeypatch.setattr("service.relay.ticker.TICK_SECONDS", 0.05)
    upstream_close: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def behave(peer: RawClient | ServerConnection, name: str) -> None:
        """Answer pings and perhaps send messages, unless this side is to be silent."""
        if name == silent_side:
            return
        answering = asyncio.ensure_future(answer_pings(peer))
        while not answering.done():
            if other_sends:
                peer.writer.write(build_frame(Opcode.TEXT, b"{}", b"abcd" if name == "client" else b""))
            await asyncio.wait([answering], timeout=0.05)

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await behave(connection, "upstream")
        upstream_close.set_result(await connection.until_close())

    async with session(script, reason) as (relay, client, relay_session):
        limits = SessionLimits(max_message_bytes=1 << 20, ping_seconds=0.1, silent_seconds=SILENT_SECONDS)
        clock = scale_limits(relay_session, limits)
        silent_until = clock.time() + 2 * SILENT_SECONDS
        client_task = asyncio.ensure_future(behave(client, "client"))
        if silent_side == "neither":
            await eventually(lambda: clock.time() >= silent_until)  # a silent peer would be lost by now
            assert not relay_session._ended.done()
            client.send_frame(Opcode.CLOSE, close_payload(1000))
        await eventually(relay_session._ended.done)
        if silent_side != "neither":
            leg = relay_session._client if silent_side == "client" else relay_session._upstream
            silent_seconds = clock.time() - leg.last_alive_at
            assert silent_seconds > SILENT_SECONDS - 0.01  # the loop's clock has a resolution of 1 ms
        if silent_side == "client":
            with contextlib.suppress(ConnectionError):
                await client.until_close()
        await eventually(lambda: bool(relay.events("session.ended")))
        client_task.cancel()
        await asyncio.wait([client_task])
    assert upstream_close.done()


async def test_sockets_have_keepalive_and_user_timeout() -> None:
    """On both sides: the kernel finds a silent machine within 35 s, and one that acknowledges nothing."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.until_close()

    async with session(script, "client_lost") as (_, _, relay_session):
        for leg, user_timeout in ((relay_session._client, 60_000), (relay_session._upstream, 20_000)):
            sock = leg._transport.get_extra_info("socket")
            names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            options = [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
            assert [20, 5, 3, user_timeout] == options
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


@pytest.mark.parametrize(
    ("code", "text", "expected_text"),
    [
        pytest.param(3000, "invalid_request_error.invalid_api_key", "invalid_request_error.invalid_api_key", id="3000"),
        pytest.param(4000, "x" * 123, "x" * 123, id="the longest reason"),
        pytest.param(1013, "\u00e9" * 61, "\u00e9" * 61, id="two-byte characters"),
        pytest.param(4000, ("sk-proj-a1b2c3d4 " * 9)[:123], "[redacted] " * 7, id="only keys"),
        pytest.param(None, "", "", id="no code"),
    ],
)
async def test_upstream_close_is_forwarded_and_its_socket_closed(
    code: int | None, text: str, expected_text: str
) -> None:
    """Without keys in the reason, and not too long. Upstream keeps its socket open, and it is closed within two seconds."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await asyncio.sleep(0)
        connection.send_close(code, text)
        await within(connection.read_until_eof(), 2)
        closed.set()

    closed = asyncio.Event()
    async with session(script, "upstream_closed") as (_, client, _):
        close = await client.until_close()
        await within(closed.wait(), 2)

        assert close is not None
        assert (code or 1000) == close[0]
        assert close[1].startswith(expected_text)
        assert "sk-proj" not in close[1]


@pytest.mark.parametrize("resumes_reading", [True, False], ids=["in time", "never"])
async def test_slow_client_is_flushed_after_upstream_closes(
    resumes_reading: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it reads within its time the close frame comes last; else it is aborted. Upstream is closed in both cases."""
    monkeypatch.setattr("service.relay.session.CLIENT_CLOSE_SECONDS", 0.5)
    frame = build_frame(Opcode.TEXT, DELTA)
    session_ready: asyncio.Future[Session] = asyncio.get_running_loop().create_future()
    closed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        relay_session, count = await session_ready, 0
        while relay_session._client.buffered_bytes < 3 * len(frame):
            connection.writer.write(frame)
            count += 1
            await asyncio.sleep(0.0005)
        connection.send_close(1001, "deploy")
        await within(connection.read_until_eof(), 2)
        closed.set_result(count)

    async with session(script, "upstream_closed") as (relay, client, relay_session):
        transport: Any = client.writer.transport
        transport.pause_reading()
        client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        relay_session._client._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384
        )
        session_ready.set_result(relay_session)
        count = await within(closed, 5)
        assert relay_session._client.buffered_bytes > 0
        if resumes_reading:
            transport.resume_reading()
            assert [frame] * count == [await client.next_item() for _ in range(count)]
            assert (1001, "deploy") == await client.until_close()
        await client.close() if resumes_reading else await eventually(lambda: bool(relay.events("session.ended")), 2)
        await eventually(lambda: bool(relay.events("session.ended")))
        assert resumes_reading or relay.events("session.ended")[0]["duration_seconds"] >= 0.5


async def test_session_expired_event_names_the_ending() -> None:
    """The provider sends it before its close frame; event and code are forwarded."""
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
        pytest.param(b"\x80\x00", 1002, id="continuation without start"),
        pytest.param(b"\x09\x00", 1002, id="fragmented ping"),
        pytest.param(b"\x88\x02\x03\xee", 1002, id="close 1006"),
        pytest.param(b"\x88\x03\x03\xe8\xff", 1007, id="close reason not UTF-8"),
        pytest.param(b"\x81\x80abcd", 1002, id="masked"),
    ],
)
async def test_upstream_violation_closes_both_sides(raw: bytes, code: int) -> None:
    """Upstream with the code of RFC 6455, the client with an error event and 1011."""
    upstream_close: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.write(raw)
        upstream_close.set_result(await connection.until_close())

    async with session(script, "upstream_protocol_error") as (_, client, _):
        assert (await client.next_event())["error"]["code"] == "upstream_protocol_error"
        assert (1011, CATALOGUE["upstream_protocol_error"].close_text) == await client.until_close()
        assert (code, "") == await within(upstream_close, 2)


async def test_invalid_utf8_of_upstream_is_forwarded() -> None:
    """Unchanged; the client's 1007 reaches upstream."""
    upstream_close: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    frame = build_frame(Opcode.TEXT, b'{"type":"x","a":"\xff\xc0"}')

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.write(frame)
        upstream_close.set_result(await connection.until_close())

    async with session(script, "client_closed") as (_, client, _):
        assert frame == await client.next_item()
        client.send_frame(Opcode.CLOSE, close_payload(1007, "not UTF-8"))
        assert (1007, "not UTF-8") == await within(upstream_close, 2)
        assert (1007, "") == await client.until_close()


@pytest.mark.parametrize(
    ("stalled", "reason"),
    [
        pytest.param(24.0, "client_closed", id="the process did not run for 24 s of 44 s"),
        pytest.param(44.0, "client_closed", id="the process did not run"),
        pytest.param(0.0, "client_lost", id="control: the process ran"),
    ],
)
async def test_silence_during_a_stall_of_the_process_is_not_the_peers(
    stalled: float, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGSTOP, a suspended machine or a throttled container both peers are pinged before they are judged."""
    monkeypatch.setattr("service.relay.ticker.TICK_SECONDS", 0.05)

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await answer_pings(connection)

    async with session(script, reason) as (relay, client, relay_session):
        for leg in (relay_session._client, relay_session._upstream):
            leg.last_alive_at -= 44.0
            leg.last_received_at -= 44.0
        relay_session._watch.quiet_until = 0.0
        relay.app.sessions._ticker._due -= stalled
        if stalled:
            ping = await client.next_item_or_ping()
            assert ping.opcode is Opcode.PING
            client.send_frame(Opcode.PONG, ping.payload)
            silent_since = relay_session._client.last_alive_at
            await eventually(lambda: relay_session._client.last_alive_at > silent_since)
            assert not relay_session._ended.done()
            client.send_frame(Opcode.CLOSE, close_payload(1000))
        await eventually(relay_session._ended.done)
