"""What unfinished large messages keep in all sessions together: those that have been unfinished for the longest give up."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakKeyDictionary

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner_types import UNFINISHED_EVENT
from service.relay import kept_bytes
from service.relay.kept_bytes import UNCOUNTED_BYTES, KeptBytes
from service.wire.leg import WRITE_HIGH_BYTES
from tests.support.harness import RawClient, Relay, eventually, open_raw
from tests.support.raw_websocket_server import CREATED, ServerConnection, echo
from tests.support.scripted_upstream import PATH, scripted_relay

KEY: Final = b"key1"
SIZE: Final = 200_000
LIMIT: Final = 700_000
"""Three of the size, and not four."""
EVENT: Final = b'{"type":"conversation.item.create","item":{"text":"' + b"x" * (SIZE - 54) + b'"}}'
"""The sessions of its clients have continuity, so that it is read whole."""


@pytest.fixture(autouse=True)
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three events are enough."""
    monkeypatch.setattr(kept_bytes, "MAX_KEPT_BYTES", LIMIT)
    monkeypatch.setattr(kept_bytes, "_kept", WeakKeyDictionary())


class FakeKeeper:
    """Gives up by keeping nothing more."""

    def __init__(self, kept: KeptBytes) -> None:
        self._kept = kept
        self.has_given_up = False

    def give_up(self) -> None:
        """Called by `KeptBytes`."""
        self.has_given_up = True
        self._kept.change("a", self, 0)  # as the end of a session does


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 30, 60, 99]))))
def test_total_is_what_is_kept_and_never_above_the_limit(changes: list[tuple[int, int]]) -> None:
    """After any changes. Of one client those give up first that have kept for the longest."""
    kept = KeptBytes(100)
    keepers, sizes = [FakeKeeper(kept) for _ in range(10)], dict[int, int]()
    for number, size in changes:
        keepers[number].has_given_up = False
        if size:
            sizes[number] = size
        else:
            sizes.pop(number, None)
        kept.change("a", keepers[number], size)
        while sum(sizes.values()) > 100:
            oldest = next(iter(sizes))
            assert keepers[oldest].has_given_up
            del sizes[oldest]
        assert not any(keepers[number].has_given_up for number in sizes)
        assert kept.total == sum(sizes.values())


@given(st.integers(0, 4), st.lists(st.integers(1, 40), max_size=40))
def test_sessions_of_a_client_that_keeps_less_do_not_give_up(before: int, sizes: list[int]) -> None:
    """Although they have kept for longer, and others keep one after the other. Nothing of a client that has ended remains."""
    kept = KeptBytes(100)
    honest, others = FakeKeeper(kept), [FakeKeeper(kept) for _ in sizes]
    first, rest = others[:before], others[before:]
    for keeper, size in zip(first, sizes, strict=False):
        kept.change("b", keeper, size)
    kept.change("a", honest, 40)
    for number, (keeper, size) in enumerate(zip(rest, sizes[before:], strict=False)):
        kept.change("b", keeper, size)
        kept.change(f"c{number}", last := FakeKeeper(kept), 101)  # more than all may keep
        assert last.has_given_up
        assert kept.total <= 100
        assert all(kept._sizes.values())
    assert not honest.has_given_up
    gave_up = [keeper.has_given_up for keeper in others]
    assert gave_up == sorted(gave_up, reverse=True)
    kept.change("a", honest, 0)
    for keeper in others:
        kept.change("b", keeper, 0)
    assert (0, {}, {}) == (kept.total, kept._sizes, kept._totals)


@asynccontextmanager
async def clients_of(relay: Relay, number: int) -> AsyncIterator[list[RawClient]]:
    """Open sessions one after another."""
    clients = [await open_raw(relay.app.public_port, PATH) for _ in range(number)]
    try:
        for client in clients:
            assert (await client.next_event())["type"] == "session.created"
        yield clients
    finally:
        for client in clients:
            await client.close()


async def counts_more_than(size: float) -> None:
    """Wait until more than `size` bytes are counted."""
    await eventually(lambda: kept_bytes.kept_bytes().total > size)


async def send_half(client: RawClient, *, in_fragments: bool) -> None:
    """Send an event but for its last frame, or byte."""
    if in_fragments:
        pieces = [EVENT[at : at + 20_000] for at in range(0, SIZE, 20_000)]
        for number, piece in enumerate(pieces[:-1]):
            frame = bytearray(build_frame(Opcode.TEXT if not number else Opcode.CONTINUATION, piece, KEY))
            frame[0] &= 0x7F  # not the last one
            client.writer.write(frame)
    else:
        client.writer.write(build_frame(Opcode.TEXT, EVENT, KEY)[:-1])
    await client.writer.drain()


