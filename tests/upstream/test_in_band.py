"""Group B of the fault plan: upstream upgrades, and refuses or fails behind its 101, as OpenAI itself does."""

import asyncio
import json

import pytest

from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from tests.support.harness import eventually, open_raw, payload_of, simulated_relay
from tests.support.raw_http_server import PATH, Exchange, Script
from tests.support.raw_websocket_server import CREATED
from tests.upstream.test_http_refusals import attempt, counted, relay_before


def refusal(code: str, message: str = "CANARY words") -> bytes:
    """An `error` event."""
    return json.dumps(
        {"type": "error", "error": {"type": "invalid_request_error", "code": code, "message": message}}
    ).encode()


def behind_101(*frames: bytes, end: str = "wait") -> Script:
    """An upstream that sends these frames behind its 101, and then waits, hangs up (`fin`) or resets (`rst`)."""

    async def script(exchange: Exchange) -> None:
        exchange.upgrade()
        exchange.writer.write(b"".join(frames))
        await exchange.writer.drain()
        if end == "rst":
            exchange.reset()
        elif end == "wait":
            await exchange.gone()

    return script


def text(payload: bytes) -> bytes:
    """A text frame."""
    return build_frame(Opcode.TEXT, payload)


def close(code: int, reason: str = "") -> bytes:
    """A CLOSE frame."""
    return build_frame(Opcode.CLOSE, close_payload(code, reason))


@pytest.mark.parametrize(
    ("frames", "status", "reason", "wire"),
    [
        pytest.param((text(refusal("invalid_api_key")), close(3000)), 424, "key_rejected", "3000", id="B1"),
        pytest.param((text(refusal("invalid_model")), close(4000)), 404, "model_not_found", "4000", id="B2-4000"),
        pytest.param((text(refusal("model_not_found")), close(4004)), 404, "model_not_found", "4004", id="B2-4004"),
        pytest.param((close(1001),), 503, "upstream_overloaded", "1001", id="B9-1001"),
        pytest.param((close(1012),), 503, "upstream_overloaded", "1012", id="B9-1012"),
        pytest.param((close(1013),), 503, "upstream_overloaded", "1013", id="B9-1013"),
        pytest.param((close(1011),), 502, "dropped_early", "1011", id="B9-1011"),
        pytest.param((close(4999),), 502, "dropped_early", "other_close", id="B9-4999"),
        pytest.param((text(refusal("a_new_code")), close(4000)), 400, "bad_request", "4000", id="B1-a-mistake"),
        pytest.param(
            (text(b'{"type":"error","error":{"type":"new"}}'),), 503, "upstream_error", "none", id="B1-no-close"
        ),
        pytest.param((text(refusal("x", "y" * 70_000)), close(3000)), 424, "key_rejected", "3000", id="B1-huge"),
        pytest.param((b"\x81\x85aaaaHello",), 502, "bad_reply", "none", id="B-masked"),
        pytest.param((b"\xc1\x02{}",), 502, "bad_reply", "none", id="B-reserved-bit"),
    ],
)
async def test_a_refusal_behind_the_101(frames: tuple[bytes, ...], status: int, reason: str, wire: str) -> None:
    """The client gets no 101 but the cause, counted with the close code; none of the provider's words pass."""
    async with relay_before(behind_101(*frames)) as (relay, _):
        answer = await attempt(relay)

        assert (status, reason) == (answer.status, answer.error["code"])
        assert ("Retry-After" in answer.headers) is (status == 503)
        assert 1 == counted(relay, reason, wire, "first_event")


async def test_b3_the_beta_header_stays_here() -> None:
    """A client of the retired beta gets through: its header goes nowhere."""
    async with relay_before(behind_101(text(CREATED))) as (relay, upstream):
        answer = await attempt(relay, **{"OpenAI-Beta": "realtime=v1"})

        assert 101 == answer.status
        assert "beta" not in upstream.heads[0].lower()


async def test_b4_a_first_event_of_another_kind() -> None:
    """Whatever comes first and is no error opens the session, and is passed on first, in order."""
    frames = [text(b'{"type":"conversation.created"}'), text(b'{"type":"something.new","x":1}'), text(CREATED)]
    async with relay_before(behind_101(*frames)) as (relay, _):
        client = await open_raw(relay.app.public_port, PATH)

        assert frames == [await client.next_item() for _ in frames]
        await client.close()


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param((), id="B5"),
        pytest.param((text(CREATED)[:20],), id="B6"),
        pytest.param((b"\x89\x00",), id="B5-ping"),
    ],
)
async def test_silence_behind_the_101(frames: tuple[bytes, ...]) -> None:
    """Nothing, half a frame or only pings: 504 at the end of the budget, and the socket is given up."""
    async with relay_before(behind_101(*frames), RELAY_DIAL_TIMEOUT_SECONDS="0.4") as (relay, upstream):
        answer = await attempt(relay)

        assert (504, "first_event_timeout") == (answer.status, answer.error["code"])
        await eventually(lambda: upstream.open == 0, 1)


