"""How sessions end: what each side is told, how soon upstream is gone, and that each end is counted once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from service.failures import CATALOGUE
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner_items import Control
from service.relay.pipe import Pipe
from service.relay.ticker import TICK_SECONDS
from tests.support import scripted_upstream
from tests.support.harness import RawClient, Relay, eventually, open_raw, running_relay
from tests.support.raw_websocket_server import CREATED, Script, ServerConnection, raw_upstream

PATH = "/v1/realtime?model=scripted"
Seen = asyncio.Future[tuple[int | None, str] | None]


@asynccontextmanager
async def session(script: Script, **settings: str) -> AsyncIterator[tuple[Relay, RawClient]]:
    """A session with a scripted upstream, past its first event, of which there is one."""
    async with scripted_upstream.session(script, **settings) as found:
        yield found.relay, found.client
        await found.client.close()
        await found.ended()


def reason_of(relay: Relay) -> str:
    """Why the session ended."""
    return str(relay.events("session.ended")[0]["reason"])


def listening(seen: Seen) -> Script:
    """An upstream that waits for CLOSE and answers it."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        close = await connection.until_close()
        seen.set_result(close)
        if close is not None:
            connection.send_close(close[0])

    return script


async def test_a_session_counts_until_its_sockets_are_gone() -> None:
    """A client that hung up makes no room while upstream, which costs money, still waits for the end."""

    async def deaf_to_close(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.read_until_eof()

    async with session(deaf_to_close, RELAY_MAX_SESSIONS="1") as (relay, client):
        client.reset()
        await eventually(next(iter(relay.app.sessions))._ended.done)
        second = await open_raw(relay.app.public_port, PATH)
        await second.close()

        assert (503, "relay_full") == (second.answer.status, second.answer.error["code"])


@pytest.mark.parametrize(
    ("payload", "echoed", "onward"),
    [
        (close_payload(1000, "bye"), (1000, ""), (1000, "bye")),
        (close_payload(3001, "x"), (3001, ""), (3001, "x")),
        (b"", (None, ""), (1000, "")),
    ],
)
async def test_a_client_says_goodbye(payload: bytes, echoed: tuple[int | None, str], onward: tuple[int, str]) -> None:
    """The client gets its own code back, and upstream gets code and reason on."""
    seen: Seen = asyncio.get_running_loop().create_future()
    async with session(listening(seen)) as (relay, client):
        client.send_frame(Opcode.CLOSE, payload)

        assert echoed == await client.until_close()
        assert onward == await asyncio.wait_for(seen, 2)
        await eventually(lambda: bool(relay.events("session.ended")))
        assert reason_of(relay) == "client_closed"


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_client_vanishes(how: str) -> None:
    """A client that hangs up without a word takes its upstream with it at once."""
    seen: Seen = asyncio.get_running_loop().create_future()
    async with session(listening(seen)) as (relay, client):
        if how == "fin":
            await client.close()
        else:
            client.reset()

        assert await asyncio.wait_for(seen, 2) == (1001, "")
        await eventually(lambda: bool(relay.events("session.ended")))
        assert reason_of(relay) == "client_lost"


@pytest.mark.parametrize("how", ["fin", "reset", "close"])
async def test_a_held_back_client_that_vanishes_is_noticed(how: str) -> None:
    """While upstream reads nothing and the client is held back for it, the client's going is noticed within two seconds."""
    stuck = asyncio.Event()

    async def ignore_close(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that can read
        await stuck.wait()
        connection.writer.transport.resume_reading()  # type: ignore[attr-defined]  # a transport that can read
        await connection.wait_closed()

    async with session(ignore_close) as (relay, client):
        held = asyncio.create_task(fill_until_held(relay, client))
        await asyncio.wait_for(held, 20)
        started = asyncio.get_running_loop().time()
        if how == "fin":
            client.writer.write_eof()
        elif how == "reset":
            client.reset()
        else:
            client.send_frame(Opcode.CLOSE, close_payload(1000))
        await eventually(lambda: bool(relay.events("session.ended")), 4)
        stuck.set()

        assert reason_of(relay) == ("client_closed" if how == "close" else "client_lost")
        assert asyncio.get_running_loop().time() - started < 2.5


async def fill_until_held(relay: Relay, client: RawClient) -> None:
    """Send until the relay stops reading, but leave room for a CLOSE."""
    session_ = next(iter(relay.app.sessions))
    frame = build_frame(Opcode.TEXT, b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 6000 + b'"}', b"abcd")
    while session_._client.held_since is None:
        client.writer.write(frame)
        await client.writer.drain()
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("code", "text", "told", "reason"),
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
async def test_upstream_says_goodbye(code: int | None, text: str, told: tuple[int, str], reason: str) -> None:
    """The client gets upstream's code and reason, without anything in it that looks like a key."""
    go = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await go.wait()
        connection.send_close(code, text)
        await connection.wait_closed()

    async with session(script) as (relay, client):
        go.set()

        assert told == await client.until_close()
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        assert reason == reason_of(relay)


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_upstream_vanishes(how: str) -> None:
    """The client is told by event and by CLOSE 1011, in the catalogue's words."""
    go = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await go.wait()
        if how == "reset":
            connection.reset()

    async with session(script) as (relay, client):
        go.set()
        event = await client.next_event()

        assert (event["type"], event["error"]["code"]) == ("error", "upstream_lost")
        assert await client.until_close() == (1011, CATALOGUE["upstream_lost"].close_text)
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        assert reason_of(relay) == "upstream_lost"


async def test_upstream_dies_inside_a_frame() -> None:
    """When a frame has gone on in part, the client is cut off: a CLOSE in the middle of it would be read as audio."""
    go = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await go.wait()
        connection.writer.write(build_frame(Opcode.TEXT, b"x" * 200_000)[:100_000])
        await connection.writer.drain()

    async with session(script) as (relay, client):
        go.set()
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
async def test_a_client_breaks_the_rules(raw: bytes, code: int, reason: str) -> None:
    """The client is told which rule, by code, and by event if it sent too much; upstream gets an ordinary goodbye."""
    seen: Seen = asyncio.get_running_loop().create_future()
    async with session(listening(seen), RELAY_MAX_MESSAGE_BYTES="100000") as (relay, client):
        client.writer.write(raw)

        if reason == "message_too_big":
            assert (await client.next_event())["error"]["code"] == reason
        assert await client.until_close() == (code, CATALOGUE[reason].close_text)
        assert await asyncio.wait_for(seen, 2) == (1001, "")
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        assert reason_of(relay) == reason


@pytest.mark.parametrize("raw", [b"\x81\x02{}", b"\xc1\x80abcd" + b"x" * 300_000], ids=["unmasked", "more behind it"])
async def test_whoever_breaks_the_protocol_gets_a_close_and_nothing_more(raw: bytes) -> None:
    """CLOSE comes first and alone (RFC 6455 section 7.1.7), and the relay hangs up behind it at once."""
    seen: Seen = asyncio.get_running_loop().create_future()
    async with session(listening(seen)) as (_, client):
        client.writer.write(raw)

        assert await asyncio.wait_for(client.next_item(), 2) == Control(
            Opcode.CLOSE, close_payload(1002, CATALOGUE["client_protocol_error"].close_text)
        )
        assert await asyncio.wait_for(client.reader.read(), 2) == b""
        await client.close()


async def test_upstream_breaks_the_rules() -> None:
    """A masked frame from upstream ends the session; the client is told that it is not its fault."""
    go = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await go.wait()
        connection.writer.write(build_frame(Opcode.TEXT, b"{}", b"abcd"))
        await connection.wait_closed()

    async with session(script) as (_, client):
        go.set()
        event = await client.next_event()

        assert event["error"]["code"] == "upstream_protocol_error"
        assert await client.until_close() == (1011, CATALOGUE["upstream_protocol_error"].close_text)


@pytest.mark.parametrize(
    ("setting", "reason"),
    [("RELAY_IDLE_TIMEOUT_SECONDS", "idle_timeout"), ("RELAY_MAX_SESSION_SECONDS", "max_duration")],
)
async def test_the_clock_ends_a_session(setting: str, reason: str) -> None:
    """Idleness and duration have their bounds, and both sides are told 1001."""
    seen: Seen = asyncio.get_running_loop().create_future()
    async with session(listening(seen), **{setting: "0.3"}) as (_, client):
        event = await client.next_event()

        assert event["error"]["code"] == reason
        assert await client.until_close() == (1001, CATALOGUE[reason].close_text)
        assert await asyncio.wait_for(seen, 2) == (1001, "")


@pytest.mark.parametrize(
    ("setting", "flood"),
    [
        ("RELAY_MAX_MESSAGES_PER_SECOND", build_frame(Opcode.TEXT, b"{}", b"abcd") * 50),
        ("RELAY_MAX_MESSAGES_PER_SECOND", build_frame(Opcode.PING, b"", b"abcd") * 50),
        ("RELAY_MAX_BYTES_PER_SECOND", build_frame(Opcode.TEXT, b"x" * 60, b"abcd")),
    ],
)
async def test_a_flood_ends_a_session(setting: str, flood: bytes) -> None:
    """More messages, pings or bytes than the average allows end a session with 1008; a little less does not."""
    seen: Seen = asyncio.get_running_loop().create_future()
    async with session(listening(seen), **{setting: "4"}) as (relay, client):
        client.writer.write(flood[: len(flood) // 2] if len(flood) > 100 else b"")
        await asyncio.sleep(2 * TICK_SECONDS)  # the clock has looked
        assert [] == relay.events("session.ended")
        client.writer.write(flood)
        event = await client.next_event()

        assert event["error"]["code"] == "rate_exceeded"
        assert await client.until_close() == (1008, CATALOGUE["rate_exceeded"].close_text)
        assert (await asyncio.wait_for(seen, 2)) is not None


@pytest.mark.parametrize("stubborn", ["deaf", "babbling"])
async def test_upstream_that_will_not_close_is_aborted(stubborn: str) -> None:
    """An upstream that ignores CLOSE, or goes on talking, is gone two seconds after the client all the same."""
    closed = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        try:
            if stubborn == "deaf":
                await connection.read_until_eof()
            else:
                while True:
                    connection.send(b'{"type":"response.output_audio.delta","delta":"' + b"A" * 1000 + b'"}')
                    await connection.writer.drain()
                    await asyncio.sleep(0.001)
        finally:
            closed.set()

    async with session(script) as (_, client):
        client.send_frame(Opcode.CLOSE, close_payload(1000))
        await asyncio.wait_for(closed.wait(), 2)


async def test_an_error_event_with_a_key_in_it_is_redacted() -> None:
    """An `error` in an open session passes byte for byte, unless a piece of a key is in it; both are counted by code."""
    plain = b'{"type":"error","event_id":"e1","error":{"type":"t","code":"invalid_value","message":"m"}}'
    leaky = b'{"type":"error","event_id":"e2","error":{"code":"zzz","message":"key sk-proj-****abcd is \\"off\\""}}'
    go = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await go.wait()
        connection.send(plain)
        connection.send(leaky)
        await connection.wait_closed()

    async with session(script) as (relay, client):
        go.set()

        assert build_frame(Opcode.TEXT, plain) == await client.next_item()
        assert (await client.next_event())["error"]["message"] == 'key [redacted] is "off"'
        assert relay.metric("realtime_relay_upstream_error_events_total", code="invalid_value") == 1
        assert relay.metric("realtime_relay_upstream_error_events_total", code="other") == 1


async def test_a_fault_of_the_relay_ends_one_session_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that strikes in one session is told as internal_error there, and another session goes on."""
    seen: Seen = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        while data := await connection.reader.read(65_536):
            del data
            connection.send(b'{"type":"session.updated"}')

    real = Pipe._count

    def faulty(self: Pipe, kind: str | None) -> None:
        if kind == "session.close":
            raise ZeroDivisionError
        real(self, kind)

    monkeypatch.setattr(Pipe, "_count", faulty)
    async with (
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        struck, other = await open_raw(relay.app.public_port, PATH), await open_raw(relay.app.public_port, PATH)
        await struck.next_event()
        await other.next_event()
        struck.send_event(type="session.close")
        while (event := await struck.next_event())["type"] != "error":
            pass
        assert event["error"]["code"] == "internal_error"
        assert await struck.until_close() == (1011, CATALOGUE["internal_error"].close_text)

        other.send_event(type="session.update")
        assert (await other.next_event())["type"] == "session.updated"
        await struck.close()
        await other.close()
        seen.cancel()
