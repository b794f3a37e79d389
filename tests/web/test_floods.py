"""Group G of the fault plan: floods of connections and handshakes."""

import asyncio
import gc
from collections import Counter

from service.realtime.frames import Opcode
from tests.support.harness import RawClient, Relay, eventually, open_raw
from tests.support.invariants import open_descriptors
from tests.support.raw_websocket_server import CREATED, Wire
from tests.support.request_flood import (
    PATH,
    TOKENS,
    livez_seconds,
    mute,
    scene,
    visit,
    visits,
)


async def test_g1_a_flood_without_a_token() -> None:
    """G1: 300 upgrades without a token, 100 at once: each gets its 401, nobody is dialled, probes are answered meanwhile."""
    async with scene(**TOKENS) as (relay, upstream):
        before = relay.metric("realtime_relay_admissions_total", result="token_missing")
        flood = [asyncio.ensure_future(visits(relay, 3)) for _ in range(100)]
        probes = [await livez_seconds(relay) for _ in range(10)]
        answers = [answer for some in await asyncio.gather(*flood) for answer in some]

        assert {401: 300} == Counter(answer.status for answer in answers)
        assert 300 == relay.metric("realtime_relay_admissions_total", result="token_missing") - before
        assert 0 == upstream.upgrades
        assert max(probes) < 1
        assert {"info"} == {line["log_level"] for line in relay.events("admission.refused")}


async def test_g11_a_flood_that_leaves_while_we_dial() -> None:
    """G11: 60 clients that leave during the dial: each dial ends with its client, within a second, and alerts nobody."""
    async with scene(mute) as (relay, upstream):
        opening = [asyncio.ensure_future(open_raw(relay.app.public_port, PATH)) for _ in range(60)]
        await eventually(lambda: upstream.upgrades == 60)
        for attempt in opening:
            attempt.cancel()
        await asyncio.wait(opening)
        await eventually(lambda: upstream.open == 0, 1)

        assert {"client_left": 60} == Counter(line["reason"] for line in relay.events("upstream.connect_failed"))
        assert {"info"} == {line["log_level"] for line in relay.events("upstream.connect_failed")}
        assert relay.app.monitor.ready


async def test_g3_one_more_than_all() -> None:
    """G3: what is over the cap is refused with 503 and a Retry-After that is not the same for all; open sessions live on."""
    async with scene(RELAY_MAX_SESSIONS="3") as (relay, upstream):
        held = [await open_raw(relay.app.public_port, PATH) for _ in range(3)]
        answers = await asyncio.gather(*(visit(relay) for _ in range(40)))

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


async def test_g10_coming_and_going_leaves_nothing() -> None:
    """G10: after 600 and after 900 sessions there are as many tasks, descriptors and objects: nothing is left of any."""
    settings = {"RELAY_MAX_RECONNECTS_PER_MINUTE": "0"}
    async with scene(**settings) as (relay, upstream):
        counts = []
        for _ in range(3):
            for _ in range(30):
                await asyncio.gather(*(come_and_go(relay, number) for number in range(10)))
            await eventually(lambda: upstream.open == 0 and len(relay.app.sessions) == 0)
            await eventually(lambda: not upstream.tasks)
            relay.logs.clear()  # the harness keeps them all
            gc.collect()
            counts.append((len(asyncio.all_tasks()), open_descriptors(), len(gc.get_objects())))

        # The first rounds fill caches, and the loop keeps up to a hundred timers that were called off.
        (_, _, _), (tasks, descriptors, objects), after = counts
        assert (tasks, descriptors) == after[:2]
        assert after[2] - objects < 150
        assert 900 == upstream.upgrades


async def come_and_go(relay: Relay, number: int) -> None:
    """A session that ends in one of the ways in which sessions end."""
    client = await open_raw(relay.app.public_port, PATH)
    assert 101 == client.answer.status
    if number % 3 == 0:
        client.send_frame(Opcode.CLOSE, b"\x03\xe8")
        await client.until_close()
    elif number % 3 == 1:
        client.reset()
    await client.close()


async def test_g16_all_come_back_at_once() -> None:
    """G16: 200 clients whose upstream restarts come back at once: each gets in, or is told why not and when to come again."""
    restart = asyncio.Event()

    async def script(wire: Wire) -> None:
        wire.send(CREATED)
        gone, restarted = asyncio.ensure_future(quiet_end(wire)), asyncio.ensure_future(restart.wait())
        await asyncio.wait({gone, restarted}, return_when=asyncio.FIRST_COMPLETED)
        if not gone.done():
            wire.reset()
        for task in (gone, restarted):
            task.cancel()

    async with scene(script) as (relay, upstream):
        clients = await all_connect(relay, 200)
        assert 200 == upstream.open == len(relay.app.sessions)
        restart.set()
        told = await asyncio.gather(*(client.until_close() for client in clients))
        assert {1011: 200} == Counter(close[0] for close in told if close is not None)
        await asyncio.gather(*(client.close() for client in clients))
        restart.clear()
        clients = await all_connect(relay, 200)

        assert 200 == upstream.open == len(relay.app.sessions)
        for client in clients:
            assert "session.created" == (await client.next_event())["type"]
        await asyncio.gather(*(client.close() for client in clients))
        assert {"upstream_lost": 200} == Counter(line["reason"] for line in relay.events("session.ended"))


async def quiet_end(wire: Wire) -> None:
    """Answer the CLOSE."""
    if (close := await wire.until_close()) is not None:
        wire.send_close(close[0])


async def all_connect(relay: Relay, count: int) -> list[RawClient]:
    """All at once, and who is refused comes again; nobody is refused without a reason and a time."""
    inside: list[RawClient] = []
    for _ in range(10):
        arrived = await asyncio.gather(*(open_raw(relay.app.public_port, PATH) for _ in range(count - len(inside))))
        for client in arrived:
            if client.answer.status == 101:
                inside.append(client)
                continue
            assert (503, "relay_full") == (client.answer.status, client.answer.error["code"])
            assert 1 <= int(client.answer.headers["Retry-After"]) <= 5
            await client.close()
        if len(inside) == count:
            return inside
    raise AssertionError(f"only {len(inside)} of {count} got in")
