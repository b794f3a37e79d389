"""Endings that coincide: in one event loop iteration, behind unread data, inside a frame, in any order."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.failures import CATALOGUE
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.relay.session import Session
from service.relay.ticker import TICK_SECONDS
from service.relay.watchdog import SessionLimits
from tests.support import scripted_upstream
from tests.support.frame_reader import pause_reading, resume_reading
from tests.support.harness import RawClient, Relay, eventually, open_raw, within
from tests.support.raw_websocket_server import CREATED, RawUpstream, Script, ServerConnection
from tests.support.scaled_limits import scale_limits

PATH = "/v1/realtime?model=scripted"
AUDIO = build_frame(Opcode.TEXT, b'{"type":"response.output_audio.delta","delta":"' + b"A" * 16_000 + b'"}')
APPEND = build_frame(Opcode.TEXT, b'{"type":"input_audio_buffer.append","audio":"' + b"A" * 16_000 + b'"}', b"abcd")


@asynccontextmanager
async def session(script: Script) -> AsyncIterator[tuple[Relay, RawClient, Session, RawUpstream]]:
    """Open a session with a scripted upstream; on exit it has ended, once."""
    async with scripted_upstream.session(script) as found:
        yield found.relay, found.client, found.session, found.upstream
        await found.client.close()
        await found.ended()


def reason_of(relay: Relay) -> str:
    """The reason in the session's log line."""
    return str(relay.events("session.ended")[0]["reason"])


async def ended(relay: Relay, seconds: float = 3.0) -> str:
    """Wait until the session has ended; returns the reason."""
    await eventually(lambda: bool(relay.events("session.ended")), seconds)
    return reason_of(relay)


@pytest.mark.parametrize("first", ["client", "upstream"])
async def test_close_from_both_sides_in_one_iteration_is_one_ending(first: str) -> None:
    """Two close frames in one iteration of the event loop: each is answered once."""
    answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        answered.set_result(await connection.until_close())
        await connection.wait_closed()

    async with session(script) as (relay, client, relay_session, _):
        from_client = build_frame(Opcode.CLOSE, close_payload(3001, "c"), b"abcd")
        from_upstream = build_frame(Opcode.CLOSE, close_payload(4002, "u"))
        if first == "client":
            relay_session._to_upstream.receive(from_client)
            relay_session._to_client.receive(from_upstream)
        else:
            relay_session._to_client.receive(from_upstream)
            relay_session._to_upstream.receive(from_client)

        assert (3001, "") == await client.until_close()
        assert (4002, "") == await within(answered, 2)
        assert f"{first}_closed" == await ended(relay)
        assert 1 == relay.metric("realtime_relay_sessions_ended_total", reason=f"{first}_closed")


