"""Conversation items: their order, and what can be done with them."""

from service.simulator import Simulator
from tests.support.simulator_client import Caller, connected, kinds, voice


async def _add(caller: Caller, name: str, **more: object) -> list[dict[str, object]]:
    content = [{"type": "input_text", "text": name}]
    item = {"id": name, "type": "message", "role": "user", "content": content}
    await caller.send("conversation.item.create", item=item, **more)
    return [await caller.next(), await caller.next()]


async def test_an_item_is_added_and_done(sim: Simulator) -> None:
    """Each create is answered twice, with the client's own identifier and a completed item."""
    async with connected(sim) as caller:
        events = await _add(caller, "mine")
    assert kinds(events) == ["conversation.item.added", "conversation.item.done"]
    assert events[0]["item"] == {
        "id": "mine",
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "mine"}],
    }


async def test_items_go_where_they_are_told(sim: Simulator) -> None:
    """Without a previous item last, with root first, with a name after it."""
    async with connected(sim) as caller:
        places = [
            (await _add(caller, "a"))[0]["previous_item_id"],
            (await _add(caller, "b"))[0]["previous_item_id"],
            (await _add(caller, "first", previous_item_id="root"))[0]["previous_item_id"],
            (await _add(caller, "between", previous_item_id="a"))[0]["previous_item_id"],
            (await _add(caller, "last"))[0]["previous_item_id"],
        ]
    assert places == [None, "a", None, "a", "b"]


async def test_an_unknown_place_and_a_known_name_add_nothing(sim: Simulator) -> None:
    """An unknown previous item and a duplicate identifier are refused, and the next item follows the last good one."""
    item = {"id": "a", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    async with connected(sim) as caller:
        await _add(caller, "a")
        await caller.send("conversation.item.create", item={**item, "id": "b"}, previous_item_id="nowhere")
        unknown = (await caller.next())["error"]
        await caller.send("conversation.item.create", item=item)
        duplicate = (await caller.next())["error"]
        assert (await _add(caller, "c"))[0]["previous_item_id"] == "a"
    assert unknown["code"] == "item_create_invalid_previous_item_id"
    assert duplicate["code"] == "item_create_duplicate_item_id"
    assert duplicate["message"] == "Error adding item: an item with id 'a' already exists."
    assert duplicate["param"] is None


async def test_items_can_be_read_and_deleted(sim: Simulator) -> None:
    """A known item is retrieved and deleted; an unknown one is neither."""
    async with connected(sim) as caller:
        await _add(caller, "a")
        await caller.send("conversation.item.retrieve", item_id="a")
        assert (await caller.next())["item"]["id"] == "a"
        await caller.send("conversation.item.delete", item_id="a")
        assert (await caller.next())["type"] == "conversation.item.deleted"
        for verb in ("retrieve", "delete", "truncate"):
            await caller.send(f"conversation.item.{verb}", item_id="a", content_index=0, audio_end_ms=0)
            assert (await caller.next())["error"]["code"] == f"item_{verb}_invalid_item_id"


async def test_the_assistants_audio_can_be_truncated(sim: Simulator) -> None:
    """What was not heard is cut: never more than there is, and never what the user said."""
    async with connected(sim) as caller:
        await caller.listen(turn_detection=None)
        await caller.append(voice(1_000))
        await caller.send("input_audio_buffer.commit")
        await caller.send("response.create")
        events = await caller.until("rate_limits.updated")
        user, assistant = (e["item"]["id"] for e in events if e["type"] == "conversation.item.added")
        for item_id, end_ms in ((assistant, 1_001), (user, 10)):
            await caller.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=end_ms)
            assert (await caller.next())["error"]["code"] == "invalid_value"
        await caller.send("conversation.item.truncate", item_id=assistant, content_index=0, audio_end_ms=400)
        cut = await caller.next()
    assert cut["type"] == "conversation.item.truncated"
    assert list(cut) == ["type", "event_id", "item_id", "content_index", "audio_end_ms"]


async def test_a_history_can_be_written_in_one_burst(sim: Simulator) -> None:
    """Items of all roles and a request sent at once are answered in order."""
    turns = [("system", "input_text"), ("user", "input_text"), ("assistant", "output_text"), ("user", "input_text")]
    async with connected(sim) as caller:
        for at, (role, kind) in enumerate(turns):
            content = [{"type": kind, "text": f"line {at}"}]
            await caller.send("conversation.item.create", item={"type": "message", "role": role, "content": content})
        await caller.send("response.create", response={"output_modalities": ["text"]})
        events = await caller.until("response.done")
    assert kinds(events)[:9] == [*["conversation.item.added", "conversation.item.done"] * 4, "response.created"]
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "line 3"
