"""Ends that meet: both sides at once, last words behind a full peer, a frame left open, a peer that reads nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.failures import CATALOGUE
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.relay.pipe import Pipe
from service.relay.session import Session
from service.relay.ticker import TICK_SECONDS
from service.relay.watchdog import SessionLimits
from tests.support import scripted_upstream
from tests.support.harness import RawClient, Relay, eventually
from tests.support.raw_websocket_server import CREATED, RawUpstream, Script, ServerConnection

PATH = "/v1/realtime?model=scripted"
AUDIO = build_frame(Opcode.TEXT, b'{"type":"response.output_audio.delta","delta":"' + b"A" * 16_000 + b'"}')
APPEND = build_frame(Opcode.TEXT, b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 16_000 + b'"}', b"abcd")


@asynccontextmanager
async def session(script: Script) -> AsyncIterator[tuple[Relay, RawClient, Session, RawUpstream]]:
    """A session with a scripted upstream, past its first event, of which there is one."""
    async with scripted_upstream.session(script) as found:
        yield found.relay, found.client, found.session, found.upstream
        await found.client.close()
        await found.ended()


def reason_of(relay: Relay) -> str:
    """Why the session ended."""
    return str(relay.events("session.ended")[0]["reason"])


async def ended(relay: Relay, seconds: float = 3.0) -> str:
    """Wait for the end; its reason."""
    await eventually(lambda: bool(relay.events("session.ended")), seconds)
    return reason_of(relay)


def deafen(peer: ServerConnection | RawClient) -> None:
    """Stop reading, with little room for what comes."""
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that can read


def listen_again(peer: ServerConnection | RawClient) -> None:
    """Read on."""
    peer.writer.transport.resume_reading()  # type: ignore[attr-defined]  # a transport that can read


@pytest.mark.parametrize("first", ["client", "upstream"])
async def test_both_say_goodbye_in_the_same_turn(first: str) -> None:
    """Two CLOSEs in one turn of the loop are one end, and each side's CLOSE is answered with one CLOSE."""
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        answered.set_result(await connection.until_close())
        await connection.wait_closed()

    async with session(script) as (relay, client, live, _):
        from_client = build_frame(Opcode.CLOSE, close_payload(3001, "c"), b"abcd")
        from_upstream = build_frame(Opcode.CLOSE, close_payload(4002, "u"))
        if first == "client":
            live._to_upstream.receive(from_client)
            live._to_client.receive(from_upstream)
        else:
            live._to_client.receive(from_upstream)
            live._to_upstream.receive(from_client)

        assert (3001, "") == await client.until_close()
        assert (4002, "") == await asyncio.wait_for(answered, 2)
        assert f"{first}_closed" == await ended(relay)
        assert 1 == relay.metric("realtime_relay_sessions_ended_total", reason=f"{first}_closed")


async def test_both_vanish_in_the_same_turn() -> None:
    """Two losses in one turn of the loop are one end."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.wait_closed()

    async with session(script) as (relay, client, live, _):
        live._client._transport.abort()
        live._upstream._transport.abort()
        await client.close()
        assert await ended(relay) in {"client_lost", "upstream_lost"}


async def test_last_words_wait_for_a_slow_client() -> None:
    """Upstream says CLOSE and hangs up while a client is not reading: all of it arrives, then code and reason."""
    spoken: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    lives: asyncio.Queue[Session] = asyncio.Queue()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        live = await lives.get()
        count = 0
        while live._upstream.held_since is None:
            connection.writer.write(AUDIO)
            count += 1
            await asyncio.sleep(0)
        connection.send_close(1001, "deploy")
        await connection.writer.drain()
        connection.writer.write_eof()
        spoken.set_result(count)
        await connection.wait_closed()

    async with session(script) as (relay, client, live, _):
        deafen(client)
        lives.put_nowait(live)
        count = await asyncio.wait_for(spoken, 10)
        await asyncio.sleep(2 * TICK_SECONDS + 0.1)  # the watchdog has looked, and let the session be
        assert [] == relay.events("session.ended")
        listen_again(client)

        for _ in range(count):
            assert AUDIO == await client.next_item()
        assert (1001, "deploy") == await client.until_close()
        await client.close()
        assert await ended(relay) == "upstream_closed"


async def test_upstream_that_reads_nothing_is_cut_off() -> None:
    """An upstream that leaves everything unread is aborted; the client is told by event and by 1011."""
    done = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        deafen(connection)
        await done.wait()
        listen_again(connection)
        await connection.wait_closed()

    async with session(script) as (relay, client, live, _):
        live._limits = SessionLimits(max_message_bytes=1 << 20, slow_seconds=0.1)
        while live._client.held_since is None:
            client.writer.write(APPEND)
            await asyncio.sleep(0)
        assert (await client.next_event())["error"]["code"] == "upstream_too_slow"
        assert (1011, CATALOGUE["upstream_too_slow"].close_text) == await client.until_close()
        done.set()
        assert relay.metric("realtime_relay_backpressure_seconds_total", direction="client_to_upstream") > 0
        assert relay.metric("realtime_relay_backpressure_seconds_total", direction="upstream_to_client") == 0
        await client.close()
        assert await ended(relay) == "upstream_too_slow"


async def test_a_client_that_dies_inside_a_frame() -> None:
    """When a client's frame has gone on in part, upstream is cut off: a CLOSE there would be read as audio."""
    end: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        data = bytearray()
        try:
            while piece := await connection.reader.read(65_536):
                data += piece
        except ConnectionError:
            pass
        end.set_result(bytes(data))

    frame = build_frame(Opcode.TEXT, b"x" * 200_000, b"abcd")
    async with session(script) as (relay, client, live, _):
        client.writer.write(frame[:100_000])
        await eventually(lambda: live._to_upstream.bytes == 100_000)
        client.writer.write_eof()
        received = await asyncio.wait_for(end, 2)

        assert frame[: len(received)] == received
        assert await ended(relay) == "client_lost"


