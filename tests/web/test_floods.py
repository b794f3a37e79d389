"""Group G of the fault plan: floods of connections and handshakes, clients that never finish, requests that are none."""

import asyncio
import base64
import gc
import logging
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from service.realtime.framing import Opcode
from tests.harness import Answer, RawClient, Relay, eventually, open_raw
from tests.invariants import open_descriptors
from tests.raw_upstream import CREATED, RawUpstream, Wire
from tests.scripted import relay_before

PATH = "/v1/realtime?model=scripted"
TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": "web:CANARY1token-abcdefghijklmnop"}
PATIENCE_SECONDS = 0.5


async def quiet(wire: Wire) -> None:
    """An upstream that opens sessions and answers CLOSE."""
    wire.send(CREATED)
    if (close := await wire.until_close()) is not None:
        wire.send_close(close[0])


async def mute(wire: Wire) -> None:
    """An upstream that sends no first event."""
    await wire.gone()


@asynccontextmanager
async def scene(script: Any = quiet, **settings: str) -> AsyncIterator[tuple[Relay, RawUpstream]]:
    """A relay before an upstream down to the bytes; in the end neither has anything left."""
    async with relay_before(script, behind_101=b"", **settings) as (relay, upstream):
        yield relay, upstream
        assert not [line for line in relay.logs if "exc_info" in line]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The servers wait half a second instead of their fifteen for a request; tells what they were made with."""
    made: dict[str, object] = {}
    real = web.AppRunner

    def runner(app: web.Application, **kwargs: Any) -> web.AppRunner:
        made.update(kwargs)
        return real(app, **kwargs | {"keepalive_timeout": PATIENCE_SECONDS, "lingering_time": PATIENCE_SECONDS})

    monkeypatch.setattr(web, "AppRunner", runner)
    return made


async def say(relay: Relay, request: bytes) -> bytes:
    """All that is answered to some bytes, up to the end of the stream."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
    writer.write(request)
    try:
        async with asyncio.timeout(5):
            return await reader.read(-1)
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


