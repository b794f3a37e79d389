"""GPT-Live: decisions of a small model, by delegation, trigger and command."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.realtime.live_events import Decision, parse_live_event
from service.simulator import Simulator
from service.simulator.events import encode
from tests.support.live_client import LiveClient, live, live_simulator
from tests.support.simulator_client import Event, silence, speech

QUESTIONS = [
    {"type": "predicate", "name": "polite", "instructions": "Is the user polite?"},
    {"type": "choice", "instructions": "Which?", "choices": [{"value": "a"}, {"value": True}]},
    {
        "type": "score",
        "instructions": "How good?",
        "levels": [{"label": "bad", "value": 1}, {"label": "good", "value": 2}],
    },
    {"type": "poem", "instructions": "x"},
]
ANSWERS = [
    {"type": "predicate", "name": "polite", "probability": 1.0},
    {
        "type": "choice",
        "name": None,
        "choice": "a",
        "confidence": 1.0,
        "probabilities": [{"value": "a", "probability": 1.0}],
    },
    {
        "type": "score",
        "name": None,
        "score": 1,
        "confidence": 1.0,
        "probabilities": [{"label": "bad", "value": 1, "probability": 1.0}],
    },
    {"type": "refusal", "name": None},
]
DECISIONS = {"type": "decisions", "decisions": {"model": "gpt-small", "questions": QUESTIONS}}
SPEECH = speech(800) + silence(1_000)


@asynccontextmanager
async def started(sim: Simulator, **session: Any) -> AsyncIterator[LiveClient]:
    """A session with these settings."""
    async with live(sim) as client:
        await client.start(**session)
        yield client


async def until(client: LiveClient, event_type: str) -> Event:
    """The next event of a type."""
    while (event := await client.next_event())["type"] != event_type:
        assert event["type"] != "error", event
    return event


async def test_speech_is_delegated_to_decisions() -> None:
    """The voice model delegates, and the answers follow; the relay counts their usage once."""
    async with live_simulator() as sim, started(sim, delegation=DECISIONS) as client:
        for at in range(0, len(SPEECH), 4_800):
            await client.append(SPEECH[at : at + 4_800])
        created = await until(client, "session.delegation.created")
        decided = await until(client, "decision.event")
        decision = decided["event"]["decision"]

        assert ("decisions", created["delegation"]["id"]) == (created["delegation"]["target"], decided["delegation_id"])
        assert ("gpt-small", ANSWERS) == (decision["model"], decision["answers"])
        parsed = parse_live_event("decision.event", encode(decided).encode()).decision
        assert isinstance(parsed, Decision)
        assert parsed.usage is not None
        assert decision["usage"]["output_tokens"] == parsed.usage.output.total


async def test_decision_is_created_by_command_once_for_each_event_id() -> None:
    """With the items, which can be added and removed."""
    async with live_simulator() as sim, started(sim, delegation=DECISIONS) as client:
        message = {"type": "message", "role": "user", "content": "x" * 360}
        await client.send("decision.item.create", event_id="i1", item=message)
        created = await until(client, "decision.item.created")
        assert ("i1", message) == (created["client_event_id"], {k: v for k, v in created["item"].items() if k != "id"})

        sizes = []
        for event_id in ("d1", "d2"):
            await client.send("decision.create", event_id=event_id)
            sizes.append((await until(client, "decision.event"))["event"]["decision"]["usage"]["input_tokens"])
            if event_id == "d1":
                await client.send("decision.item.delete", item_id=created["item"]["id"])
                assert created["item"]["id"] == (await until(client, "decision.item.deleted"))["item_id"]
        assert sizes[0] >= sizes[1] + 100

        for fields, param in (({"event_id": "d2"}, "event_id"), ({}, "event_id")):
            await client.send("decision.create", **fields)
            assert param == (await client.next_event())["error"]["param"]


@pytest.mark.parametrize("side", ["input", "output"])
async def test_trigger_decides_on_each_transcript(side: str) -> None:
    """The event names the transcript that caused it; a session without triggers has none."""
    source = f"session.{side}_transcript.delta"
    trigger = {"type": "decisions", "event_type": source, "decisions": {"questions": QUESTIONS[:1]}}
    async with live_simulator() as sim, started(sim, triggers=[trigger]) as client:
        for at in range(0, len(SPEECH), 4_800):
            await client.append(SPEECH[at : at + 4_800])
        transcript = await until(client, source)
        decided = await until(client, "decision.event")

        assert (source, transcript["event_id"]) == (decided["source_event_type"], decided["source_event_id"])
        assert ANSWERS[:1] == decided["event"]["decision"]["answers"]
        assert decided["trigger_id"]
        await client.send("session.update", session={"triggers": []})
        assert [] == (await until(client, "session.updated"))["session"]["triggers"]


@pytest.mark.parametrize(
    ("event_type", "fields", "code"),
    [
        ("decision.create", {"event_id": "d1"}, "invalid_event"),
        ("decision.item.create", {"item": {"type": "song"}}, "invalid_value"),
        ("decision.item.create", {"item": {"role": "bird"}}, "invalid_value"),
        ("decision.item.delete", {"item_id": "item_1"}, "invalid_value"),
        ("session.update", {"session": {"triggers": [{"type": "decisions"}]}}, "invalid_value"),
    ],
)
async def test_invalid_decision_event_is_an_error(event_type: str, fields: dict[str, Any], code: str) -> None:
    """The session lives."""
    async with live_simulator() as sim, started(sim) as client:
        await client.send(event_type, **fields)
        assert code == (await client.next_event())["error"]["code"]
        await client.hear(silence(100))
