"""Text responses: event order, items, usage, function calls."""

import re

from service.simulator import Simulator
from tests.support.simulator_client import connect, event_types


async def test_text_turn_events_follow_provider_order(sim: Simulator) -> None:
    """rate_limits.updated is the last event."""
    async with connect(sim) as client:
        events = await client.run_text_turn("Hello there, parrot")
    expected = [
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
        "rate_limits.updated",
    ]
    assert event_types(events) == expected


async def test_response_text_is_user_text(sim: Simulator) -> None:
    """The deltas join to the whole text, whitespace included."""
    text = "  Two  blanks, and a newline\n"
    async with connect(sim) as client:
        events = await client.run_text_turn(text)
    assert "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta") == text
    assert next(e for e in events if e["type"] == "response.output_text.done")["text"] == text


async def test_events_are_compact_json_with_type_and_event_id_first(sim: Simulator) -> None:
    """session.created has between 1,200 and 1,300 characters."""
    async with connect(sim, read_created=False) as client:
        text = (await client.ws.receive(5)).data
    assert re.match(r'\{"type":"session.created","event_id":"event_[0-9A-Za-z]{21}","session":\{"type"', text)
    assert '": ' not in text
    assert 1_200 <= len(text) <= 1_300


async def test_text_deltas_are_padded_to_16_characters(sim: Simulator) -> None:
    """Delta and obfuscation together are a multiple of 16 characters."""
    async with connect(sim) as client:
        events = await client.run_text_turn("a bb abcdefghijklmno")
    deltas = [e for e in events if e["type"] == "response.output_text.delta"]
    assert {(len(e["delta"]) + len(e["obfuscation"])) % 16 for e in deltas} == {0}
    assert all(e["obfuscation"] for e in deltas)


async def test_added_items_have_previous_item_id(sim: Simulator) -> None:
    """conversation.item.done of the assistant's item has none, as on the wire."""
    async with connect(sim) as client:
        events = await client.run_text_turn("Hello")
    user, assistant = (e for e in events if e["type"] == "conversation.item.added")
    done = [e for e in events if e["type"] == "conversation.item.done"][1]
    assert user["previous_item_id"] is None
    assert assistant["previous_item_id"] == user["item"]["id"]
    assert done["previous_item_id"] is None
    assert done["item"]["status"] == "completed"


async def test_response_metadata_is_returned(sim: Simulator) -> None:
    """Clients match responses to requests by it."""
    async with connect(sim) as client:
        await client.send("response.create", response={"metadata": {"client_event_id": "c1"}})
        events = await client.read_until("response.done")
    returned = [e["response"]["metadata"] for e in events if "response" in e]
    assert returned == [{"client_event_id": "c1"}] * 2


async def test_out_of_band_response_adds_no_item(sim: Simulator) -> None:
    """The request sets `conversation` to "none"; the response has no conversation_id."""
    params = {"conversation": "none", "output_modalities": ["text"], "instructions": "Say ok.", "max_output_tokens": 16}
    async with connect(sim) as client:
        await client.send("response.create", response=params)
        events = await client.read_until("response.done")
        following = await client.run_text_turn("first")
    assert "conversation.item.added" not in event_types(events)
    assert events[-1]["response"]["conversation_id"] is None
    assert events[-1]["response"]["max_output_tokens"] == 16
    user = next(e for e in following if e["type"] == "conversation.item.added")
    assert user["previous_item_id"] is None


async def test_inline_input_is_the_prompt(sim: Simulator) -> None:
    """`response.input` replaces the items of the conversation."""
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "inline"}]}
    params = {"conversation": "none", "output_modalities": ["text"], "input": [item]}
    async with connect(sim) as client:
        await client.send("response.create", response=params)
        done = (await client.read_until("response.done"))[-1]
    assert done["response"]["output"][0]["content"] == [{"type": "output_text", "text": "inline"}]


async def test_max_output_tokens_makes_response_incomplete(sim: Simulator) -> None:
    """status_details has the reason."""
    async with connect(sim) as client:
        await client.update_session(max_output_tokens=2, output_modalities=["text"])
        done = next(e for e in await client.run_text_turn("one two three four five") if e["type"] == "response.done")
    assert done["response"]["status"] == "incomplete"
    assert done["response"]["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}


async def test_usage_is_consistent_and_cached_tokens_grow(sim: Simulator) -> None:
    """Totals are the sums of their parts; each later turn has more cached tokens."""
    cached = []
    async with connect(sim) as client:
        for _ in range(3):
            events = await client.run_text_turn("words " * 60)
            usage = next(e for e in events if e["type"] == "response.done")["response"]["usage"]
            details, out = usage["input_token_details"], usage["output_token_details"]
            assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
            assert usage["input_tokens"] == sum(details[f"{kind}_tokens"] for kind in ("text", "audio", "image"))
            assert usage["output_tokens"] == out["text_tokens"] + out["audio_tokens"]
            assert details["cached_tokens"] == details["cached_tokens_details"]["text_tokens"]
            cached.append(details["cached_tokens"])
    assert cached[0] == 0
    assert cached == sorted(set(cached))


async def test_required_tool_is_called(sim: Simulator) -> None:
    """The function's output is the prompt of the next response."""
    tool = {"parameters": {"type": "object"}, "name": "look_up", "type": "function"}
    async with connect(sim) as client:
        session = await client.update_session(tools=[tool], tool_choice="required", output_modalities=["text"])
        assert list(session["tools"][0]) == ["type", "name", "parameters"]
        events = await client.run_text_turn("the weather")
        assert event_types(events)[2:6] == [
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.function_call_arguments.delta",
        ]
        call = next(e for e in events if e["type"] == "response.function_call_arguments.done")
        assert call["name"] == "look_up"
        assert re.fullmatch(r"call_\w{16}", call["call_id"])
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
        await client.send("conversation.item.create", item=output)
        added = (await client.read_until("conversation.item.added"))[-1]
        assert "status" not in added["item"]
        await client.send("response.create", response={"tool_choice": "none"})
        done = (await client.read_until("response.done"))[-1]
    assert done["response"]["output"][0]["content"][0]["text"] == "sunny"
