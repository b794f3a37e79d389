"""Upstream accepts the upgrade and refuses or fails after its 101, as OpenAI does."""

import asyncio
import json
import time

import pytest

from service.deadlines import Deadline
from service.failures import Phase
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.upstream.dial import DialProgress
from tests.support.harness import eventually, open_raw, payload_of, simulated_relay, taking_less_than
from tests.support.raw_http_relay import connect_once, failure_count, raw_http_relay
from tests.support.raw_http_server import PATH, Exchange, Script
from tests.support.raw_websocket_server import CREATED


def refusal(code: str, message: str = "CANARY text") -> bytes:
    """An `error` event."""
    return json.dumps(
        {"type": "error", "error": {"type": "invalid_request_error", "code": code, "message": message}}
    ).encode()


def after_101(*frames: bytes, end: str = "wait") -> Script:
    """A script that sends these frames after its 101, and then waits, closes (`fin`) or aborts (`rst`) the connection."""

    async def script(exchange: Exchange) -> None:
        exchange.upgrade()
        exchange.writer.write(b"".join(frames))
        await exchange.writer.drain()
        if end == "rst":
            exchange.reset()
        elif end == "wait":
            await exchange.wait_closed()

    return script


def text(payload: bytes) -> bytes:
    """A text frame."""
    return build_frame(Opcode.TEXT, payload)


def close(code: int, reason: str = "") -> bytes:
    """A close frame."""
    return build_frame(Opcode.CLOSE, close_payload(code, reason))


@pytest.mark.parametrize(
    ("frames", "status", "reason", "wire"),
    [
        pytest.param((text(refusal("invalid_api_key")), close(3000)), 424, "key_rejected", "3000", id="invalid-key"),
        pytest.param((text(refusal("invalid_model")), close(4000)), 404, "model_not_found", "4000", id="model-4000"),
        pytest.param((text(refusal("model_not_found")), close(4004)), 404, "model_not_found", "4004", id="model-4004"),
        pytest.param((close(1001),), 503, "upstream_overloaded", "1001", id="close-1001"),
        pytest.param((close(1012),), 503, "upstream_overloaded", "1012", id="close-1012"),
        pytest.param((close(1013),), 503, "upstream_overloaded", "1013", id="close-1013"),
        pytest.param((close(1011),), 502, "dropped_early", "1011", id="close-1011"),
        pytest.param((close(4999),), 502, "dropped_early", "other_close", id="close-4999"),
        pytest.param((text(refusal("a_new_code")), close(4000)), 424, "request_rejected", "4000", id="unknown-code"),
        pytest.param(
            (text(b'{"type":"error","error":{"type":"new"}}'),), 503, "upstream_error", "none", id="error-without-close"
        ),
        pytest.param(
            (text(refusal("invalid_api_key", "y" * 70_000)), close(3000)),
            424,
            "key_rejected",
            "3000",
            id="error-over-64-kib",
        ),
        pytest.param((b"\x81\x85aaaaHello",), 502, "bad_reply", "none", id="masked"),
        pytest.param((b"\xc1\x02{}",), 502, "bad_reply", "none", id="reserved-bit"),
    ],
)
async def test_refusal_after_101_maps_to_reason(frames: tuple[bytes, ...], status: int, reason: str, wire: str) -> None:
    """The client gets an HTTP status instead of a 101; the count has the close code; no provider text is passed on."""
    async with raw_http_relay(after_101(*frames)) as (relay, _):
        answer = await connect_once(relay)

        assert (status, reason) == (answer.status, answer.error["code"])
        assert ("Retry-After" in answer.headers) is (status == 503)
        assert 1 == failure_count(relay, reason, wire, "first_event")


async def test_beta_header_of_the_client_is_not_sent_upstream() -> None:
    """A client of the retired beta gets its session."""
    async with raw_http_relay(after_101(text(CREATED))) as (relay, upstream):
        answer = await connect_once(relay, **{"OpenAI-Beta": "realtime=v1"})

        assert 101 == answer.status
        assert "beta" not in upstream.heads[0].lower()


async def test_first_event_of_any_type_but_error_opens_the_session() -> None:
    """The client gets it first, then the events that followed it, in order."""
    frames = [text(b'{"type":"conversation.created"}'), text(b'{"type":"something.new","x":1}'), text(CREATED)]
    async with raw_http_relay(after_101(*frames)) as (relay, _):
        client = await open_raw(relay.app.public_port, PATH)

        assert frames == [await client.next_item() for _ in frames]
        await client.close()


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param((), id="nothing"),
        pytest.param((text(CREATED)[:20],), id="part-of-a-frame"),
        pytest.param((b"\x89\x00",), id="ping"),
    ],
)
async def test_missing_first_event_times_out(frames: tuple[bytes, ...]) -> None:
    """The client gets 504, and the upstream connection is closed."""
    async with raw_http_relay(after_101(*frames), RELAY_DIAL_TIMEOUT_SECONDS="0.4") as (relay, upstream):
        answer = await connect_once(relay)

        assert (504, "first_event_timeout") == (answer.status, answer.error["code"])
        await eventually(lambda: upstream.open == 0, 1)


async def test_slow_bytes_do_not_extend_the_timeout() -> None:
    """The first event arrives one byte at a time."""

    async def script(exchange: Exchange) -> None:
        exchange.upgrade()
        for byte in text(CREATED):
            exchange.writer.write(bytes([byte]))
            await exchange.writer.drain()
            await asyncio.sleep(0.05)  # the fault itself

    async with raw_http_relay(script, RELAY_DIAL_TIMEOUT_SECONDS="0.5") as (relay, _):
        assert (504, 1) == (
            (await connect_once(relay)).status,
            failure_count(relay, "first_event_timeout", "none", "first_event"),
        )