@pytest.mark.parametrize("in_fragments", [False, True])
async def test_half_events_of_many_sessions_keep_no_more_than_the_limit(in_fragments: bool) -> None:
    """The first one ends and learns why; the others complete theirs, and nothing remains counted."""
    async with scripted_relay(echo, RELAY_CONTINUITY="renew") as (relay, _), clients_of(relay, 5) as clients:
        for client in clients[:4]:
            counted = kept_bytes.kept_bytes().total
            await send_half(client, in_fragments=in_fragments)
            await counts_more_than(min(counted + SIZE / 2, 2 * SIZE))
        event = await clients[0].next_event()
        assert ("rate_exceeded", True) == (event["error"]["code"], "unfinished" in event["error"]["remedy"])
        assert 1008 == (await clients[0].until_close() or (0, ""))[0]
        await clients[0].close()
        await eventually(lambda: bool(relay.events("session.ended")))
        assert 2 * SIZE < kept_bytes.kept_bytes().total <= LIMIT
        last = build_frame(Opcode.CONTINUATION, EVENT[-20_000:], KEY)
        for client in clients[1:4]:
            client.writer.write(last if in_fragments else build_frame(Opcode.TEXT, EVENT, KEY)[-1:])
            assert await client.next_event() == json.loads(EVENT)
        assert 0 == kept_bytes.kept_bytes().total
        clients[4].send_frame(Opcode.TEXT, b'{"type":"response.create"}')
        assert (await clients[4].next_event())["type"] == "response.create"
        assert ["rate_exceeded"] == [line["reason"] for line in relay.events("session.ended")]


async def test_end_of_a_session_gives_back_what_it_kept() -> None:
    """However it ends: of the client's half event nothing remains counted, nor in memory."""
    async with scripted_relay(echo, RELAY_CONTINUITY="renew") as (relay, _):
        async with clients_of(relay, 2) as clients:
            for client in clients:
                await send_half(client, in_fragments=False)
            await eventually(lambda: kept_bytes.kept_bytes().total > SIZE)
            clients[0].writer.transport.abort()
            await eventually(lambda: kept_bytes.kept_bytes().total < SIZE + 100)
        await eventually(lambda: kept_bytes.kept_bytes().total == 0)
        await eventually(lambda: len(relay.events("session.ended")) == 2)


async def test_half_events_of_upstream_end_the_oldest_session() -> None:
    """An error is read whole, since it may hold the key."""
    event = b'{"type":"error","error":{"message":"' + b"x" * SIZE + b'"}}'

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        async for _ in connection.messages():
            connection.writer.write(build_frame(Opcode.TEXT, event)[:-1])

    async with scripted_relay(script) as (relay, _), clients_of(relay, 4) as clients:
        for number, client in enumerate(clients):
            client.send_frame(Opcode.TEXT, b'{"type":"response.create"}')
            await counts_more_than(min(number, 2) * SIZE)
        event = await clients[0].next_event()
        assert ("upstream_protocol_error", "relay_error") == (event["error"]["code"], event["error"]["type"])
        await clients[0].close()
        await eventually(lambda: bool(relay.events("session.ended")))
        assert UNFINISHED_EVENT == relay.events("session.ended")[0]["detail"]
        assert 3 * SIZE < kept_bytes.kept_bytes().total <= LIMIT


async def test_large_events_for_clients_that_read_nothing_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written whole, whatever waits before them. The client that has not read for the longest is too slow."""
    monkeypatch.setattr("service.relay.held_source.UNCOUNTED_UNSENT_BYTES", 0)
    monkeypatch.setattr(kept_bytes, "MAX_KEPT_BYTES", limit := 2 * WRITE_HIGH_BYTES)
    event = json.dumps({"type": "response.done", "response": {"x": "x" * (SIZE // 2)}}).encode()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        async for _ in connection.messages():
            for _ in range(200):
                connection.send(event)
                await connection.writer.drain()

    async with scripted_relay(script) as (relay, _), clients_of(relay, 4) as clients:
        for client in clients:
            sock = client.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a reading transport
            client.send_frame(Opcode.TEXT, b'{"type":"response.create"}')
        await eventually(lambda: bool(relay.events("session.ended")))
        assert "client_too_slow" == relay.events("session.ended")[0]["reason"]
        assert kept_bytes.kept_bytes().total <= limit


def test_what_every_session_may_keep_is_not_counted() -> None:
    """One frame and fragments of 64 KiB each: a thousand calls on a slow network are within the memory for each call."""
    assert UNCOUNTED_BYTES == 2 * 65_536