async def test_a_clock_that_fails_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in the watchdog is told as internal_error; the session is not left without a clock."""

    def faulty(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("service.relay.session.due_ending", faulty)

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.wait_closed()

    async with session(script) as (relay, client, _, _):
        assert (await client.next_event())["error"]["code"] == "internal_error"
        assert (1011, CATALOGUE["internal_error"].close_text) == await client.until_close()
        await client.close()
        assert await ended(relay) == "internal_error"


async def test_a_fault_at_the_first_event_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug that strikes while the first event goes on is told as internal_error too, not by an unexplained hang-up."""

    def faulty(_self: Pipe, _kind: str | None) -> None:
        raise ZeroDivisionError

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.wait_closed()

    monkeypatch.setattr(Pipe, "_count", faulty)
    async with session(script) as (relay, client, _, _):
        assert (await client.next_event())["error"]["code"] == "internal_error"
        assert (1011, CATALOGUE["internal_error"].close_text) == await client.until_close()
        await client.close()
        assert await ended(relay) == "internal_error"


async def test_a_message_of_upstream_over_the_cap() -> None:
    """Upstream is told 1009; the client by event and 1011 what happened, since it has only received."""
    told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.write(b"\x81\x7f" + (1 << 30).to_bytes(8, "big"))
        told.set_result(await connection.until_close())

    async with session(script) as (relay, client, _, _):
        assert (await client.next_event())["error"]["code"] == "message_too_big"
        assert (1011, CATALOGUE["message_too_big"].close_text) == await client.until_close()
        assert (1009, "") == await asyncio.wait_for(told, 2)
        await client.close()
        assert await ended(relay) == "message_too_big"


def _steps(client: RawClient, connection: ServerConnection, live: Session) -> dict[str, Callable[[], object]]:
    """What can happen to a session, by name."""
    return {
        "client sends": lambda: client.writer.write(APPEND),
        "client sends a large frame": lambda: client.writer.write(build_frame(Opcode.TEXT, b"y" * 90_000, b"abcd")),
        "client pings": lambda: client.send_frame(Opcode.PING, b"p"),
        "client closes": lambda: client.send_frame(Opcode.CLOSE, close_payload(1000)),
        "client hangs up": client.writer.close,
        "upstream sends": lambda: connection.writer.write(AUDIO),
        "upstream sends a large frame": lambda: connection.send(b"z" * 90_000),
        "upstream pings": lambda: connection.send(b"q", Opcode.PING),
        "upstream closes": lambda: connection.send_close(1000),
        "upstream hangs up": connection.writer.close,
        "the relay ends it": lambda: live.end("relay_draining"),
    }


STEPS: Final = (
    *("client sends", "client sends a large frame", "client pings", "client closes", "client hangs up"),
    *("upstream sends", "upstream sends a large frame", "upstream pings", "upstream closes", "upstream hangs up"),
    *("the relay ends it", "a turn of the loop"),
)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(STEPS), min_size=1, max_size=12))
async def test_any_order_of_events_is_one_end(steps: list[str]) -> None:
    """Whatever both sides do and in whatever order, a session ends once, and upstream does not outlive it."""
    connections: list[ServerConnection] = []

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connections.append(connection)
        await connection.until_close()

    async with session(script) as (_, client, live, _):
        does = _steps(client, connections[0], live)
        assert {*STEPS} == {*does, "a turn of the loop"}
        for step in steps:
            if step in does:
                with suppress(RuntimeError):  # uvloop refuses to write to a socket that is gone
                    does[step]()
            else:
                await asyncio.sleep(0)
