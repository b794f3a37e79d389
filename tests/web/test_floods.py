"""Floods of connections and opening handshakes."""

import asyncio
import gc
from collections import Counter

from service.realtime.frames import Opcode
from tests.support.harness import RawClient, Relay, eventually, open_raw
from tests.support.invariants import open_descriptors
from tests.support.raw_websocket_server import CREATED, ServerConnection
from tests.support.request_flood import (
    PATH,
    TOKENS,
    connect_once,
    connect_repeatedly,
    livez_seconds,
    relay_and_upstream,
    send_no_event,
)


async def test_flood_without_token_is_refused_with_401() -> None:
    """300 upgrades, 100 concurrent: no upstream is dialled, and probes are answered meanwhile."""
    async with relay_and_upstream(**TOKENS) as (relay, upstream):
        before = relay.metric("realtime_relay_admissions_total", result="token_missing")
        flood = [asyncio.ensure_future(connect_repeatedly(relay, 3)) for _ in range(100)]
        probes = [await livez_seconds(relay) for _ in range(10)]
        answers = [answer for several in await asyncio.gather(*flood) for answer in several]

        assert {401: 300} == Counter(answer.status for answer in answers)
        assert 300 == relay.metric("realtime_relay_admissions_total", result="token_missing") - before
        assert 0 == upstream.upgrades
        assert max(probes) < 10
        assert {"info"} == {line["log_level"] for line in relay.events("admission.refused")}


async def test_flood_that_disconnects_during_the_dial_leaves_no_dial() -> None:
    """60 clients: each dial ends within a second of its client, is logged at INFO, and does not affect readiness."""
    async with relay_and_upstream(send_no_event, RELAY_MAX_DIALS="200") as (relay, upstream):
        opening = [asyncio.ensure_future(open_raw(relay.app.public_port, PATH)) for _ in range(60)]
        await eventually(lambda: upstream.upgrades == 60)
        for attempt in opening:
            attempt.cancel()
        await asyncio.wait(opening)
        await eventually(lambda: upstream.open == 0, 1)

        assert {"client_left": 60} == Counter(line["reason"] for line in relay.events("upstream.connect_failed"))
        assert {"info"} == {line["log_level"] for line in relay.events("upstream.connect_failed")}
        assert relay.app.monitor.ready


async def test_flood_over_the_session_limit_gets_spread_retry_after() -> None:
    """40 requests above the limit get 503 with different values of Retry-After; the open sessions are not affected."""
    async with relay_and_upstream(RELAY_MAX_SESSIONS="3") as (relay, upstream):
        held = [await open_raw(relay.app.public_port, PATH) for _ in range(3)]
        answers = await asyncio.gather(*(connect_once(relay) for _ in range(40)))

        assert {503: 40} == Counter(answer.status for answer in answers)
        waits = {int(answer.headers["Retry-After"]) for answer in answers}
        assert len(waits) > 1
        assert waits <= set(range(1, 6))
        assert 3 == upstream.open
        for client in held:
            assert "session.created" == (await client.next_event())["type"]
            client.send_frame(Opcode.PING, b"x")
            assert Opcode.PONG == (await client.next_item()).opcode
            await client.close()


async def test_ended_sessions_leave_no_task_descriptor_or_object() -> None:
    """The counts after 900 sessions are those after 600."""
    settings = {"RELAY_MAX_RECONNECTS_PER_MINUTE": "0"}
    async with relay_and_upstream(**settings) as (relay, upstream):
        counts = []
        for _ in range(3):
            for _ in range(30):
                await asyncio.gather(*(run_session(relay, number) for number in range(10)))
            await eventually(lambda: upstream.open == 0 and len(relay.app.sessions) == 0)
            await eventually(lambda: not upstream.tasks)
            relay.logs.clear()  # the harness keeps every line
            gc.collect()
            counts.append((len(asyncio.all_tasks()), open_descriptors(), len(gc.get_objects())))

        # The first round fills caches, and the loop keeps up to a hundred cancelled timers.
        (_, _, _), (tasks, descriptors, objects), after = counts
        assert (tasks, descriptors) == after[:2]
        assert after[2] - objects < 150
        assert 900 == upstream.upgrades


async def run_session(relay: Relay, number: int) -> None:
    """Open a session and end it: by a closing handshake, a reset or a FIN."""
    client = await open_raw(relay.app.public_port, PATH)
    assert 101 == client.answer.status
    if number % 3 == 0:
        client.send_frame(Opcode.CLOSE, b"\x03\xe8")
        await client.until_close()
    elif number % 3 == 1:
        client.reset()
    await client.close()


async def test_clients_reconnect_after_an_upstream_restart() -> None:
    """200 clients reconnect concurrently. Each is admitted, or refused with a reason and Retry-After."""
    restart = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        closed, restarted = asyncio.ensure_future(answer_close(connection)), asyncio.ensure_future(restart.wait())
        await asyncio.wait({closed, restarted}, return_when=asyncio.FIRST_COMPLETED)
        if not closed.done():
            connection.reset()
        for task in (closed, restarted):
            task.cancel()

    async with relay_and_upstream(script, RELAY_MAX_DIALS="200") as (relay, upstream):
        clients = await all_connect(relay, 200)
        assert 200 == upstream.open == len(relay.app.sessions)
        restart.set()
        closes = await asyncio.gather(*(client.until_close() for client in clients))
        assert {1011: 200} == Counter(close[0] for close in closes if close is not None)
        await asyncio.gather(*(client.close() for client in clients))
        restart.clear()
        clients = await all_connect(relay, 200)

        assert 200 == upstream.open == len(relay.app.sessions)
        for client in clients:
            assert "session.created" == (await client.next_event())["type"]
        await asyncio.gather(*(client.close() for client in clients))
        assert {"upstream_lost": 200} == Counter(line["reason"] for line in relay.events("session.ended"))


async def answer_close(connection: ServerConnection) -> None:
    """Wait for CLOSE and answer it."""
    if (close := await connection.until_close()) is not None:
        connection.send_close(close[0])


async def all_connect(relay: Relay, count: int) -> list[RawClient]:
    """Connect `count` clients concurrently and retry those that are refused, up to ten times."""
    admitted: list[RawClient] = []
    for _ in range(10):
        clients = await asyncio.gather(*(open_raw(relay.app.public_port, PATH) for _ in range(count - len(admitted))))
        for client in clients:
            if client.answer.status == 101:
                admitted.append(client)
                continue
            assert (503, "relay_full") == (client.answer.status, client.answer.error["code"])
            assert 1 <= int(client.answer.headers["Retry-After"]) <= 5
            await client.close()
        if len(admitted) == count:
            return admitted
    raise AssertionError(f"only {len(admitted)} of {count} clients were admitted")
