"""Text in, text out: the order of events and what is in them."""

import re

from service.simulator import Simulator
from tests.support.simulator_client import connected, kinds


async def test_a_text_turn_has_the_order_of_the_wire(sim: Simulator) -> None:
    """The fourteen events of a turn come in the provider's order, rate limits last."""
    async with connected(sim) as caller:
        events = await caller.say("Hello there, parrot")
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
    assert kinds(events) == expected


async def test_the_assistant_echoes_text(sim: Simulator) -> None:
    """What was written comes back, in deltas that join to the whole, blanks included."""
    said = "  Two  blanks, and a newline\n"
    async with connected(sim) as caller:
        events = await caller.say(said)
    assert "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta") == said
    assert next(e for e in events if e["type"] == "response.output_text.done")["text"] == said


async def test_events_are_compact_and_begin_with_type_and_event_id(sim: Simulator) -> None:
    """Every event is compact JSON whose keys begin type, event_id; its identifier has the provider's shape."""
    async with connected(sim, greeted=False) as caller:
        text = (await caller.ws.receive(5)).data
    assert re.match(r'\{"type":"session.created","event_id":"event_[0-9A-Za-z]{21}","session":\{"type"', text)
    assert '": ' not in text
    assert 1_200 <= len(text) <= 1_300


async def test_text_deltas_are_padded(sim: Simulator) -> None:
    """Delta and obfuscation together are a multiple of 16 characters."""
    async with connected(sim) as caller:
        events = await caller.say("a bb abcdefghijklmno")
    deltas = [e for e in events if e["type"] == "response.output_text.delta"]
    assert {(len(e["delta"]) + len(e["obfuscation"])) % 16 for e in deltas} == {0}
    assert all(e["obfuscation"] for e in deltas)


async def test_items_name_the_one_before_them(sim: Simulator) -> None:
    """The assistant's item follows the user's; when it is done it names none, as on the wire."""
    async with connected(sim) as caller:
        events = await caller.say("Hello")
    user, assistant = (e for e in events if e["type"] == "conversation.item.added")
    done = [e for e in events if e["type"] == "conversation.item.done"][1]
    assert user["previous_item_id"] is None
    assert assistant["previous_item_id"] == user["item"]["id"]
    assert done["previous_item_id"] is None
    assert done["item"]["status"] == "completed"


async def test_metadata_comes_back(sim: Simulator) -> None:
    """The metadata of a request is in response.created and response.done: clients find their answer by it."""
    async with connected(sim) as caller:
        await caller.send("response.create", response={"metadata": {"client_event_id": "c1"}})
        events = await caller.until("response.done")
    told = [e["response"]["metadata"] for e in events if "response" in e]
    assert told == [{"client_event_id": "c1"}] * 2


async def test_a_response_outside_the_conversation_leaves_no_trace(sim: Simulator) -> None:
    """With conversation "none" no item is added, and the response names no conversation."""
    asked = {"conversation": "none", "output_modalities": ["text"], "instructions": "Say ok.", "max_output_tokens": 16}
    async with connected(sim) as caller:
        await caller.send("response.create", response=asked)
        events = await caller.until("response.done")
        following = await caller.say("first")
    assert "conversation.item.added" not in kinds(events)
    assert events[-1]["response"]["conversation_id"] is None
    assert events[-1]["response"]["max_output_tokens"] == 16
    user = next(e for e in following if e["type"] == "conversation.item.added")
    assert user["previous_item_id"] is None


async def test_inline_input_is_answered(sim: Simulator) -> None:
    """Items given with the request are what the answer is about."""
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "inline"}]}
    asked = {"conversation": "none", "output_modalities": ["text"], "input": [item]}
    async with connected(sim) as caller:
        await caller.send("response.create", response=asked)
        done = (await caller.until("response.done"))[-1]
    assert done["response"]["output"][0]["content"] == [{"type": "output_text", "text": "inline"}]


async def test_a_short_limit_cuts_the_answer(sim: Simulator) -> None:
    """A response that reaches max_output_tokens is incomplete, and says so."""
    async with connected(sim) as caller:
        await caller.configure(max_output_tokens=2, output_modalities=["text"])
        done = next(e for e in await caller.say("one two three four five") if e["type"] == "response.done")
    assert done["response"]["status"] == "incomplete"
    assert done["response"]["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}


async def test_usage_adds_up_and_the_cache_grows(sim: Simulator) -> None:
    """Totals are the sums of their parts, and a later turn finds more in the cache."""
    cached = []
    async with connected(sim) as caller:
        for _ in range(3):
            events = await caller.say("words " * 60)
            usage = next(e for e in events if e["type"] == "response.done")["response"]["usage"]
            details, out = usage["input_token_details"], usage["output_token_details"]
            assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
            assert usage["input_tokens"] == sum(details[f"{kind}_tokens"] for kind in ("text", "audio", "image"))
            assert usage["output_tokens"] == out["text_tokens"] + out["audio_tokens"]
            assert details["cached_tokens"] == details["cached_tokens_details"]["text_tokens"]
            cached.append(details["cached_tokens"])
    assert cached[0] == 0
    assert cached == sorted(set(cached))


async def test_a_required_tool_is_called(sim: Simulator) -> None:
    """With tool_choice "required" the answer is the call of a function; its output is answered in turn."""
    tool = {"parameters": {"type": "object"}, "name": "look_up", "type": "function"}
    async with connected(sim) as caller:
        session = await caller.configure(tools=[tool], tool_choice="required", output_modalities=["text"])
        assert list(session["tools"][0]) == ["type", "name", "parameters"]
        events = await caller.say("the weather")
        assert kinds(events)[2:6] == [
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.function_call_arguments.delta",
        ]
        call = next(e for e in events if e["type"] == "response.function_call_arguments.done")
        assert call["name"] == "look_up"
        assert re.fullmatch(r"call_\w{16}", call["call_id"])
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
        await caller.send("conversation.item.create", item=output)
        added = (await caller.until("conversation.item.added"))[-1]
        assert "status" not in added["item"]
        await caller.send("response.create", response={"tool_choice": "none"})
        done = (await caller.until("response.done"))[-1]
    assert done["response"]["output"][0]["content"][0]["text"] == "sunny"
