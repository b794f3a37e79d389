"""Ended sessions leave no reference cycle: no object waits for the garbage collector, which would stop all other sessions."""

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.web_protocol import RequestHandler

from service.access.secrets import PREFIX
from service.realtime.closing import close_payload
from service.realtime.continuity.continuity import Continuity
from service.realtime.continuity.mirror import Mirror
from service.realtime.frames import Opcode, build_frame
from service.relay import kept_bytes
from service.relay.continuity.kept_conversation import KeptConversation
from service.relay.continuity.swapper import Swapper
from service.relay.pipe import Pipe
from service.relay.session import Session
from service.upstream.first_event import FirstEventReader
from service.wire.leg import Leg
from tests.clients_file.relays import connect, table
from tests.support.harness import Relay, eventually, open_raw, running_relay
from tests.support.live_upstream import START, STARTED, LiveUpstream, live_connection
from tests.support.raw_websocket_server import CREATED, RawUpstream, ServerConnection, raw_upstream

RELAY_TYPES = (
    Session,
    Pipe,
    Leg,
    FirstEventReader,
    Continuity,
    Mirror,
    KeptConversation,
    Swapper,
    Connection,
    ResponseHandler,
    RequestHandler,
    web.Request,
    web.StreamResponse,
)
PATH = "/v1/realtime?model=scripted"
SESSIONS = 5


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Disable automatic garbage collection."""
    gc.collect()
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def objects_in_cycles() -> Counter[str]:
    """The relay's objects that a collection finds, by type."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    return Counter(type(found).__name__ for found in gc.garbage if isinstance(found, RELAY_TYPES))


async def serve(connection: ServerConnection) -> None:
    """Serve a session and close it when a message arrives."""
    connection.send(CREATED)
    if await connection.next_message():
        connection.send_close(4000, "a.b")
    await connection.wait_closed()


async def reject_key(connection: ServerConnection) -> None:
    """Refuse as the provider refuses a wrong key."""
    connection.send(b'{"type":"error","error":{"type":"invalid_request_error","code":"invalid_api_key","message":""}}')
    connection.send_close(3000, "invalid_request_error.invalid_api_key")
    await connection.wait_closed()


async def wait_until_idle(relay: Relay, upstream: RawUpstream) -> None:
    """Wait until no session and no upstream connection is open."""
    await eventually(lambda: not relay.app.sessions and not upstream.tasks)


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("end", ["client-close", "client-fin", "client-reset", "upstream-close"])
async def test_ended_session_leaves_no_reference_cycle(end: str) -> None:
    """However it ends."""
    async with raw_upstream(serve) as upstream, running_relay(OPENAI_BASE_URL=upstream.url) as relay:
        for _ in range(SESSIONS):
            client = await open_raw(relay.app.public_port, PATH)
            await client.next_event()
            if end == "client-close":
                client.send_frame(Opcode.CLOSE, close_payload(1000, ""))
                await client.until_close()
            elif end == "client-reset":
                client.reset()
            elif end == "upstream-close":
                client.send_event(type="x")
                await client.until_close()
            await client.close()
        await wait_until_idle(relay, upstream)

        assert {} == objects_in_cycles()
        assert SESSIONS == len(relay.events("session.ended"))


