"""Failures that upstream reports within a session: counted by code, logged once, forwarded unchanged."""

import json

import pytest

from service.realtime.frames import Opcode, build_frame
from tests.support.harness import RawClient, Relay, eventually, open_raw, payload_of, running_relay, simulated_relay
from tests.support.raw_websocket_server import CREATED, ServerConnection, raw_upstream

PATH = "/v1/realtime?model=scripted"


def incidents(relay: Relay, event: str, code: str) -> float:
    """The count of an incident."""
    return relay.metric("realtime_relay_session_incidents_total", event=event, code=code)


async def failed_response(client: RawClient) -> dict[str, object]:
    """Request a response; returns its `response.done`."""
    client.send_event(type="response.create", response={"output_modalities": ["text"]})
    while (event := await client.next_event())["type"] != "response.done":
        pass
    return dict(event["response"])


@pytest.mark.parametrize(
    ("scenario", "code"),
    [
        ("server-error-mid", "server_error"),
        ("rate-limited-mid", "rate_limit_exceeded"),
        ("model-access-late", "model_not_found"),
    ],
)
async def test_failed_response_is_counted_each_time_and_logged_once(scenario: str, code: str) -> None:
    """The session opened without a failure; the code is that of the response."""
    async with simulated_relay(OPENAI_API_KEY=f"sk-sim-{scenario}") as relay:
        client = await open_raw(relay.app.public_port)
        assert (await client.next_event())["type"] == "session.created"
        for _ in range(2):
            assert "failed" == (await failed_response(client))["status"]
        await client.close()

        assert 2 == incidents(relay, "response.done", code)
        logged = [line for line in relay.events("session.incident_seen") if line["upstream_event"] == "response.done"]
        assert [code] == [line["upstream_code"] for line in logged]


EVENTS = [
    b'{ "type": "response.done", "response": {"status": "failed", "status_details": {"error": {"code": "server_error"}}} }',
    b'{"type":"conversation.item.input_audio_transcription.failed","item_id":"i","error":{"type":"server_error"}}',
    b'{"type":"rate_limits.updated","rate_limits":[{"name":"tokens","limit":9,"remaining":0,"reset_seconds":1}]}',
    b'{"type":"error","error":{"type":"invalid_request_error","code":"invalid_value","message":"no"}}',
    b'{"type":"response.done","response":{"status":"completed","output":[{"text":"sk-proj-looks-like-a-key"}]}}',
]


async def test_parsed_events_are_forwarded_unchanged() -> None:
    """In order, fragmented ones too. Each incident is counted, and the session goes on."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        for event in EVENTS:
            connection.send(event)
        whole = build_frame(Opcode.TEXT, EVENTS[0][:20])
        connection.writer.write(bytes([whole[0] & 0x7F]) + whole[1:] + build_frame(Opcode.CONTINUATION, EVENTS[0][20:]))
        await connection.until_close()

    async with (
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        client = await open_raw(relay.app.public_port, PATH)
        assert (await client.next_event())["type"] == "session.created"
        received = [payload_of(await client.next_item()) for _ in EVENTS]
        fragments = await client.next_item()
        await eventually(lambda: incidents(relay, "response.done", "server_error") == 2)
        await client.close()

        assert EVENTS == received
        assert fragments.endswith(EVENTS[0][20:])
        assert 1 == incidents(relay, "conversation.item.input_audio_transcription.failed", "server_error")
        assert 1 == incidents(relay, "rate_limits.updated", "tokens")
        assert 1 == relay.metric("realtime_relay_upstream_error_events_total", code="invalid_value")
        assert 4 == len(relay.events("session.incident_seen"))


async def test_large_response_done_is_forwarded_and_counted() -> None:
    """It is larger than a frame that the scanner buffers otherwise."""
    large = json.dumps({"type": "response.done", "response": {"status": "failed", "output": "x" * 200_000}}).encode()

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.send(large)
        await connection.until_close()

    async with (
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        client = await open_raw(relay.app.public_port, PATH)
        await client.next_event()
        assert large == payload_of(await client.next_item())
        assert 1 == incidents(relay, "response.done", "other")
        await client.close()


@pytest.mark.parametrize(("later_events", "code"), [(0, "response_cancel_not_active"), (3, None)])
async def test_harmless_error_does_not_read_as_the_cause_of_a_later_ending(later_events: int, code: str | None) -> None:
    """`session.ended` names an error only if upstream sent nothing after it."""
    error = {"type": "invalid_request_error", "code": "response_cancel_not_active", "message": "no"}

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.send(json.dumps({"type": "error", "error": error}).encode())
        for _ in range(later_events):
            connection.send(b'{"type":"response.output_text.delta","delta":"a"}')
        await connection.until_close()

    async with (
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        client = await open_raw(relay.app.public_port, PATH)
        for _ in range(2 + later_events):
            await client.next_event()
        await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))

        assert [code] == [line["upstream_code"] for line in relay.events("session.ended")]
