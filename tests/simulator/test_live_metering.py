"""The relay's meter of GPT-Live reads what the simulator sends: the provider's events as documented and captured."""

import json

import pytest

from service.realtime import live as protocol
from service.realtime.live_events import RESPONSE_ENDS, BackendResponse, LiveEvent, parse_live_event
from service.realtime.live_usage import LiveMeter, SpeechTimer
from tests.support.live_client import live, live_simulator
from tests.support.simulator_client import Event, silence, speech

SPEECH = speech(1_200)


def parsed(events: list[Event]) -> list[LiveEvent]:
    """What the relay evaluates of events."""
    return [
        parse_live_event(event["type"], json.dumps(event).encode())
        for event in events
        if event["type"] in protocol.PARSED_EVENT_TYPES
    ]


async def test_charges_are_the_final_usage() -> None:
    """Updates during the session and the final report add up to the latter, which confirms them."""
    async with live_simulator(usage_interval_seconds=0.02) as sim, live(sim) as client:
        await client.send("session.start", session={"model": "gpt-live-1"})
        events = await client.read_until("session.usage.updated")
        events += await client.read_until("session.usage.updated")
        await client.send("session.close")
        events += await client.read_until("session.closed")
    found, meter = parsed(events), LiveMeter()
    charges = [meter.add(event) for event in found]

    assert ("gpt-live-1", "close_requested") == (found[0].model, found[-1].closed_reason)
    assert found[0].session_id == events[0]["session"]["id"]
    assert sum(charge.active_seconds for charge in charges) == pytest.approx(events[-1]["usage"]["seconds"])
    assert meter.is_confirmed
    assert meter.usage_ratio is not None


async def test_answers_to_speech_are_measured() -> None:
    """Two utterances have an answer each, half a second later on the grid of the transcripts."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        events = await client.hear(2 * (silence(1_000) + SPEECH + silence(4_000)))
    timer = SpeechTimer()
    found = [timer.add(event.transcript) for event in parsed(events) if event.transcript is not None]
    seconds = [value for value in (*found, timer.finish()) if value is not None]

    assert len(seconds) == 2
    assert all(0.2 <= value <= 1 for value in seconds)


async def test_backend_response_is_charged_once() -> None:
    """Of its nested events only the end counts."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start(delegation={"type": "responses", "responses": {"model": "gpt-backend"}})
        await client.send("response.item.create", item={"type": "message", "role": "user", "content": "Hello there"})
        await client.send("response.create")
        events = [await client.next_event()]
        while events[-1].get("event", {}).get("type") not in RESPONSE_ENDS:
            events.append(await client.next_event())
    meter = LiveMeter()
    charges = [meter.add(event) for event in parsed(2 * events)]
    ended = [charge.backend for charge in charges if charge.backend is not None]

    assert len(ended) == 1
    assert isinstance(ended[0], BackendResponse)
    assert (ended[0].model, ended[0].event) == ("gpt-backend", "response.completed")
    assert ended[0].usage is not None
    assert ended[0].usage.total > 0
