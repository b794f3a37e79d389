"""Conversation items: order, retrieval, deletion, truncation."""

from service.simulator import Simulator
from tests.support.simulator_client import RealtimeClient, connect, event_types


async def _create_item(client: RealtimeClient, item_id: str, **fields: object) -> list[dict[str, object]]:
    content = [{"type": "input_text", "text": item_id}]
    item = {"id": item_id, "type": "message", "role": "user", "content": content}
    await client.send("conversation.item.create", item=item, **fields)
    return [await client.next_event(), await client.next_event()]


async def test_created_item_is_added_and_done(sim: Simulator) -> None:
    """The item keeps the client's identifier and is completed."""
    async with connect(sim) as client:
        events = await _create_item(client, "mine")
    assert event_types(events) == ["conversation.item.added", "conversation.item.done"]
    assert events[0]["item"] == {
        "id": "mine",
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "mine"}],
    }


async def test_item_is_inserted_after_previous_item_id(sim: Simulator) -> None:
    """Without previous_item_id the item is appended; with `root` it is inserted first."""
    async with connect(sim) as client:
        previous_ids = [
            (await _create_item(client, "a"))[0]["previous_item_id"],
            (await _create_item(client, "b"))[0]["previous_item_id"],
            (await _create_item(client, "first", previous_item_id="root"))[0]["previous_item_id"],
            (await _create_item(client, "between", previous_item_id="a"))[0]["previous_item_id"],
            (await _create_item(client, "last"))[0]["previous_item_id"],
        ]
    assert previous_ids == [None, "a", None, "a", "b"]


async def test_invalid_item_create_adds_nothing(sim: Simulator) -> None:
    """An unknown previous_item_id and a duplicate identifier are refused."""
    item = {"id": "a", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    async with connect(sim) as client:
        await _create_item(client, "a")
        await client.send("conversation.item.create", item={**item, "id": "b"}, previous_item_id="nowhere")
        unknown = (await client.next_event())["error"]
        await client.send("conversation.item.create", item=item)
        duplicate = (await client.next_event())["error"]
        assert (await _create_item(client, "c"))[0]["previous_item_id"] == "a"
    assert unknown["code"] == "item_create_invalid_previous_item_id"
    assert duplicate["code"] == "item_create_duplicate_item_id"
    assert duplicate["message"] == "Error adding item: an item with id 'a' already exists."
    assert duplicate["param"] is None


async def test_item_is_retrieved_and_deleted(sim: Simulator) -> None:
    """Operations on a deleted item are refused."""
    async with connect(sim) as client:
        await _create_item(client, "a")
        await client.send("conversation.item.retrieve", item_id="a")
        assert (await client.next_event())["item"]["id"] == "a"
        await client.send("conversation.item.delete", item_id="a")
        assert (await client.next_event())["type"] == "conversation.item.deleted"
        for verb in ("retrieve", "delete", "truncate"):
            await client.send(f"conversation.item.{verb}", item_id="a", content_index=0, audio_end_ms=0)
            assert (await client.next_event())["error"]["code"] == f"item_{verb}_invalid_item_id"


async def test_assistant_audio_is_truncated(sim: Simulator) -> None:
    """The answer names the item, the part and the position."""
    async with connect(sim) as client:
        events = await client.speak(1_000, "rate_limits.updated")
        _, assistant = (e["item"]["id"] for e in events if e["type"] == "conversation.item.added")
        await client.send("conversation.item.truncate", item_id=assistant, content_index=0, audio_end_ms=400)
        truncated = await client.next_event()
    assert truncated["type"] == "conversation.item.truncated"
    assert list(truncated) == ["type", "event_id", "item_id", "content_index", "audio_end_ms"]


async def test_history_sent_in_one_burst_is_answered_in_order(sim: Simulator) -> None:
    """The burst has items of all roles and a response.create."""
    messages = [("system", "input_text"), ("user", "input_text"), ("assistant", "output_text"), ("user", "input_text")]
    async with connect(sim) as client:
        for at, (role, kind) in enumerate(messages):
            content = [{"type": kind, "text": f"line {at}"}]
            await client.send("conversation.item.create", item={"type": "message", "role": role, "content": content})
        await client.send("response.create", response={"output_modalities": ["text"]})
        events = await client.read_until("response.done")
    assert event_types(events)[:9] == [*["conversation.item.added", "conversation.item.done"] * 4, "response.created"]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "line 3"
