"""Recorded speech through relay and simulator, with the official SDK: the same bytes are received upstream and returned."""

import os
from itertools import groupby

import pytest

from service.simulator import SimulatorOptions
from tests.support.harness import eventually, simulated_relay
from tools.conversation import create_client, disable_turn_detection, receive_response, send_audio, sha256
from tools.voice import BYTES_PER_SECOND, VoiceUnavailable, load_phrase

AUDIO_TURN = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "DELTAS",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
    "rate_limits.updated",
]
DELTAS = {"response.output_audio.delta", "response.output_audio_transcript.delta"}


@pytest.fixture(scope="module")
def phrase() -> bytes:
    """A recorded phrase. Without one the tests are skipped, or fail if TEST_REQUIRE_VOICE is set."""
    try:
        return load_phrase("Front_Center")
    except VoiceUnavailable as why:
        if os.environ.get("TEST_REQUIRE_VOICE"):
            raise
        pytest.skip(f"NO RECORDED VOICE: {why}")


def shape(events: list[str]) -> list[str]:
    """The order of events, with a run of deltas as one."""
    named = ("DELTAS" if event in DELTAS else event for event in events)
    return [event for event, _ in groupby(named)]


async def test_recorded_speech_returns_byte_for_byte(phrase: bytes) -> None:
    """Upstream receives all of it and returns all of it; the order of events and the usage are exact."""
    async with (
        simulated_relay(SimulatorOptions(pace=6)) as relay,
        create_client(relay.url) as client,
        client.realtime.connect(model="gpt-realtime") as connection,
    ):
        await disable_turn_detection(connection)
        await send_audio(connection, phrase)
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        turn = await receive_response(connection)

    assert relay.simulator is not None
    (record,) = (record for record in relay.simulator.connections if record.client_events)  # not a health check's
    assert sha256(phrase) == record.audio_in_sha256
    assert sha256(phrase) == record.audio_out_sha256
    assert sha256(phrase) == sha256(bytes(turn.audio))
    assert [
        "session.created",
        "session.updated",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        *AUDIO_TURN,
    ] == shape(turn.events)

    usage, seconds = turn.response.usage, len(phrase) / BYTES_PER_SECOND
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert abs(usage.input_token_details.audio_tokens - seconds * 10) <= 1
    assert abs(usage.output_token_details.audio_tokens - seconds * 20) <= 1

    await eventually(lambda: relay.events("session.ended"))
    ended = relay.events("session.ended")[0]
    assert ended["reason"] == "client_closed"
    assert ended["upstream_to_client_messages"] == len(turn.events)


async def test_turn_detection_responds_after_speech_and_silence(phrase: bytes) -> None:
    """Without `input_audio_buffer.commit` and `response.create`."""
    silence = bytes(BYTES_PER_SECOND)
    async with (
        simulated_relay(SimulatorOptions(pace=0)) as relay,
        create_client(relay.url) as client,
        client.realtime.connect(model="gpt-realtime") as connection,
    ):
        await send_audio(connection, phrase + silence, pace=50)
        turn = await receive_response(connection)

    # The phrase contains a pause: turn detection may find one turn or two, and the second interrupts the first response.
    assert [
        "session.created",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
    ] == shape(turn.events)[:4]
    assert bytes(turn.audio) in phrase + silence
