"""From the upgrade of a GPT-Live client to `session.started`: what is sent upstream, and how each failure is reported."""

import asyncio
import json
from typing import Any

import pytest

from service.failures import CATALOGUE
from service.realtime.frames import Opcode
from service.relay import live_start, start_reader
from service.web.live import ATTACH_PATHS, PATHS
from tests.support.harness import TOKEN_CANARY, eventually, open_raw, running_relay
from tests.support.live_upstream import MODEL, START, STARTED, LiveUpstream, live_connection, live_session

AUDIO = {"type": "session.input_audio.append", "audio": "A" * 640}


def start_with(**session: Any) -> bytes:
    """A `session.start` with this session."""
    return json.dumps({"type": "session.start", "session": session}).encode()


def refusal(code: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    """The provider's error before `session.started`."""
    return {
        "type": "error",
        "event_id": "event_u",
        "error": {"type": kind, "code": code, "message": "m", "param": None},
    }


@pytest.mark.parametrize("path", PATHS)
async def test_start_passes_unchanged_and_early_events_follow(path: str) -> None:
    """At each alias; what the client sends before `session.started` reaches upstream behind the start, in order."""
    payload = b'{ "event_id":"s1", "type" : "session.start","session":{"model":"gpt-live-1","instructions":"\xc3\xa9"}}'
    upstream = LiveUpstream(on_start=None)
    async with live_connection(upstream, path=path) as live:
        live.client.send_frame(Opcode.TEXT, payload)
        for number in range(20):
            live.client.send_event(**AUDIO, event_id=str(number))
        await eventually(lambda: len(upstream.received) == 1)
        upstream.send(STARTED)
        assert STARTED == await live.client.next_event()
        await eventually(lambda: len(upstream.received) == 21)

        assert json.loads(payload) == upstream.received[0]
        assert [str(number) for number in range(20)] == [event["event_id"] for event in upstream.received[1:]]
        assert "GET /v1/live/sessions HTTP/1.1" == upstream.head.split("\r\n")[0]
        (line,) = live.relay.events("session.started")
        assert (MODEL, 1.0) == (line["model"], live.relay.metric("realtime_relay_live_start_seconds_count"))


@pytest.mark.parametrize(
    ("payload", "opcode", "problem"),
    [
        (start_with(model=MODEL), Opcode.BINARY, "The first message is binary"),
        (b'{"type":"session.start"', Opcode.TEXT, "The message is not valid JSON"),
        (b"\xef\xbb\xbf" + start_with(model=MODEL), Opcode.TEXT, "The message is not valid JSON"),
        (start_with(model=MODEL).decode().encode("utf-16"), Opcode.TEXT, "The message is not valid JSON"),
        (b"hello", Opcode.TEXT, "The message is not valid JSON"),
        (b"[1]", Opcode.TEXT, "The message is not a JSON object"),
        (b'{"type":"session.update"}', Opcode.TEXT, "The first message is not session.start"),
        (json.dumps(AUDIO).encode(), Opcode.TEXT, "The first message is not session.start"),
        (
            b'{"type":"session.input_audio.append","audio":"' + b"A" * 70_000,
            Opcode.TEXT,
            "The first message is not session.start",
        ),
        (b'{"type":"session.start"}', Opcode.TEXT, "session.start has no object 'session'"),
        (
            b'{"type":"session.start","session":{"model":"a","model":"b"}}',
            Opcode.TEXT,
            "A key of the message is repeated",
        ),
        (
            b'{"type":"session.start","type":"x","session":{"model":"a"}}',
            Opcode.TEXT,
            "A key of the message is repeated",
        ),
        (
            b'{"type":"session.start","session":{"mod\\u0065l":"a"}}',
            Opcode.TEXT,
            "A key of the message is written with escapes",
        ),
        (
            b'{"ty\\u0070e":"session.start","session":{"model":"a"}}',
            Opcode.TEXT,
            "A key of the message is written with escapes",
        ),
        (start_with(model="a b"), Opcode.TEXT, "session.model is not a model name"),
        (b'{"type":"session.start","session":{"model":NaN}}', Opcode.TEXT, "The message is not valid JSON"),
    ],
)
async def test_invalid_start_is_refused_and_nothing_is_sent(payload: bytes, opcode: Opcode, problem: str) -> None:
    """The client gets an event that names the mistake, and 4000; log and metric have the reason."""
    async with live_connection() as live:
        live.client.send_frame(opcode, payload)
        event = await live.client.next_event()
        close = await live.client.until_close()
        line = await live.failed()

        assert ("start_invalid", "relay_error") == (event["error"]["code"], event["error"]["type"])
        assert event["error"]["remedy"].startswith(f"{problem}. ")
        assert (4000, CATALOGUE["start_invalid"].close_text) == close
        assert ("start_invalid", problem, "session_start") == (line["reason"], line["detail"], line["phase"])
        assert {("session_start", "start_invalid", "4000"): 1} == live.failures()
        assert [] == live.upstream.received


@pytest.mark.parametrize(
    ("code", "reason", "close"),
    [
        ("credit_balance_exhausted", "quota_exhausted", 1008),
        ("invalid_model", "model_not_found", 4004),
        ("forbidden", "key_forbidden", 3000),
        ("unknown_parameter", "request_rejected", 4000),
    ],
)
async def test_refusal_of_the_provider_is_passed_on_and_explained(code: str, reason: str, close: int) -> None:
    """The provider's event first, unchanged; then the relay's with the remedy, and a close code."""
    async with live_connection(LiveUpstream(on_start=refusal(code))) as live:
        live.client.send_event(**START)
        assert refusal(code) == await live.client.next_event()
        explanation = (await live.client.next_event())["error"]
        assert close == (await live.client.until_close() or (0,))[0]
        line = await live.failed()

        assert (reason, code) == (explanation["code"], explanation["upstream_code"])
        assert (reason, code, "session_start", MODEL) == (
            line["reason"], line["upstream_code"], line["phase"], line["model"],
        )  # fmt: skip
        assert {("session_start", reason, "none"): 1} == live.failures()
        assert 0 == live.relay.metric("realtime_relay_upstream_connects_total", upstream="compatible", result="ok")
        assert ["session.start"] == live.upstream.types


async def test_private_close_code_of_the_provider_is_kept() -> None:
    """If it arrives behind the error within 250 ms."""
    upstream = LiveUpstream(on_start=refusal("invalid_model"), close_code=4000)
    async with live_connection(upstream) as live:
        live.client.send_event(**START)
        assert 4000 == (await live.client.until_close() or (0,))[0]
        assert {("session_start", "model_not_found", "4000"): 1} == live.failures()


async def test_key_in_a_refusal_is_redacted() -> None:
    """The provider repeats the start of a key."""
    event = refusal("forbidden")
    event["error"]["message"] = "Incorrect key sk-proj-abcdef1234567890abcdef"
    async with live_connection(LiveUpstream(on_start=event)) as live:
        live.client.send_event(**START)
        shown = await live.client.next_event()

        assert "sk-proj-abcdef" not in json.dumps(shown)
        assert "forbidden" == shown["error"]["code"]


async def test_silent_client_is_closed() -> None:
    """After RELAY_LIVE_START_SECONDS; nothing was sent upstream."""
    async with live_connection(RELAY_LIVE_START_SECONDS="1") as live:
        event = await live.client.next_event()
        assert ("start_timeout", 1008) == (event["error"]["code"], (await live.client.until_close() or (0,))[0])
        assert "start_timeout" == (await live.failed())["reason"]
        assert [] == live.upstream.received


async def test_silent_provider_is_a_timeout_and_the_session_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have started and bill."""
    monkeypatch.setattr(live_start, "REPLY_SECONDS", 0.1)
    monkeypatch.setattr("service.web.live.SETTLE_SECONDS", 0.1)
    async with live_connection(LiveUpstream(on_start=None, on_close=None)) as live:
        live.client.send_event(**START)
        assert "first_event_timeout" == (await live.client.next_event())["error"]["code"]
        await live.failed()
        await eventually(lambda: live.upstream.types == ["session.start", "session.close"])
        unconfirmed = "realtime_relay_live_final_usage_total"
        await eventually(lambda: live.relay.metric(unconfirmed, result="unconfirmed") == 1)


@pytest.mark.parametrize("is_started", [False, True])
async def test_client_that_leaves_before_the_session(is_started: bool) -> None:
    """One failure, `client_left`; a session that may exist upstream is closed."""
    async with live_connection(LiveUpstream(on_start=None)) as live:
        if is_started:
            live.client.send_event(**START)
            await eventually(lambda: bool(live.upstream.received))
        live.client.reset()
        line = await live.failed()
        await eventually(live.upstream.has_ended.is_set)

        assert ("client_left", "info") == (line["reason"], line["log_level"])
        assert {("session_start", "client_left", "none"): 1} == live.failures()
        assert (["session.start", "session.close"] if is_started else []) == live.upstream.types
        await eventually(lambda: not len(live.relay.app.dials))
        assert is_started == live.relay.metric("realtime_relay_live_final_usage_total", result="confirmed")
        assert 0 == live.relay.metric("realtime_relay_live_final_usage_total", result="unconfirmed")


async def test_upstream_that_closes_before_the_start_is_reported_at_once() -> None:
    """The client need not speak first to learn it."""
    async with live_connection() as live:
        await eventually(lambda: live.upstream.connection is not None)
        assert live.upstream.connection is not None
        live.upstream.connection.reset()
        event = await live.client.next_event()

        assert ("dropped_early", 1013) == (event["error"]["code"], (await live.client.until_close() or (0,))[0])
        assert {("session_start", "dropped_early", "none"): 1} == live.failures()


async def test_drain_ends_a_start_that_waits() -> None:
    """With the reason of the drain."""
    async with live_connection() as live:
        await eventually(lambda: live.upstream.connection is not None)
        await live.relay.app.drain()
        event = await live.client.next_event()
        assert ("relay_draining", 1001) == (event["error"]["code"], (await live.client.until_close() or (0,))[0])


async def test_second_start_is_refused_within_the_session() -> None:
    """Nothing is sent upstream, and the session goes on."""
    async with live_session() as live:
        live.client.send_event(**START)
        assert "start_repeated" == (await live.client.next_event())["error"]["code"]
        live.client.send_event(**AUDIO)
        await eventually(lambda: live.upstream.types == ["session.start", "session.input_audio.append"])
        assert 1 == live.relay.metric("realtime_relay_live_events_refused_total", reason="start_repeated")


async def test_waiting_starts_share_a_bound_on_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it a start is refused as by a full relay; what was taken is given back."""
    monkeypatch.setattr(start_reader.ByteBudget.__init__, "__defaults__", (100_000,))
    async with live_connection() as live:
        live.client.writer.write(bytes((0x81, 0xFF)) + (1_000_000).to_bytes(8, "big") + bytes(4))
        live.client.writer.write(b'{"type":"session.start","session":{"instructions":"' + b"a" * 150_000)
        assert "relay_full" == (await live.client.next_event())["error"]["code"]
        await live.failed()
        second = await open_raw(live.relay.app.public_port, PATHS[0])
        second.send_event(**START)
        assert "session.started" == (await second.next_event())["type"]
        await second.close()


async def test_start_with_too_many_values_is_not_parsed() -> None:
    """It would hold up all sessions; the remedy names no limit on bytes."""
    async with live_connection() as live:
        values = b"{}," * 20_000
        live.client.send_frame(
            Opcode.TEXT, b'{"type":"session.start","session":{"model":"gpt-live-1","x":[%s0]}}' % values
        )
        error = (await live.client.next_event())["error"]

        assert "message_too_big" == error["code"]
        assert (
            "An event has more values, or longer numbers, than the relay reads: send fewer in one event."
            == error["remedy"]
        )
        assert [] == live.upstream.received


async def test_start_over_the_limit_is_too_big() -> None:
    """The limit is on the declared size; nothing is sent upstream."""
    async with live_connection() as live:
        live.client.writer.write(bytes((0x81, 0xFF)) + (5_000_000).to_bytes(8, "big") + bytes(4))
        live.client.writer.write(b'{"type":"session.start","session":{"instructions":"' + b"a" * 1000)
        event = await live.client.next_event()
        assert ("message_too_big", 1009) == (event["error"]["code"], (await live.client.until_close() or (0,))[0])
        assert [] == live.upstream.received


async def test_client_token_as_subprotocol_is_accepted_and_not_echoed() -> None:
    """As a browser sends it; the provider gets the relay's key and no subprotocol."""
    headers = {"Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{TOKEN_CANARY}"}
    async with live_connection(
        headers=headers, RELAY_ACCESS="tokens", RELAY_CLIENT_TOKENS=f"app:{TOKEN_CANARY}"
    ) as live:
        assert (101, "realtime") == (live.client.answer.status, live.client.answer.headers["Sec-WebSocket-Protocol"])
        live.client.send_event(**START)
        assert "session.started" == (await live.client.next_event())["type"]

        assert "Authorization: Bearer sk-" in live.upstream.head
        assert TOKEN_CANARY not in live.upstream.head + str(live.relay.logs)
        assert "sec-websocket-protocol" not in live.upstream.head.lower()


async def test_live_switched_off_is_refused() -> None:
    """An HTTP status; nothing is dialled."""
    async with running_relay(simulator=None, intervals=None, adjust=None, RELAY_LIVE="off") as relay:
        for path in (PATHS[0], ATTACH_PATHS[0].format(session="live_u1_A")):
            client = await open_raw(relay.app.public_port, path)
            await client.close()
            assert (404, "live_disabled") == (client.answer.status, client.answer.error["code"])


@pytest.mark.parametrize("path", ATTACH_PATHS)
async def test_attached_client_needs_no_start_and_never_closes_the_session(path: str) -> None:
    """The provider speaks first on a sideband; its query passes."""
    upstream = LiveUpstream()
    async with live_connection(upstream, path=path.format(session="live_u2_ABC") + "?graceful_close=true") as live:
        await eventually(lambda: upstream.connection is not None)
        upstream.send(STARTED)
        assert STARTED == await live.client.next_event()
        for side, at in (("input", 0), ("output", 600), ("input", 9_000)):  # measured where the session is
            upstream.send(
                {"type": f"session.{side}_transcript.delta", "delta": "x", "start_ms": at, "end_ms": at + 200}
            )
            await live.client.next_event()
        live.client.reset()
        await live.ended()

        assert 0 == live.relay.metric("realtime_relay_live_speech_to_speech_seconds_count")
        assert "GET /v1/live/sessions/live_u2_ABC/attach?graceful_close=true HTTP/1.1" == upstream.head.split("\r\n")[0]
        assert [] == upstream.received
        assert 0 == live.relay.metric("realtime_relay_live_final_usage_total", result="unconfirmed")


@pytest.mark.parametrize("session", ["..", "a%2Fb", "a.b", "x" * 200])
async def test_malformed_session_id_is_refused(session: str) -> None:
    """It would change the path of the request to the provider."""
    async with running_relay(simulator=None, intervals=None, adjust=None) as relay:
        client = await open_raw(relay.app.public_port, f"/v1/live/sessions/{session}/attach")
        await client.close()
        assert client.answer.status in {400, 404}
        assert client.answer.error["code"] in {"bad_request", "path_not_found"}


async def test_failed_starts_are_remembered_by_model() -> None:
    """The provider is not asked again at once; another model is tried."""
    upstream = LiveUpstream(on_start=refusal("credit_balance_exhausted"))
    async with live_connection(upstream) as live:
        live.client.send_event(**START)
        assert "quota_exhausted" in str(await asyncio.gather(live.client.next_event(), live.failed()))
        second = await open_raw(live.relay.app.public_port, PATHS[0])
        second.send_event(**START)
        assert "relay_error" == (await second.next_event())["error"]["type"]
        await second.close()
        assert 1 == live.failures()[("breaker", "quota_exhausted", "none")]
        assert ["session.start"] == upstream.types
