"""What the API refuses in a conversation's items, with its codes: the rules for a client that replays a conversation."""

import base64
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.simulator import Simulator, SimulatorOptions
from service.simulator.audio import PCM16
from service.simulator.conversation import Conversation
from service.simulator.events import ApiError
from service.simulator.items import parse_item
from tests.support.simulator_client import Event, RealtimeClient, connect, event_types, speech

AUDIO = base64.b64encode(speech(200)).decode()
CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
PATTERN = "Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'."


def message(role: str, part: dict[str, Any], **fields: object) -> dict[str, Any]:
    """A message with one content part."""
    return {"type": "message", "role": role, "content": [part], **fields}


def text(item_id: str) -> dict[str, Any]:
    """A user's message with this identifier."""
    return message("user", {"type": "input_text", "text": "x"}, id=item_id)


# item, code, param, substring of the message
REFUSED: list[tuple[dict[str, Any], str, str | None, str]] = [
    (
        message("assistant", {"type": "output_audio", "audio": AUDIO, "transcript": "Hello."}),
        *("missing_required_parameter", "item.content[0].text", "Missing required parameter: 'item.content[0].text'."),
    ),
    (
        message("assistant", {"type": "output_audio", "text": "x"}),
        "invalid_value",
        "item.content[0].type",
        "output_text",
    ),
    (message("assistant", {"type": "input_text", "text": "x"}), "invalid_value", "item.content[0].type", "input_text"),
    (
        message("system", {"type": "input_audio", "audio": AUDIO}),
        "invalid_value",
        "item.content[0].type",
        "input_audio",
    ),
    (message("user", {"type": "output_text", "text": "x"}), "invalid_value", "item.content[0].type", "output_text"),
    (message("user", {"type": "input_image"}), "missing_required_parameter", "item.content[0].image_url", "image_url"),
    (
        message("user", {"type": "input_image", "image_url": "https://example.com/a.png"}),
        *("invalid_value", "item.content[0].image_url", "data URL"),
    ),
    (
        text("i" * 33),
        *(
            "string_above_max_length",
            "item.id",
            "Expected a string with maximum length 32, but got a string with length 33",
        ),
    ),
    ({**CALL, "call_id": "c" * 33}, "string_above_max_length", "item.call_id", "maximum length 32"),
    ({**CALL, "call_id": "call_1/update_2"}, "invalid_value", "item.call_id", PATTERN),
    ({**CALL, "call_id": ""}, "invalid_value", "item.call_id", PATTERN),
    (
        {"type": "function_call_output", "call_id": "call_2", "output": "sunny"},
        *("invalid_tool_call_id", None, "Tool call ID 'call_2' not found in conversation."),
    ),
    (
        {"type": "function_call_output", "call_id": "call_2/", "output": "sunny"},
        *("invalid_value", "item.call_id", PATTERN),
    ),
]


async def create(client: RealtimeClient, item: dict[str, Any], **fields: object) -> list[Event]:
    """Create an item; return `added` and `done`, or the error."""
    await client.send("conversation.item.create", item=item, **fields)
    event = await client.next_event()
    return [event] if event["type"] == "error" else [event, await client.next_event()]


@pytest.mark.parametrize(("item", "code", "param", "message"), REFUSED)
async def test_refused_item_adds_nothing(
    sim: Simulator, item: dict[str, Any], code: str, param: str | None, message: str
) -> None:
    """The error names the client's event; the next item follows the one before."""
    async with connect(sim) as client:
        await create(client, {**CALL, "id": "before"})
        [event] = await create(client, item, event_id="mine")
        error = event["error"]
        assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)
        assert message in error["message"]
        assert error["event_id"] == "mine"
        assert (await create(client, text("after")))[0]["previous_item_id"] == "before"


async def test_longest_identifiers_are_accepted(sim: Simulator) -> None:
    """32 characters; the output of a call that the client created is accepted, and may come again."""
    longest = "a-Z_9" * 6 + "xy"
    async with connect(sim) as client:
        await create(client, {**CALL, "id": longest, "call_id": longest})
        for _ in range(2):
            output = {"type": "function_call_output", "call_id": longest, "output": "sunny"}
            assert event_types(await create(client, output)) == ["conversation.item.added", "conversation.item.done"]


