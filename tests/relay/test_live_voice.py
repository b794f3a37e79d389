"""Recorded speech through relay and simulator as a session of GPT-Live: the same samples return, and the end is confirmed."""

import hashlib
import os

import pytest

from service.simulator import SimulatorOptions
from tests.support.harness import eventually, simulated_relay, within
from tests.support.live_client import FRAME_BYTES, audio_of, live, quick_live, transcript_of
from tools.voice import VoiceUnavailable, load_phrase


@pytest.fixture(scope="module")
def phrase() -> bytes:
    """A recorded phrase between silences, in whole frames. Skipped without one, or failed if TEST_REQUIRE_VOICE is set."""
    try:
        voice = load_phrase("Front_Center")
    except VoiceUnavailable as why:
        if os.environ.get("TEST_REQUIRE_VOICE"):
            raise
        pytest.skip(f"NO RECORDED VOICE: {why}")
    return (bytes(24_000) + voice).ljust(50 * FRAME_BYTES, b"\0")


async def test_recorded_speech_returns_sample_for_sample(phrase: bytes) -> None:
    """Both directions carry the same bytes as the simulator's ends; usage is that of `session.closed`."""
    options = SimulatorOptions(live=quick_live())
    async with simulated_relay(options) as relay:
        async with live(relay.url) as client:
            await client.start(instructions="Repeat.")
            events = await client.hear(phrase)
            await client.send("session.close")
            closed = (await client.read_until("session.closed"))[-1]
        await eventually(lambda: relay.events("session.ended"))
        (ended,) = relay.events("session.ended")
    assert relay.simulator is not None
    (record,) = (record for record in relay.simulator.connections if "live" in record.path)

    assert phrase.strip(b"\0") == audio_of(events).strip(b"\0")
    assert hashlib.sha256(phrase).hexdigest() == record.audio_in_sha256
    assert hashlib.sha256(audio_of(events)).hexdigest() == record.audio_out_sha256
    assert transcript_of(events, "input") == transcript_of(events, "output") != ""
    assert ["session.start", "session.input_audio.append", "session.close"] == record.client_events
    assert (ended["usage_confirmed"], ended["usage_seconds"]) == (True, closed["usage"]["seconds"])


async def test_vanished_client_leaves_a_session_that_is_closed(phrase: bytes) -> None:
    """In the middle of speech: the upstream receives `session.close`, and its final usage is read."""
    async with simulated_relay(SimulatorOptions(live=quick_live(close_seconds=0.05))) as relay:
        async with live(relay.url) as client:
            await client.start()
            await client.hear(phrase[: 10 * FRAME_BYTES])
            client.ws._response.close()
            assert relay.simulator is not None
            (record,) = (record for record in relay.simulator.connections if "live" in record.path)
            await within(record.wait_client_event("session.close"), 10)
            await within(record.wait_closed(), 10)
        await eventually(lambda: relay.events("session.ended"))
        (ended,) = relay.events("session.ended")
    assert ("close_requested", True) == (record.closed_reason, ended["usage_confirmed"])
