"""How sessions end: the close code of each side, the time until upstream is closed, and one count for each ending."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from service.failures import CATALOGUE
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner_items import ControlFrame
from tests.support import scripted_upstream
from tests.support.harness import RawClient, Relay, eventually, open_raw, within
from tests.support.raw_websocket_server import CREATED, Script, ServerConnection

PATH = "/v1/realtime?model=scripted"
CloseFuture = asyncio.Future[tuple[int | None, str] | None]


@asynccontextmanager
async def session(script: Script, **settings: str) -> AsyncIterator[tuple[Relay, RawClient]]:
    """Open a session with a scripted upstream; on exit it has ended, once."""
    async with scripted_upstream.session(script, **settings) as found:
        yield found.relay, found.client
        await found.client.close()
        await found.ended()


def reason_of(relay: Relay) -> str:
    """The reason in the session's log line."""
    return str(relay.events("session.ended")[0]["reason"])


def close_recorder(close_future: CloseFuture) -> Script:
    """An upstream that waits for the close frame, records it and answers it."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        close = await connection.until_close()
        close_future.set_result(close)
        if close is not None:
            connection.send_close(close[0])

    return script


async def test_session_holds_its_slot_until_upstream_is_closed() -> None:
    """The client has disconnected; upstream, which costs money, does not answer the close frame."""

    async def ignore_close(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.read_until_eof()

    async with session(ignore_close, RELAY_MAX_SESSIONS="1") as (relay, client):
        client.reset()
        await eventually(next(iter(relay.app.sessions))._ended.done)
        second = await open_raw(relay.app.public_port, PATH)
        await second.close()

        assert (503, "relay_full") == (second.answer.status, second.answer.error["code"])


@pytest.mark.parametrize(
    ("payload", "echoed", "forwarded"),
    [
        (close_payload(1000, "bye"), (1000, ""), (1000, "bye")),
        (close_payload(3001, "x"), (3001, ""), (3001, "x")),
        (b"", (None, ""), (1000, "")),
    ],
)
async def test_client_close_is_echoed_and_forwarded(
    payload: bytes, echoed: tuple[int | None, str], forwarded: tuple[int, str]
) -> None:
    """The client gets its own code; upstream gets code and reason."""
    close_future: CloseFuture = asyncio.get_running_loop().create_future()
    async with session(close_recorder(close_future)) as (relay, client):
        client.send_frame(Opcode.CLOSE, payload)

        assert echoed == await client.until_close()
        assert forwarded == await within(close_future, 2)
        await eventually(lambda: bool(relay.events("session.ended")))
        assert reason_of(relay) == "client_closed"


@pytest.mark.parametrize("method", ["fin", "reset"])
async def test_client_disconnect_closes_upstream(method: str) -> None:
    """Without a close frame from the client."""
    close_future: CloseFuture = asyncio.get_running_loop().create_future()
    async with session(close_recorder(close_future)) as (relay, client):
        if method == "fin":
            await client.close()
        else:
            client.reset()

        assert await within(close_future, 2) == (1001, "")
        await eventually(lambda: bool(relay.events("session.ended")))
        assert reason_of(relay) == "client_lost"


@pytest.mark.parametrize("method", ["fin", "reset", "close"])
async def test_held_client_that_disconnects_ends_the_session(method: str) -> None:
    """Within two seconds, although the client is not being read, since upstream reads nothing."""
    resume = asyncio.Event()

    async def read_nothing(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that can read
        await resume.wait()
        connection.writer.transport.resume_reading()  # type: ignore[attr-defined]  # a transport that can read
        await connection.wait_closed()

    async with session(read_nothing) as (relay, client):
        held = asyncio.create_task(fill_until_held(relay, client))
        await within(held, 20)
        if method == "fin":
            client.writer.write_eof()
        elif method == "reset":
            client.reset()
        else:
            client.send_frame(Opcode.CLOSE, close_payload(1000))
        await eventually(lambda: bool(relay.events("session.ended")), 2.5)
        resume.set()

        assert reason_of(relay) == ("client_closed" if method == "close" else "client_lost")


async def fill_until_held(relay: Relay, client: RawClient) -> None:
    """Send until the relay stops reading, but leave room in the kernel's buffers for a close frame."""
    relay_session = next(iter(relay.app.sessions))
    frame = build_frame(Opcode.TEXT, b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 6000 + b'"}', b"abcd")
    while "sink_full" not in relay_session._client._hold_reasons:  # a costly read may hold it for a turn
        client.writer.write(frame)
        await client.writer.drain()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("code", "text", "expected", "reason"),
    [
        (1000, "", (1000, ""), "upstream_closed"),
        (4000, "invalid_request_error.x", (4000, "invalid_request_error.x"), "upstream_closed"),
        (None, "", (1000, ""), "upstream_closed"),
        (1001, "going away", (1001, "going away"), "upstream_closed"),
        (
            1001,
            "Your session hit the maximum duration of 60 minutes.",
            (1001, "Your session hit the maximum duration of 60 minutes."),
            "session_expired",
        ),
        (1008, "key sk-proj-abcdef123456 revoked", (1008, "key [redacted] revoked"), "upstream_closed"),
    ],
)
async def test_upstream_close_is_forwarded(code: int | None, text: str, expected: tuple[int, str], reason: str) -> None:
    """With its reason, in which anything that looks like a key is redacted."""
    proceed = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await proceed.wait()
        connection.send_close(code, text)
        await connection.wait_closed()

    async with session(script) as (relay, client):
        proceed.set()

        assert expected == await client.until_close()
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        assert reason == reason_of(relay)


