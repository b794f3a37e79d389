"""GPT-Live: validation of client events, updates, and Responses delegation."""

from typing import Any

import pytest

from tests.support.live_client import LiveClient, audio_of, live, live_simulator, others
from tests.support.simulator_client import Event, silence, speech

TOOL = {"type": "function", "name": "look", "parameters": {"type": "object"}}
RESPONSES = {"type": "responses", "responses": {"model": "gpt-backend", "tools": [TOOL]}}
SPEECH = speech(800)

INVALID_EVENTS: list[tuple[str, dict[str, Any], str, str | None]] = [
    ("session.start.now", {}, "invalid_value", "type"),
    ("session.input_audio.append", {}, "missing_required_parameter", "audio"),
    ("session.input_audio.append", {"audio": "!"}, "invalid_value", "audio"),
    ("session.input_audio.mute", {"on": True}, "unknown_parameter", "on"),
    ("session.instructions.append", {"content": "x"}, "missing_required_parameter", "delegation_id"),
    ("session.thinking.append", {"delegation_id": None}, "missing_required_parameter", "content"),
    ("session.thinking.append", {"delegation_id": None, "content": "x" * 1_900}, "invalid_value", "content"),
    ("session.commentary.append", {"delegation_id": "item_1", "content": "x"}, "invalid_parameter", "delegation_id"),
    ("session.thinking.append", {"delegation_id": {}, "content": "x"}, "invalid_type", "delegation_id"),
    ("session.update", {}, "missing_required_parameter", "session"),
    ("session.update", {"session": {"instructions": "x"}}, "unknown_parameter", "session.instructions"),
    (
        "session.update",
        {"session": {"delegation": {"type": "responses", "responses": {}}}},
        "immutable_field_update",
        "session.delegation.type",
    ),
    ("response.create", {"response": {}}, "unknown_parameter", "response"),
    ("response.create", {}, "invalid_event", None),
    ("response.item.create", {"item": {}, "delegation_id": "x"}, "unknown_parameter", "delegation_id"),
    ("transport.dtmf.send", {"event": "5"}, "invalid_event", None),
]


@pytest.mark.parametrize(("event_type", "fields", "code", "param"), INVALID_EVENTS)
async def test_invalid_event_is_error_and_session_lives(
    event_type: str, fields: dict[str, Any], code: str, param: str | None
) -> None:
    """The error names the client event; absent fields are omitted."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        await client.send(event_type, event_id="e1", **fields)
        error = (await client.next_event())["error"]
        assert (error["code"], error.get("param"), error["client_event_id"]) == (code, param, "e1")
        await client.hear(silence(100))


async def test_append_of_1756_characters_passes() -> None:
    """As at the provider, whose limit is 500 tokens."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start()
        await client.send("session.thinking.append", delegation_id=None, content="x" * 1_756)
        assert (
            "session.thinking.appended" in [event["type"] for event in await client.hear(silence(300))]
            or (await client.next_event())["type"] == "session.thinking.appended"
        )


@pytest.mark.parametrize(("path", "merged"), [("/v1/live/sessions", True), ("/openai/v1/live/sessions", False)])
async def test_update_merges_delegation_except_at_azure(path: str, *, merged: bool) -> None:
    """OpenAI replaces the tools and keeps the rest; Azure replaces all."""
    async with live_simulator() as sim, live(sim, path=path, headers={"api-key": "abc"}) as client:
        await client.start(delegation=RESPONSES)
        patch = {"type": "responses", "responses": {"tools": []}}
        await client.send("session.update", session={"delegation": patch})
        responses = (await client.next_event())["session"]["delegation"]["responses"]
        assert responses == ({"model": "gpt-backend", "tools": []} if merged else {"tools": []})


def _nested(events: list[Event]) -> list[Event]:
    return [event["event"] for event in events if event["type"] == "response.event"]


async def _call(client: LiveClient) -> tuple[Event, list[Event]]:
    """Say something and read up to the end of the response that calls the function; return delegation and nested events."""
    events = await client.hear(SPEECH + silence(1_000))
    while not _nested(events) or _nested(events)[-1]["type"] != "response.completed":
        events.append(await client.next_event())
    (created,) = [event for event in events if event["type"] == "session.delegation.created"]
    assert {e["delegation_id"] for e in events if e["type"] == "response.event"} == {created["delegation"]["id"]}
    return created["delegation"], _nested(events)