async def test_output_is_refused_once_its_call_is_deleted(sim: Simulator) -> None:
    """A client that rebuilds a conversation must create the call first."""
    async with connect(sim) as client:
        await create(client, {**CALL, "id": "call"})
        await client.send("conversation.item.delete", item_id="call")
        await client.next_event()
        [event] = await create(client, {"type": "function_call_output", "call_id": "call_1", "output": "sunny"})
        assert event["error"]["code"] == "invalid_tool_call_id"


async def test_deleted_identifier_can_be_created_again(sim: Simulator) -> None:
    """An assistant's answer can be replaced by its text."""
    async with connect(sim) as client:
        await create(client, text("a"))
        await client.send("conversation.item.delete", item_id="a")
        await client.next_event()
        events = await create(client, message("assistant", {"type": "output_text", "text": "Hello"}, id="a"))
        assert event_types(events) == ["conversation.item.added", "conversation.item.done"]


async def test_previous_item_id_of_wrong_type_is_refused(sim: Simulator) -> None:
    """Null appends."""
    async with connect(sim) as client:
        assert (await create(client, text("a"), previous_item_id=7))[0]["error"]["code"] == "invalid_type"
        assert (await create(client, text("a"), previous_item_id=None))[0]["previous_item_id"] is None


async def test_event_id_above_512_characters_is_refused(sim: Simulator) -> None:
    """512 characters are accepted."""
    async with connect(sim) as client:
        [event] = await create(client, text("a"), event_id="e" * 513)
        assert (event["error"]["code"], event["error"]["param"]) == ("string_above_max_length", "event_id")
        assert len(await create(client, text("a"), event_id="e" * 512)) == 2


async def spoken_turn(client: RealtimeClient, milliseconds: int) -> tuple[str, str]:
    """Speak and commit; return the identifiers of the user's item and of the answer."""
    events = await client.speak(milliseconds, "rate_limits.updated")
    user, assistant = (e["item"]["id"] for e in events if e["type"] == "conversation.item.added")
    return user, assistant


async def truncate(client: RealtimeClient, item_id: str, end_ms: int, content_index: int = 0) -> Event:
    """Truncate an item; return the answer."""
    fields = {"item_id": item_id, "content_index": content_index, "audio_end_ms": end_ms}
    await client.send("conversation.item.truncate", event_id="cut", **fields)
    while (event := await client.next_event())["type"] not in ("conversation.item.truncated", "error"):
        pass  # of a response that is still running
    return event


async def retrieve(client: RealtimeClient, item_id: str) -> Event:
    """Retrieve an item."""
    await client.send("conversation.item.retrieve", item_id=item_id)
    item: Event = (await client.read_until("conversation.item.retrieved"))[-1]["item"]
    return item


async def test_only_assistant_audio_can_be_truncated(sim: Simulator) -> None:
    """The user's audio, text, a call and another content part are unsupported content."""
    async with connect(sim) as client:
        user, assistant = await spoken_turn(client, 1_000)
        await create(client, {**CALL, "id": "call"})
        await create(client, message("assistant", {"type": "output_text", "text": "Hello"}, id="text"))
        refused = [await truncate(client, item_id, 0) for item_id in (user, "call", "text")]
        refused.append(await truncate(client, assistant, 0, content_index=1))
        for error in (event["error"] for event in refused):
            assert (error["code"], error["event_id"]) == ("unsupported_content_type", "cut")
            assert error["message"] == "Only model output audio messages can be truncated"
        error = (await truncate(client, assistant, 1_001))["error"]
        assert (error["code"], error["param"]) == ("invalid_value", "audio_end_ms")
        assert error["message"] == "Audio content of 1000ms is already shorter than 1001ms"