@pytest.mark.usefixtures("no_garbage_collection")
async def test_sessions_that_end_within_a_large_event_leave_no_reference_cycle(monkeypatch: pytest.MonkeyPatch) -> None:
    """One ends for what all keep, the others with their clients: nothing that counts them refers to them any more."""
    monkeypatch.setattr(kept_bytes, "MAX_KEPT_BYTES", 200_000 * SESSIONS)
    half = build_frame(Opcode.TEXT, b'{"type":"conversation.item.create","x":"' + b"x" * 200_000, b"key1")[:-1]
    async with (
        raw_upstream(serve) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_CONTINUITY="renew") as relay,
    ):
        clients = [await open_raw(relay.app.public_port, PATH) for _ in range(SESSIONS)]
        for client in clients:
            await client.next_event()
            client.writer.write(half)
            await client.writer.drain()
        assert "error" == (await clients[0].next_event())["type"]
        for client in clients:
            await client.close()
        await wait_until_idle(relay, upstream)

        assert {} == objects_in_cycles()
        assert {} == kept_bytes.kept_bytes()._sizes
        reasons = [line["reason"] for line in relay.events("session.ended")]
        assert (1, SESSIONS) == (reasons.count("rate_exceeded"), len(reasons))


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("lines", ['policy = "a"', "tokens_per_day = 9999\nmax_sessions = 2"], ids=["policy", "limits"])
async def test_ended_session_of_a_limited_client_leaves_no_reference_cycle(lines: str, tmp_path: Path) -> None:
    """What reviews the client's events, and what counts its use, ends the session or sends errors by it."""
    path = tmp_path / "clients.toml"
    path.write_text(table("kiosk", lines) + '[policies.a]\nvoice = "ash"\nlocked = ["voice"]\n')

    async def update(connection: ServerConnection) -> None:
        connection.send(CREATED)
        if await connection.next_message():
            connection.send(CREATED.replace(b"session.created", b"session.updated"))
        await connection.wait_closed()

    async with (
        raw_upstream(update) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_CLIENTS_FILE=str(path)) as relay,
    ):
        client = await connect(relay, path=PATH)
        client.send_event(type="session.update", session={"voice": "ash"})
        while (await client.next_event())["type"] not in {"error", "session.updated"}:
            pass
        await client.close()
        await wait_until_idle(relay, upstream)

        assert {} == objects_in_cycles()
        assert 1 == len(relay.events("session.ended"))


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("start", ["started", "refused", "invalid", "left"])
async def test_gpt_live_leaves_no_reference_cycle(start: str) -> None:
    """A session that has ended, and one that did not start: refused, without a valid start, or left by its client."""
    error = {"type": "error", "error": {"type": "invalid_request_error", "code": "model_not_found", "message": ""}}
    upstream = LiveUpstream(on_start=error if start == "refused" else None if start == "left" else STARTED)
    async with live_connection(upstream) as live:
        live.client.send_event(**START if start != "invalid" else {"type": "session.update"})
        if start == "left":
            await eventually(lambda: bool(upstream.received))
        else:
            assert ("session.started" if start == "started" else "error") == (await live.client.next_event())["type"]
        await live.client.close()
        await eventually(lambda: upstream.has_ended.is_set() and not live.relay.app.sessions)
        await eventually(lambda: not len(live.relay.app.dials))

        assert {} == objects_in_cycles()


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("headers", [{}, {"Origin": "http://localhost:3000"}], ids=["http", "event"])
async def test_failed_dial_leaves_no_reference_cycle(headers: dict[str, str]) -> None:
    """Whether it is answered with an HTTP status or an error event."""
    async with raw_upstream(reject_key) as upstream, running_relay(OPENAI_BASE_URL=upstream.url) as relay:
        await relay.app.monitor.wait_for_first_refresh(30)
        for _ in range(SESSIONS):
            relay.app.connector.breaker.reset()
            client = await open_raw(relay.app.public_port, PATH, headers)
            if client.answer.status == 101:
                await client.until_close()
            await client.close()
        await wait_until_idle(relay, upstream)

        assert {} == objects_in_cycles()
        assert SESSIONS <= len(relay.events("upstream.connect_failed"))


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("headers", [{}, {"Origin": "http://localhost:3000"}], ids=["http", "event"])
@pytest.mark.parametrize("reason", ["bad_request", "token_invalid", "relay_draining"])
async def test_refused_admission_leaves_no_reference_cycle(reason: str, headers: dict[str, str]) -> None:
    """A failure that is kept, or is a local name where it is raised, refers to itself by its traceback."""
    token = {"Authorization": f"Bearer {PREFIX}{'A' * 43}"} if reason == "token_invalid" else {}
    async with raw_upstream(serve) as upstream, running_relay(OPENAI_BASE_URL=upstream.url) as relay:
        relay.app.drainer.is_draining = reason == "relay_draining"
        for _ in range(SESSIONS):
            query = "&model=b" if reason == "bad_request" else ""
            client = await open_raw(relay.app.public_port, PATH + query, {**headers, **token})
            if client.answer.status == 101:
                await client.until_close()
            await client.close()
        await wait_until_idle(relay, upstream)

        assert {} == objects_in_cycles()
        assert [reason] * SESSIONS == [event["reason"] for event in relay.events("admission.refused")]


async def test_failure_that_the_breaker_remembers_keeps_no_request() -> None:
    """Up to 320 of them are remembered; the traceback of each would hold a request with its handler and sockets."""
    gc.collect()
    earlier = {id(found) for found in gc.get_objects() if isinstance(found, RELAY_TYPES)}
    async with raw_upstream(reject_key) as upstream, running_relay(OPENAI_BASE_URL=upstream.url) as relay:
        client = await open_raw(relay.app.public_port, PATH)
        await client.close()
        await wait_until_idle(relay, upstream)
        assert 424 == client.answer.status
        assert relay.app.connector.breaker.is_open
        await eventually(lambda: not kept_requests(earlier))


def kept_requests(earlier: set[int]) -> list[object]:
    """Requests and connections that are not freed, except for earlier ones."""
    gc.collect()
    return [found for found in gc.get_objects() if isinstance(found, RELAY_TYPES) and id(found) not in earlier]
