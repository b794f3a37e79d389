"""service/deadlines.py: what waits in the sockets after a stall of the process counts before a deadline does."""

import asyncio
import socket
import time

import pytest

from service.deadlines import Deadline, DeadlineTimer
from service.relay import live_start
from tests.support.live_upstream import START, STARTED, LiveUpstream, live_connection
from tests.support.raw_http_relay import connect_once, raw_http_relay
from tests.support.raw_http_server import Exchange
from tests.support.raw_websocket_server import CREATED

SECONDS = 0.2


def stall() -> None:
    """The process does not run for longer than SECONDS."""
    time.sleep(1.5 * SECONDS)


async def test_data_that_arrives_during_a_stall_is_read_after_its_deadline() -> None:
    """In several reads, for each of which the waiting task runs once."""
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)

    def answer_late() -> None:
        theirs.sendall(b"a" * 50)
        stall()

    async with Deadline(SECONDS):
        asyncio.get_running_loop().call_soon(answer_late)
        for _ in range(50):
            assert b"a" == await reader.readexactly(1)
            await asyncio.sleep(0)
    writer.close()
    theirs.close()


@pytest.mark.parametrize("stalls", [0, 1, 2])
async def test_deadline_expires_where_nothing_arrives(stalls: int) -> None:
    """Also if the process stalls again."""

    async def wait() -> None:
        async with Deadline(SECONDS):
            for _ in range(stalls):
                asyncio.get_running_loop().call_soon(stall)
                await asyncio.sleep(0)
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await wait()


async def test_cancellation_is_not_a_timeout() -> None:
    """The waiter that is cancelled raises CancelledError, and the timer is removed."""

    async def wait() -> None:
        async with Deadline(60):
            await asyncio.Event().wait()

    waiting = asyncio.ensure_future(wait())
    await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_credit_is_at_most_the_time_of_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a night in suspension a deadline of a second does not last a night more."""
    loop, fired = asyncio.get_running_loop(), asyncio.Event()
    timer = DeadlineTimer(60.0, fired.set)
    delays: list[float] = []
    monkeypatch.setattr(timer, "_due", loop.time() - 30_000)
    timer.cancel()

    class Recording:
        """The part of an event loop that the timer uses."""

        time = staticmethod(loop.time)

        @staticmethod
        def call_later(seconds: float, callback: object) -> None:
            delays.append(seconds)

    monkeypatch.setattr(timer, "_loop", Recording)
    timer._give_credit()

    assert [60.0] == delays


async def test_first_event_that_arrives_during_a_stall_opens_the_session() -> None:
    """The provider has answered in time; the relay did not run."""

    async def script(exchange: Exchange) -> None:
        exchange.upgrade(CREATED)
        if "probe" not in exchange.head:
            stall()
        await exchange.wait_closed()

    async with raw_http_relay(script) as (relay, _):
        relay.app.connector.dialler.timeout_seconds = SECONDS

        assert 101 == (await connect_once(relay)).status


async def test_reply_to_a_start_that_arrives_during_a_stall_starts_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """`session.started` was sent in time; the relay did not run."""
    monkeypatch.setattr(live_start, "REPLY_SECONDS", SECONDS)

    class Late(LiveUpstream):
        """Stops the process once it has answered."""

        def send(self, event: dict[str, object]) -> None:
            """Send, and stall."""
            super().send(event)
            stall()

    async with live_connection(Late()) as live:
        live.client.send_event(**START)

        assert STARTED == await live.client.next_event()