@pytest.mark.parametrize("method", ["fin", "reset"])
async def test_upstream_disconnect_sends_error_event_and_close_1011(method: str) -> None:
    """Upstream sent no close frame; the texts are those of the catalogue."""
    proceed = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await proceed.wait()
        if method == "reset":
            connection.reset()

    async with session(script) as (relay, client):
        proceed.set()
        event = await client.next_event()

        assert (event["type"], event["error"]["code"]) == ("error", "upstream_lost")
        assert await client.until_close() == (1011, CATALOGUE["upstream_lost"].close_text)
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        assert reason_of(relay) == "upstream_lost"


async def test_upstream_disconnect_inside_a_frame_aborts_the_client() -> None:
    """The client would read a close frame inside a frame as a part of its payload."""
    proceed = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await proceed.wait()
        connection.writer.write(build_frame(Opcode.TEXT, b"x" * 200_000)[:100_000])
        await connection.writer.drain()

    async with session(script) as (relay, client):
        proceed.set()
        try:
            close = await client.until_close()
        except ConnectionResetError:
            close = None

        assert close is None
        await eventually(lambda: bool(relay.events("session.ended")))
        assert reason_of(relay) == "upstream_lost"


@pytest.mark.parametrize(
    ("raw", "code", "reason"),
    [
        (build_frame(Opcode.TEXT, b"{}"), 1002, "client_protocol_error"),
        (build_frame(Opcode.CLOSE, b"\x03\xee", b"abcd"), 1002, "client_protocol_error"),
        (build_frame(Opcode.CLOSE, b"\x13\x88", b"abcd"), 1002, "client_protocol_error"),
        (b"\xc1\x80abcd", 1002, "client_protocol_error"),
        (b"\x81\xff" + (1 << 20).to_bytes(8, "big") + b"abcd", 1009, "message_too_big"),
    ],
)
async def test_client_violation_closes_with_its_rfc_code(raw: bytes, code: int, reason: str) -> None:
    """A message that is too big also gets an error event; upstream gets 1001."""
    close_future: CloseFuture = asyncio.get_running_loop().create_future()
    async with session(close_recorder(close_future), RELAY_MAX_MESSAGE_BYTES="100000") as (relay, client):
        client.writer.write(raw)

        if reason == "message_too_big":
            assert (await client.next_event())["error"]["code"] == reason
        assert await client.until_close() == (code, CATALOGUE[reason].close_text)
        assert await within(close_future, 2) == (1001, "")
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        assert reason_of(relay) == reason


@pytest.mark.parametrize("raw", [b"\x81\x02{}", b"\xc1\x80abcd" + b"x" * 300_000], ids=["unmasked", "more behind it"])
async def test_client_protocol_error_gets_only_a_close_frame(raw: bytes) -> None:
    """And then FIN (RFC 6455 section 7.1.7)."""
    close_future: CloseFuture = asyncio.get_running_loop().create_future()
    async with session(close_recorder(close_future)) as (_, client):
        client.writer.write(raw)

        assert await within(client.next_item(), 2) == ControlFrame(
            Opcode.CLOSE, close_payload(1002, CATALOGUE["client_protocol_error"].close_text)
        )
        assert await within(client.reader.read(), 2) == b""
        await client.close()


async def test_upstream_violation_closes_the_client_with_1011() -> None:
    """A masked frame from a server; the error event names upstream as the cause."""
    proceed = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await proceed.wait()
        connection.writer.write(build_frame(Opcode.TEXT, b"{}", b"abcd"))
        await connection.wait_closed()

    async with session(script) as (_, client):
        proceed.set()
        event = await client.next_event()

        assert event["error"]["code"] == "upstream_protocol_error"
        assert await client.until_close() == (1011, CATALOGUE["upstream_protocol_error"].close_text)


async def test_error_event_is_forwarded_unchanged_unless_it_contains_a_key() -> None:
    """A part of a key is redacted; both are counted by code."""
    plain = b'{"type":"error","event_id":"e1","error":{"type":"t","code":"invalid_value","message":"m"}}'
    leaky = b'{"type":"error","event_id":"e2","error":{"code":"zzz","message":"key sk-proj-****abcd is \\"off\\""}}'
    proceed = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await proceed.wait()
        connection.send(plain)
        connection.send(leaky)
        await connection.wait_closed()

    async with session(script) as (relay, client):
        proceed.set()

        assert build_frame(Opcode.TEXT, plain) == await client.next_item()
        assert (await client.next_event())["error"]["message"] == 'key [redacted] is "off"'
        assert relay.metric("realtime_relay_upstream_error_events_total", code="invalid_value") == 1
        assert relay.metric("realtime_relay_upstream_error_events_total", code="other") == 1