async def test_disconnect_of_both_sides_in_one_iteration_is_one_ending() -> None:
    """In one iteration of the event loop."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.wait_closed()

    async with session(script) as (relay, client, relay_session, _):
        relay_session._client._transport.abort()
        relay_session._upstream._transport.abort()
        await client.close()
        assert await ended(relay) in {"client_lost", "upstream_lost"}


async def test_upstream_close_waits_for_a_slow_client() -> None:
    """Upstream closes while the client is not reading: all data arrives, then code and reason."""
    sent_count: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    session_ready: asyncio.Queue[Session] = asyncio.Queue()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        relay_session = await session_ready.get()
        count = 0
        while "sink_full" not in relay_session._upstream._hold_reasons:  # a costly read may hold it for a turn
            connection.writer.write(AUDIO)
            count += 1
            await asyncio.sleep(0)
        connection.send_close(1001, "deploy")
        await connection.writer.drain()
        connection.writer.write_eof()
        sent_count.set_result(count)
        await connection.wait_closed()

    async with session(script) as (relay, client, relay_session, _):
        pause_reading(client)
        session_ready.put_nowait(relay_session)
        count = await within(sent_count, 10)
        await asyncio.sleep(2 * TICK_SECONDS + 0.1)  # the session has ticked and goes on
        assert [] == relay.events("session.ended")
        resume_reading(client)

        for _ in range(count):
            assert AUDIO == await client.next_item()
        assert (1001, "deploy") == await client.until_close()
        await client.close()
        assert await ended(relay) == "upstream_closed"


async def test_upstream_that_reads_nothing_is_aborted() -> None:
    """The client gets an error event and 1011."""
    done = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        pause_reading(connection)
        await done.wait()
        resume_reading(connection)
        await connection.wait_closed()

    async with session(script) as (relay, client, relay_session, _):
        scale_limits(relay_session, SessionLimits(max_message_bytes=1 << 20, slow_seconds=0.1, silent_seconds=3600.0))
        while "sink_full" not in relay_session._client._hold_reasons:  # a costly read may hold it for a turn
            client.writer.write(APPEND)
            await asyncio.sleep(0)
        assert (await client.next_event())["error"]["code"] == "upstream_too_slow"
        assert (1011, CATALOGUE["upstream_too_slow"].close_text) == await client.until_close()
        done.set()
        assert relay.metric("realtime_relay_backpressure_seconds_total", direction="client_to_upstream") > 0
        assert relay.metric("realtime_relay_backpressure_seconds_total", direction="upstream_to_client") == 0
        await client.close()
        assert await ended(relay) == "upstream_too_slow"


async def test_client_disconnect_inside_a_frame_aborts_upstream() -> None:
    """Upstream would read a close frame inside a frame as a part of its payload."""
    received_to_eof: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        data = bytearray()
        try:
            while piece := await connection.reader.read(65_536):
                data += piece
        except ConnectionError:
            pass
        received_to_eof.set_result(bytes(data))

    frame = build_frame(Opcode.TEXT, b"x" * 200_000, b"abcd")
    async with session(script) as (relay, client, relay_session, _):
        client.writer.write(frame[:100_000])
        await eventually(lambda: relay_session._to_upstream.forwarded_bytes == 100_000)
        client.writer.write_eof()
        received = await within(received_to_eof, 2)

        assert frame[: len(received)] == received
        assert await ended(relay) == "client_lost"


async def test_declared_length_of_upstream_above_the_limit_ends_the_session() -> None:
    """With 1009 to upstream, and an error event and 1011 to the client."""
    upstream_close: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.write(b"\x81\x7f" + (1 << 30).to_bytes(8, "big"))
        upstream_close.set_result(await connection.until_close())

    async with session(script) as (relay, client, _, _):
        assert (await client.next_event())["error"]["code"] == "upstream_message_too_big"
        assert (1011, CATALOGUE["upstream_message_too_big"].close_text) == await client.until_close()
        assert (1009, "") == await within(upstream_close, 2)
        await client.close()
        assert await ended(relay) == "upstream_message_too_big"


def _actions(
    client: RawClient, connection: ServerConnection, relay_session: Session
) -> dict[str, Callable[[], object]]:
    """The actions of both sides, by name."""
    return {
        "client sends": lambda: client.writer.write(APPEND),
        "client sends a large frame": lambda: client.writer.write(build_frame(Opcode.TEXT, b"y" * 90_000, b"abcd")),
        "client sends a ping": lambda: client.send_frame(Opcode.PING, b"p"),
        "client sends a close frame": lambda: client.send_frame(Opcode.CLOSE, close_payload(1000)),
        "client disconnects": client.writer.close,
        "upstream sends": lambda: connection.writer.write(AUDIO),
        "upstream sends a large frame": lambda: connection.send(b"z" * 90_000),
        "upstream sends a ping": lambda: connection.send(b"q", Opcode.PING),
        "upstream sends a close frame": lambda: connection.send_close(1000),
        "upstream disconnects": connection.writer.close,
        "relay ends the session": lambda: relay_session.end("relay_draining"),
    }


STEPS: Final = (
    *("client sends", "client sends a large frame", "client sends a ping"),
    *("client sends a close frame", "client disconnects"),
    *("upstream sends", "upstream sends a large frame", "upstream sends a ping"),
    *("upstream sends a close frame", "upstream disconnects"),
    *("relay ends the session", "one iteration"),
)


@dataclass(frozen=True, slots=True)
class SharedRelay:
    """A relay for all examples of a test, and the upstream's side of its sessions, the newest last."""

    relay: Relay
    upstream: RawUpstream
    connections: list[ServerConnection]


@pytest.fixture
async def shared_relay() -> AsyncIterator[SharedRelay]:
    """A new relay for each example would take most of the test's time."""
    connections: list[ServerConnection] = []

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connections.append(connection)
        await connection.until_close()

    async with scripted_upstream.scripted_relay(script) as (relay, upstream):
        yield SharedRelay(relay, upstream, connections)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=12))
async def test_any_order_of_actions_is_one_ending(shared_relay: SharedRelay, steps: list[str]) -> None:
    """And upstream does not outlive the session."""
    relay, upstream = shared_relay.relay, shared_relay.upstream
    tasks, before = len(asyncio.all_tasks()), len(relay.events("session.ended"))
    client = await open_raw(relay.app.public_port, PATH)
    try:
        assert "session.created" == (await client.next_event())["type"]
        [relay_session] = relay.app.sessions
        actions = _actions(client, shared_relay.connections[-1], relay_session)
        assert {*STEPS} == {*actions, "one iteration"}
        for step in steps:
            if step in actions:
                with suppress(RuntimeError):  # uvloop refuses to write to a closed socket
                    actions[step]()
            else:
                await asyncio.sleep(0)
    finally:
        await client.close()
    await eventually(lambda: upstream.open == 0 == len(relay.app.sessions))
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
    assert before + 1 == len(relay.events("session.ended"))