async def test_b6_a_drip_is_silence() -> None:
    """A byte now and then does not prolong the budget."""

    async def script(exchange: Exchange) -> None:
        exchange.upgrade()
        for byte in text(CREATED):
            exchange.writer.write(bytes([byte]))
            await exchange.writer.drain()
            await asyncio.sleep(0.05)  # the fault itself

    async with relay_before(script, RELAY_DIAL_TIMEOUT_SECONDS="0.5") as (relay, _):
        assert (504, 1) == ((await attempt(relay)).status, counted(relay, "first_event_timeout", "none", "first_event"))


@pytest.mark.parametrize("end", ["fin", "rst"])
async def test_b7_a_hang_up_behind_the_101(end: str) -> None:
    """FIN or RST before the first event: told after one retry."""
    async with relay_before(behind_101(end=end)) as (relay, upstream):
        answer = await attempt(relay)

        assert (502, "dropped_early", 2) == (answer.status, answer.error["code"], upstream.requests)


async def test_b8_a_slow_first_event() -> None:
    """Late but within the budget is a success, and the time stands in the histogram of its phase."""

    async def script(exchange: Exchange) -> None:
        exchange.upgrade()
        await exchange.writer.drain()
        await asyncio.sleep(0.6)  # the fault itself
        exchange.writer.write(text(CREATED))
        await exchange.gone()

    async with relay_before(script, RELAY_DIAL_TIMEOUT_SECONDS="4") as (relay, _):
        assert 101 == (await attempt(relay)).status
        name = "realtime_relay_upstream_connect_duration_seconds"
        assert relay.metric(f"{name}_sum", upstream="compatible", phase="first_event") >= 0.59  # two clocks
        assert 0 == relay.metric(f"{name}_bucket", upstream="compatible", phase="first_event", le="0.5")
        assert 1 == relay.metric(f"{name}_bucket", upstream="compatible", phase="first_event", le="1.0")


@pytest.mark.parametrize("size", [2_000, 1_000_000, 3_000_000])
async def test_b10_a_first_event_in_fifty_fragments(size: int) -> None:
    """Large or cut into pieces, it comes through byte for byte."""
    event = CREATED[:-1] + b',"x":"' + b"y" * size + b'"}'
    step = len(event) // 50 + 1
    pieces = [event[start : start + step] for start in range(0, len(event), step)]
    frames = []
    for number, piece in enumerate(pieces):
        frame = bytearray(build_frame(Opcode.CONTINUATION if number else Opcode.TEXT, piece))
        if number < len(pieces) - 1:
            frame[0] &= 0x7F
        frames.append(bytes(frame))
    async with relay_before(behind_101(*frames)) as (relay, _):
        client = await open_raw(relay.app.public_port, PATH)

        assert b"".join(frames) == await client.next_item()
        await client.close()


async def test_b11_five_hundred_dials_that_stall() -> None:
    """Each is told at its budget, the cap on dials holds, and a session that is open does not notice."""

    async def script(exchange: Exchange) -> None:
        if "keep=1" in exchange.head:
            exchange.upgrade(CREATED)
            head = await exchange.reader.readexactly(2)
            payload = await exchange.reader.readexactly((head[1] & 0x7F) + 4)
            exchange.writer.write(text(b'{"type":"pong"}' if payload else b""))
        else:
            exchange.upgrade()
        await exchange.gone()

    settings = {"RELAY_DIAL_TIMEOUT_SECONDS": "3", "RELAY_MAX_DIALS": "400"}
    async with relay_before(script, **settings) as (relay, upstream):
        healthy = await open_raw(relay.app.public_port, PATH + "&keep=1")
        assert (await healthy.next_event())["type"] == "session.created"
        waiting = [asyncio.ensure_future(attempt(relay)) for _ in range(500)]
        await eventually(lambda: upstream.open == 401, 3)
        healthy.send_event(type="x")
        async with asyncio.timeout(0.5):
            assert b'{"type":"pong"}' == payload_of(await healthy.next_item())
        statuses = [(answer.status, answer.error["code"]) for answer in await asyncio.gather(*waiting)]

        assert (400, 100) == (statuses.count((504, "first_event_timeout")), statuses.count((503, "relay_full")))
        await healthy.close()


async def test_b12_a_client_that_leaves_during_the_wait() -> None:
    """When the client is gone the dial is given up within a second, and counted as that."""
    async with relay_before(behind_101(), RELAY_DIAL_TIMEOUT_SECONDS="30") as (relay, upstream):
        leaving = asyncio.ensure_future(open_raw(relay.app.public_port, PATH))
        await eventually(lambda: upstream.open == 1)
        leaving.cancel()
        await asyncio.wait([leaving])
        await eventually(lambda: upstream.open == 0, 1)

        assert 1 == counted(relay, "client_left", "none", "first_event")


async def test_the_simulator_refuses_in_the_same_words() -> None:
    """What the raw upstream proves holds against the simulator, which is the one that developers see."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected") as relay:
        client = await open_raw(relay.app.public_port)
        await client.close()

        assert (424, "key_rejected") == (client.answer.status, client.answer.error["code"])