async def livez_seconds(relay: Relay) -> float:
    """How long a probe takes that connects now."""
    started = time.monotonic()
    answer = await say(relay, b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    return time.monotonic() - started


async def visit(relay: Relay, headers: dict[str, str] | None = None, path: str = PATH) -> Answer:
    """Ask for a session, and drop it if there is one."""
    client = await open_raw(relay.app.public_port, path, headers)
    await client.close()
    return client.answer


async def visits(relay: Relay, count: int) -> list[Answer]:
    """One after another."""
    return [await visit(relay) for _ in range(count)]


# -- floods -----------------------------------------------------------------------------------------------------------


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
            await eventually(lambda: upstream.open == 0 and len(relay.app.registry) == 0)
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
        assert 200 == upstream.open == len(relay.app.registry)
        restart.set()
        told = await asyncio.gather(*(client.until_close() for client in clients))
        assert {1011: 200} == Counter(close[0] for close in told if close is not None)
        await asyncio.gather(*(client.close() for client in clients))
        restart.clear()
        clients = await all_connect(relay, 200)

        assert 200 == upstream.open == len(relay.app.registry)
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


# -- clients that never finish ----------------------------------------------------------------------------------------

HEAD = b"GET /v1/realtime?model=scripted HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 4000
WHOLE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("first", [b"", WHOLE], ids=["first-request", "second-request"])
async def test_g4_headers_byte_by_byte(impatient: dict[str, object], first: bytes) -> None:
    """G4: 50 clients that send a header byte by byte are each cut off in time, and others are served meanwhile."""
    async with scene() as (relay, upstream):
        assert 15 == impatient["keepalive_timeout"]
        drips = [asyncio.ensure_future(drip(relay, first)) for _ in range(50)]
        assert await livez_seconds(relay) < 1
        assert (await visit(relay)).status == 101
        lasted = await asyncio.gather(*drips)

        assert max(lasted) < PATIENCE_SECONDS + 1.5
        assert 1 == upstream.upgrades


async def drip(relay: Relay, first: bytes) -> float:
    """Send a head in bytes until the server has had enough; how long that took."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
    if first:
        writer.write(first)
        await reader.readuntil(b"ok\n")
    started = time.monotonic()
    end = asyncio.ensure_future(reader.read(-1))
    for byte in HEAD:
        writer.write(bytes((byte,)))
        if (await asyncio.wait({end}, timeout=0.02))[0]:
            break
    assert end.done(), "nobody minded"
    end.exception()
    writer.close()
    return time.monotonic() - started


async def test_g5_silent_connections(impatient: dict[str, object]) -> None:
    """G5: 200 connections on which nothing is said are closed in time, and others are served meanwhile."""
    async with scene() as (relay, _):
        silent = [asyncio.ensure_future(say(relay, b"")) for _ in range(200)]
        await asyncio.sleep(0)
        probes = [await livez_seconds(relay) for _ in range(3)]
        started = time.monotonic()
        answers = await asyncio.gather(*silent)

        assert {b""} == set(answers)
        assert max(probes) < 1
        assert time.monotonic() - started < PATIENCE_SECONDS + 1.5


@pytest.mark.parametrize("path", ["/v1/realtime?model=scripted", "/livez", "/nowhere"])
@pytest.mark.parametrize("method", ["POST", "PUT", "GET"])
async def test_g6_bodies_without_end(impatient: dict[str, object], method: str, path: str) -> None:
    """G6: a body that never ends is neither waited for nor kept: the answer comes first, and soon the end of the socket."""
    async with scene() as (relay, upstream):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        end = asyncio.ensure_future(reader.read(-1))
        started = time.monotonic()
        while not end.done() and time.monotonic() - started < 5:
            writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
            await asyncio.wait({end}, timeout=0.01)
        writer.close()

        allowed = {"/nowhere": {404}, "/livez": {200, 405}}.get(path, {405, 426})
        assert int(answer.split()[1]) in allowed
        assert end.done()
        end.exception()
        assert 0 == upstream.upgrades


# -- requests that are none -------------------------------------------------------------------------------------------


def upgrade(*lines: str, target: str = PATH, key: str = "AAAAAAAAAAAAAAAAAAAAAA==", version: str = "13") -> bytes:
    """An upgrade with a socket that ends with its answer if it is refused."""
    fixed = ["Host: x", "Upgrade: websocket", "Connection: Upgrade"]
    fixed += [f"Sec-WebSocket-Version: {version}"] if version else []
    fixed += [f"Sec-WebSocket-Key: {key}"] if key else []
    return "\r\n".join([f"GET {target} HTTP/1.1", *fixed, *lines, "", ""]).encode("latin-1")


LARGE = {
    "url": upgrade(target=PATH + "&x=" + "y" * 9000),
    "header": upgrade("X-Long: " + "y" * 9000),
    "headers": upgrade(*(f"X-{n}: y" for n in range(129))),
    "name": upgrade("X" * 9000 + ": y"),
}


@pytest.mark.parametrize("request_bytes", LARGE.values(), ids=LARGE.keys())
async def test_g7_heads_that_are_too_large(request_bytes: bytes) -> None:
    """G7: a URL or header of 9 kB, or 129 headers, are refused with 400, and nobody is dialled."""
    async with scene() as (relay, upstream):
        answer = await say(relay, request_bytes)

        assert b"400" == answer.split()[1]
        assert len(answer) < 500  # it repeats of the request no more than shows what is meant
        assert b"\r\nContent-Type: text/plain" in answer
        assert 0 == upstream.upgrades


@pytest.mark.parametrize("version", ["", "7", "8", "12", "13, 8", "14", "x"])
async def test_g12_other_versions(version: str) -> None:
    """G12: any version but 13 is refused with 426, which names 13."""
    async with scene() as (relay, upstream):
        answer = await visit(relay, {"Sec-WebSocket-Version": version})

        assert 426 == answer.status
        assert ("13", "websocket") == (answer.headers["Sec-WebSocket-Version"], answer.headers["Upgrade"])
        assert "not_a_websocket" == answer.error["code"]
        assert 0 == upstream.upgrades


@pytest.mark.parametrize(
    "key",
    ["", "short", base64.b64encode(b"x" * 15).decode(), base64.b64encode(b"x" * 17).decode(), "<script>alert(1)</script>",
     "AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAA\xe9==", "AAAAAAAAAAAAAAAAAAAAAA==, AAAAAAAAAAAAAAAAAAAAAA=="],
)  # fmt: skip
async def test_g13_keys_that_are_none(key: str) -> None:
    """G13: a missing or wrong Sec-WebSocket-Key is refused with 400 in JSON, in which nothing of it is repeated."""
    async with scene() as (relay, upstream):
        client = await open_raw(relay.app.public_port, PATH, {"Sec-WebSocket-Key": key})
        await client.close()

        assert (400, "bad_request") == (client.answer.status, client.answer.error["code"])
        assert "application/json" in client.answer.headers["Content-Type"]
        assert b"script" not in client.answer.body
        assert 0 == upstream.upgrades


@pytest.mark.parametrize(
    ("request_bytes", "statuses"),
    [
        pytest.param(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode(), {426}, id="plain-get"),
        pytest.param(upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"), {426}, id="http-1.0"),
        pytest.param(upgrade().replace(b"GET", b"HEAD"), {405}, id="head"),
        pytest.param(upgrade().replace(b"GET", b"OPTIONS"), {405}, id="options"),
        pytest.param(upgrade().replace(b"GET", b"TRACE"), {405}, id="trace"),
        pytest.param(upgrade().replace(b"GET", b"CONNECT"), {400, 404, 405}, id="connect"),
        pytest.param(upgrade().replace(b"GET", b"POST"), {405}, id="post"),
        pytest.param(upgrade().replace(b"HTTP/1.1", b"HTTP/2.0"), {400, 426}, id="http-2.0"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 404, 405}, id="http-2-preface"),
    ],
)
async def test_g14_other_requests(request_bytes: bytes, statuses: set[int]) -> None:
    """G14: what is no upgrade is told so by a status, and nobody is dialled."""
    async with scene() as (relay, upstream):
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(request_bytes)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.close()

        assert int(head.split()[1]) in statuses
        assert 0 == upstream.upgrades


async def test_g15_tls_on_the_plain_port(caplog: pytest.LogCaptureFixture) -> None:
    """G15: a TLS handshake on the plain port is refused or cut off; at most its kind is logged, and nobody is warned."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="relay.example.com")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    hello = outgoing.read()
    with caplog.at_level(logging.DEBUG):
        async with scene() as (relay, upstream):
            lines = len(relay.logs)
            answer = await say(relay, hello)

            assert answer.split()[1:2] in ([], [b"400"])
            assert lines == len(relay.logs)
            assert 0 == upstream.upgrades
    told = {(record.levelno, record.getMessage()) for record in caplog.records if record.levelno > logging.DEBUG}
    assert told <= {(logging.INFO, "bad request: BadHttpMethod")}
