"""service/wire/losses.py: connections that end together are reported in several turns of the event loop."""

import asyncio
import socket
import struct
from collections import Counter
from collections.abc import Callable

import pytest
from aiohttp import web

from service.web.protocol import PublicProtocol
from service.wire.losses import LOSSES_PER_TURN, LossQueue, losses_of
from tests.support.harness import eventually, open_raw, simulated_relay

MANY = 10 * LOSSES_PER_TURN


class Turns:
    """Counts turns of the event loop, and what happens in each."""

    def __init__(self) -> None:
        self.current = 0
        self.events: Counter[int] = Counter()
        self._loop = asyncio.get_running_loop()
        self._count()

    def _count(self) -> None:
        self.current += 1
        self._loop.call_soon(self._count)

    def record(self) -> None:
        """Count an event in this turn."""
        self.events[self.current] += 1


async def test_first_losses_of_a_turn_are_reported_immediately() -> None:
    """A connection that ends alone ends without a delay."""
    queue = LossQueue(asyncio.get_running_loop())
    reported: list[int] = []
    for number in range(LOSSES_PER_TURN):
        queue.report(lambda number=number: reported.append(number))  # type: ignore[misc]  # no type for a default

    assert list(range(LOSSES_PER_TURN)) == reported


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything takes no time."""
    monkeypatch.setattr("service.wire.losses.perf_counter", lambda: 1.0)


@pytest.mark.usefixtures("stopped_clock")
async def test_many_losses_are_reported_in_order_over_several_turns() -> None:
    """Also those that are added meanwhile; what a report reports is a part of it, and one that fails stops no other."""
    loop = asyncio.get_running_loop()
    failed: list[object] = []
    loop.set_exception_handler(lambda _loop, context: failed.append(context["exception"]))
    turns, queue, reported = Turns(), LossQueue(loop), []

    def loss(number: int) -> Callable[[], None]:
        def report() -> None:
            turns.record()
            queue.report(lambda: reported.append(number))
            if number == LOSSES_PER_TURN + 1:
                raise ValueError("a bug")

        return report

    for number in range(MANY):
        queue.report(loss(number))
    await eventually(lambda: len(reported) > MANY // 2)
    queue.report(loss(MANY))
    await eventually(lambda: len(reported) == MANY + 1)

    assert list(range(MANY + 1)) == reported
    assert max(turns.events.values()) <= LOSSES_PER_TURN
    assert ["a bug"] == [str(exc) for exc in failed]


async def test_long_turn_reports_losses_for_as_long_as_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a bound: then the next turn goes on."""
    now = [1000.0]
    monkeypatch.setattr("service.wire.losses.perf_counter", lambda: now[0])
    turns, queue, reported = Turns(), LossQueue(asyncio.get_running_loop()), list[int]()

    def loss() -> None:
        now[0] += 0.001
        turns.record()
        reported.append(turns.current)

    for _ in range(300):
        queue.report(loss)
    now[0] += 0.0305  # what the loop does meanwhile
    await asyncio.sleep(0)
    assert [LOSSES_PER_TURN, 31] == list(turns.events.values())
    now[0] += 50
    await eventually(lambda: len(reported) == 300)

    third, *others = list(turns.events.values())[2:]
    assert 99 <= third <= 101
    assert max(others) <= LOSSES_PER_TURN


async def test_loops_have_queues_of_their_own() -> None:
    """One for all connections of a loop."""
    loop = asyncio.get_running_loop()

    assert losses_of(loop) is losses_of(loop)


def reset(sock: socket.socket) -> None:
    """Close a socket with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.usefixtures("stopped_clock")
async def test_connections_that_are_reset_together_share_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What each of them costs is done for a few in a turn; none is forgotten, and the relay serves meanwhile."""
    async with simulated_relay() as relay:
        loop, turns = asyncio.get_running_loop(), Turns()
        original = web.RequestHandler.connection_lost

        def connection_lost(self: web.RequestHandler, exc: BaseException | None) -> None:
            if isinstance(self, PublicProtocol):
                turns.record()
            original(self, exc)

        monkeypatch.setattr(web.RequestHandler, "connection_lost", connection_lost)
        sockets = []
        for _ in range(MANY):
            sock = socket.socket()
            sock.setblocking(False)
            await loop.sock_connect(sock, ("127.0.0.1", relay.app.public_port))
            await loop.sock_sendall(sock, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in await loop.sock_recv(sock, 4096)
            sockets.append(sock)
        for sock in sockets:
            reset(sock)
        await eventually(lambda: turns.events.total() >= MANY)

        assert MANY == turns.events.total()
        assert max(turns.events.values()) <= LOSSES_PER_TURN
        client = await open_raw(relay.app.public_port)
        assert 101 == client.answer.status
        await client.close()


async def test_sessions_that_are_reset_together_end() -> None:
    """Each with its reason, and upstream with it."""
    async with simulated_relay() as relay:
        clients = [await open_raw(relay.app.public_port) for _ in range(3 * LOSSES_PER_TURN)]
        assert {101} == {client.answer.status for client in clients}
        for client in clients:
            client.reset()
        await eventually(lambda: not relay.app.sessions)

        ended = relay.events("session.ended")
        assert ["client_lost"] * len(clients) == [line["reason"] for line in ended]
        assert relay.simulator is not None