async def test_speech_is_delegated_and_function_is_called() -> None:
    """The call appears three times, and only the last one is complete; the response has usage and no output."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start(delegation=RESPONSES)
        delegation, nested = await _call(client)
        assert delegation["target"] == "responses"
        assert [event["sequence_number"] for event in nested] == list(range(len(nested)))
        by_type = {event["type"]: event for event in nested}
        assert list(by_type) == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.function_call_arguments.delta",
            "response.function_call_arguments.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert by_type["response.output_item.added"]["item"]["arguments"] == ""
        assert not {"name", "call_id"} & set(by_type["response.function_call_arguments.done"])
        item = by_type["response.output_item.done"]["item"]
        assert (item["name"], item["status"], item["type"]) == ("look", "completed", "function_call")
        response = by_type["response.completed"]["response"]
        assert response["id"] == delegation["response_id"]
        assert (response["model"], response["output"]) == ("gpt-backend", [])
        assert response["usage"]["total_tokens"] > 0


async def test_speech_waits_for_the_output_of_the_call() -> None:
    """`response.create` without it is an error; after the second response the parrot says what it heard."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start(delegation=RESPONSES)
        _, nested = await _call(client)
        assert not any(audio_of(await client.hear(silence(1_000))))
        await client.send("response.create", event_id="r1")
        error = (await client.next_event())["error"]
        assert (error["code"], error["client_event_id"]) == ("function_call_outputs_required", "r1")
        item = {"type": "function_call_output", "call_id": nested[-2]["item"]["call_id"], "output": "ok"}
        await client.send("response.item.create", item=item)
        await client.send("response.create")
        events: list[Event] = []
        while not _nested(events) or _nested(events)[-1]["type"] != "response.completed":
            events.append(await client.next_event())
        assert "response.output_text.done" in [event["type"] for event in _nested(events)]
        assert SPEECH.strip(b"\0") in audio_of(await client.hear(silence(2_500)))


async def test_close_with_open_call_is_slow() -> None:
    """It takes `slow_close_seconds`; without open work, `close_seconds`."""
    async with live_simulator(slow_close_seconds=0, close_seconds=600) as sim, live(sim) as client:
        await client.start(delegation=RESPONSES)
        await _call(client)
        await client.send("session.close")
        assert others(await client.read_until("session.closed"))[-1]["reason"] == "close_requested"


async def test_text_is_answered_by_the_backend_in_order() -> None:
    """A second `response.create` is queued; the items have no acknowledgement."""
    async with live_simulator(response_seconds=0.02) as sim, live(sim) as client:
        await client.start(delegation={"type": "responses", "responses": {"model": "gpt-backend"}})
        for text in ("one two", "three"):
            content = [{"type": "input_text", "text": text}]
            await client.send("response.item.create", item={"type": "message", "role": "user", "content": content})
            await client.send("response.create")
        nested: list[Event] = []
        while [event["type"] for event in nested].count("response.completed") < 2:
            event = await client.next_event()
            assert "delegation_id" not in event
            nested += _nested([event])
        assert len({event["response"]["id"] for event in nested if "response" in event}) == 2


async def test_input_buffer_is_limited_per_session() -> None:
    """32,768 bytes; a small item still fits after a refusal."""
    async with live_simulator() as sim, live(sim) as client:
        await client.start(delegation=RESPONSES)
        for text, param in (("x" * 30_000, None), ("x" * 3_000, "item"), ("x", None)):
            content = [{"type": "input_text", "text": text}]
            await client.send("response.item.create", item={"type": "message", "role": "user", "content": content})
            if param is not None:
                error = (await client.next_event())["error"]
                assert (error["code"], error["param"]) == ("response_input_buffer_full", param)
        await client.hear(silence(100))


@pytest.mark.parametrize(
    ("scenario", "code"), [("model-access-late", "model_not_found"), ("server-error-mid", "server_error")]
)
async def test_backend_response_fails(scenario: str, code: str) -> None:
    """The session lives, and the parrot says what it heard."""
    async with live_simulator() as sim, live(sim, f"simulate={scenario}") as client:
        await client.start(delegation=RESPONSES)
        events = await client.hear(SPEECH + silence(1_000))
        while not _nested(events) or _nested(events)[-1]["type"] != "response.failed":
            events.append(await client.next_event())
        assert _nested(events)[-1]["response"]["error"]["code"] == code
        assert SPEECH.strip(b"\0") in audio_of(events) + audio_of(await client.hear(silence(2_000)))