async def test_truncation_deletes_the_transcript_and_the_rest_of_the_audio(sim: Simulator) -> None:
    """A second truncation can only shorten further."""
    async with connect(sim) as client:
        user, assistant = await spoken_turn(client, 1_000)
        whole = await retrieve(client, assistant)
        assert base64.b64decode(whole["content"][0]["audio"]) == speech(1_000)
        assert whole["content"][0]["transcript"]
        assert (await truncate(client, assistant, 400))["type"] == "conversation.item.truncated"
        part = (await retrieve(client, assistant))["content"][0]
        assert (part["transcript"], base64.b64decode(part["audio"])) == (None, speech(1_000)[: 400 * 48])
        assert (await truncate(client, assistant, 401))["error"]["code"] == "invalid_value"
        assert base64.b64decode((await retrieve(client, user))["content"][0]["audio"]) == speech(1_000)


async def test_answer_is_truncated_while_it_is_spoken() -> None:
    """Only what was sent can be kept, and the end of the response does not bring the rest back."""
    async with Simulator(SimulatorOptions(pace=0.5)) as sim, connect(sim) as client:
        assistant = (await client.speak(2_000, "response.output_audio.delta"))[-1]["item_id"]
        assert (await truncate(client, assistant, 2_000))["error"]["code"] == "invalid_value"
        assert (await truncate(client, assistant, 100))["type"] == "conversation.item.truncated"
        await client.send("response.cancel")
        await client.read_until("rate_limits.updated")
        part = (await retrieve(client, assistant))["content"][0]
        assert (part["transcript"], len(base64.b64decode(part["audio"]))) == (None, 100 * 48)


async def test_answer_without_audio_yet_cannot_be_truncated(sim: Simulator) -> None:
    """The item exists; its audio does not (livekit/agents#6157)."""
    async with connect(sim) as client:
        await create(client, text("a"))
        await client.send("response.create", response={"output_modalities": ["audio"]})
        await client.read_until("response.output_item.added")
        answer = (await client.next_event())["item"]["id"]
        assert (await client.next_event())["type"] == "response.content_part.added"
        await client.send("conversation.item.truncate", item_id=answer, content_index=0, audio_end_ms=10_000)
        error = (await client.read_until("error"))[-1]["error"]
        assert error["code"] in ("unsupported_content_type", "invalid_value")  # by how much was sent meanwhile


async def test_retrieved_audio_is_bounded() -> None:
    """The oldest audio is deleted first; the user's newest is always kept, the items stay."""
    options = SimulatorOptions(pace=0, kept_audio_bytes=len(speech(200)))
    async with Simulator(options) as sim, connect(sim) as client:
        items = [*await spoken_turn(client, 200), *await spoken_turn(client, 200)]
        parts = [(await retrieve(client, item_id))["content"][0] for item_id in items]
    assert ["audio" in part for part in parts] == [False, False, True, True]


async def test_transcript_of_user_audio_is_retrieved(sim: Simulator) -> None:
    """It is in the item from `completed` on."""
    async with connect(sim) as client:
        await client.update_audio_input(turn_detection=None, transcription={"model": "whisper-1"})
        await client.append_audio(speech(500))
        await client.send("input_audio_buffer.commit")
        completed = (await client.read_until("conversation.item.input_audio_transcription.completed"))[-1]
        part = (await retrieve(client, completed["item_id"]))["content"][0]
    assert part["transcript"] == completed["transcript"]


@given(st.data())
def test_items_keep_the_order_of_a_reference_list(data: st.DataObject) -> None:
    """Creates at random places and deletes: as a list does it; what is refused changes nothing."""
    conversation, reference = Conversation(), list[str]()
    ids = st.sampled_from(["a", "b", "c", "d", "e"])
    for _ in range(data.draw(st.integers(1, 30))):
        item_id = data.draw(ids)
        if data.draw(st.booleans()):
            after = data.draw(st.one_of(st.none(), st.just("root"), ids))
            is_valid = item_id not in reference and after in (None, "root", *reference)
            at = {None: len(reference), "root": 0}.get(after, (*reference, after).index(after) + 1)
            with nullcontext() if is_valid else pytest.raises(ApiError):
                previous = conversation.add(parse_item(text(item_id), PCM16), after)
                reference.insert(at, item_id)
                assert previous == (reference[at - 1] if at else None)
        else:
            with nullcontext() if item_id in reference else pytest.raises(ApiError):
                conversation.delete(item_id)
                reference.remove(item_id)
        assert [item.item_id for item in conversation.items] == reference