@pytest.mark.parametrize("end", ["fin", "rst"])
async def test_disconnect_before_the_first_event_is_retried_once(end: str) -> None:
    """FIN and RST are both dropped_early."""
    async with raw_http_relay(after_101(end=end)) as (relay, upstream):
        answer = await connect_once(relay)

        assert (502, "dropped_early", 2) == (answer.status, answer.error["code"], upstream.requests)


async def test_late_first_event_is_observed_in_the_histogram_of_its_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the timeout it is a success."""
    is_awaited, enter = asyncio.Event(), DialProgress.enter

    def entered(progress: DialProgress, phase: Phase) -> None:
        enter(progress, phase)
        if phase is Phase.FIRST_EVENT:
            is_awaited.set()

    monkeypatch.setattr(DialProgress, "enter", entered)

    async def script(exchange: Exchange) -> None:
        is_awaited.clear()
        exchange.upgrade()
        await is_awaited.wait()
        until = time.perf_counter() + 0.6
        await eventually(lambda: time.perf_counter() >= until)  # a timer of a busy event loop may be early
        exchange.writer.write(text(CREATED))
        await exchange.wait_closed()

    async with raw_http_relay(script, RELAY_DIAL_TIMEOUT_SECONDS="4") as (relay, _):
        assert 101 == (await connect_once(relay)).status
        name = "realtime_relay_upstream_connect_duration_seconds"
        seconds = relay.metric(f"{name}_sum", upstream="compatible", phase="first_event")
        assert seconds >= 0.6
        assert 0 == relay.metric(f"{name}_bucket", upstream="compatible", phase="first_event", le="0.5")
        in_time = relay.metric(f"{name}_bucket", upstream="compatible", phase="first_event", le="1.0")
        assert (seconds <= 1) == in_time  # longer on a busy machine


@pytest.mark.parametrize("size", [2_000, 1_000_000, 3_000_000])
async def test_fragmented_first_event_is_forwarded_unchanged(size: int) -> None:
    """Fifty fragments, of sizes below and above what the relay holds back."""
    event = CREATED[:-1] + b',"x":"' + b"y" * size + b'"}'
    step = len(event) // 50 + 1
    fragments = [event[start : start + step] for start in range(0, len(event), step)]
    frames = []
    for number, fragment in enumerate(fragments):
        frame = bytearray(build_frame(Opcode.CONTINUATION if number else Opcode.TEXT, fragment))
        if number < len(fragments) - 1:
            frame[0] &= 0x7F
        frames.append(bytes(frame))
    async with raw_http_relay(after_101(*frames)) as (relay, _):
        client = await open_raw(relay.app.public_port, PATH)

        assert b"".join(frames) == await client.next_item()
        await client.close()


async def test_five_hundred_stalled_dials_do_not_affect_an_open_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """400, half of the dials, time out, 100 more are refused immediately; an event of the open session is not delayed."""
    dial_seconds = 57.0
    deadlines: list[Deadline] = []

    def recorded_deadline(seconds: float) -> Deadline:
        bound = Deadline(seconds)
        if seconds == dial_seconds:
            deadlines.append(bound)
        return bound

    monkeypatch.setattr("service.upstream.dial.Deadline", recorded_deadline)

    async def script(exchange: Exchange) -> None:
        if "keep=1" in exchange.head:
            exchange.upgrade(CREATED)
            head = await exchange.reader.readexactly(2)
            payload = await exchange.reader.readexactly((head[1] & 0x7F) + 4)
            exchange.writer.write(text(b'{"type":"pong"}' if payload else b""))
        else:
            exchange.upgrade()
        await exchange.wait_closed()

    settings = {"RELAY_DIAL_TIMEOUT_SECONDS": str(dial_seconds), "RELAY_MAX_DIALS": "800"}
    async with raw_http_relay(script, **settings) as (relay, upstream):
        healthy = await open_raw(relay.app.public_port, PATH + "&keep=1")
        assert (await healthy.next_event())["type"] == "session.created"
        deadlines.clear()
        waiting = [asyncio.ensure_future(connect_once(relay)) for _ in range(500)]
        await eventually(lambda: (401, 100) == (upstream.open, sum(task.done() for task in waiting)), 20)
        healthy.send_event(type="x")
        async with taking_less_than(0.5):
            assert b'{"type":"pong"}' == payload_of(await healthy.next_item())
        assert 400 == len(deadlines)
        for bound in deadlines:  # the time has passed
            bound._expire()
        statuses = [(answer.status, answer.error["code"]) for answer in await asyncio.gather(*waiting)]

        assert (400, 100) == (statuses.count((504, "first_event_timeout")), statuses.count((503, "relay_full")))
        await healthy.close()


async def test_client_disconnect_cancels_the_dial() -> None:
    """The upstream connection is closed within a second; the failure is counted as client_left."""
    async with raw_http_relay(after_101(), RELAY_DIAL_TIMEOUT_SECONDS="30") as (relay, upstream):
        leaving = asyncio.ensure_future(open_raw(relay.app.public_port, PATH))
        await eventually(lambda: upstream.open == 1)
        leaving.cancel()
        await asyncio.wait([leaving])
        await eventually(lambda: upstream.open == 0, 1)

        assert 1 == failure_count(relay, "client_left", "none", "first_event")


async def test_simulator_refusal_maps_to_the_same_reason() -> None:
    """The simulator is the upstream that developers see first."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected") as relay:
        client = await open_raw(relay.app.public_port)
        await client.close()

        assert (424, "key_rejected") == (client.answer.status, client.answer.error["code"])
