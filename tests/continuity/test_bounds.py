"""Large conversations and new connections that refuse: what is kept is bounded, and what is missing is counted."""

import pytest

from service.simulator import Behaviour, End, Fault, Moment, response
from tests.continuity.caller import Caller, calling
from tests.continuity.relays import FAST, failing, renew, stage
from tests.continuity.test_recovery import is_alive
from tests.support.harness import eventually

ITEM_BYTES, IMAGE_BYTES = 524_288, 4 << 20
"""Kept of the items of one session, and of those with images."""
MAX_SHARED_KEYS = 29
IMAGE = "data:image/png;base64," + "A" * 399_996
TOOLS = [
    {"type": "function", "name": f"tool_{number}", "description": "x" * 3_000, "parameters": {"type": "object"}}
    for number in range(100)
]


def refusing(event: str, count: int, *, every: bool = False) -> Behaviour:
    """A connection that refuses the `count`-th event of a type, or all from it on, and goes on."""
    return failing(Fault(Moment.RECEIVED, End.error("invalid_value"), event=event, count=count, every=every))


async def type_five(caller: Caller) -> None:
    """Five typed messages."""
    for number in range(5):
        caller.say(f"text {number}")
    await caller.until("conversation.item.done", 5)


async def test_half_a_large_event_that_was_forwarded_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can complete it: the client's connection ends without a close frame, and nothing is dialled."""
    monkeypatch.setattr(response, "_CHUNK_MS", 4_000)  # 256 kB of base64 in one event, which is forwarded as it comes
    half = Fault(Moment.MID_FRAME, End.RESET, event="response.output_audio.delta")
    async with stage(Behaviour(answer_seconds=8, faults=(half,))) as found, calling(found.relay) as caller:
        caller.say("hello")
        caller.send("response.create")
        await caller.until_over()
        assert await found.ended() == "upstream_lost"
        assert (caller.close, caller.count("error"), len(found.upstreams)) == (None, 0, 1)
        assert not caller.count("response.output_audio.delta")
        [line] = found.relay.events("session.not_recovered")
        assert line["reason"] == "inside_a_message"


async def test_renewal_goes_on_without_an_item_that_is_refused() -> None:
    """It is counted, and the client can still delete it."""
    async with stage(FAST, refusing("conversation.item.create", 3)) as found, calling(found.relay) as caller:
        await type_five(caller)
        await renew(found)
        await eventually(lambda: found.swaps("renewal") == 1, 10)
        [line] = found.relay.events("session.renewed")
        assert (line["items_sent"], line["items_refused"]) == (5, 1)
        assert found.relay.metric("realtime_relay_replayed_items_total", result="refused") == 1
        refused = caller.items[2]
        assert [item["id"] for item in found.conversations[1].items] == [i for i in caller.items if i != refused]
        caller.send("conversation.item.delete", item_id=refused)
        await caller.until("conversation.item.deleted")
        await is_alive(caller)
        assert not caller.count("error")
        caller.check()


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (refusing("conversation.item.create", 1, every=True), "items_refused"),
        (refusing("session.update", 1, every=True), "update_refused"),
        (Behaviour(session_patch={"instructions": "Other."}), "update_unequal"),
    ],
    ids=["items", "update", "unequal"],
)
async def test_connection_that_cannot_be_made_equal_is_not_used_for_a_renewal(second: Behaviour, reason: str) -> None:
    """The session stays on its connection, and has another one before its end."""
    async with stage(FAST, second) as found, calling(found.relay) as caller:
        caller.send("session.update", session={"type": "realtime", "instructions": "Speak slowly."})
        await type_five(caller)
        await renew(found)
        await eventually(lambda: found.swaps("renewal", "failed") == 1, 10)
        assert found.relay.events("session.renewal_failed")[0]["reason"] == reason
        await renew(found)
        await eventually(lambda: found.swaps("renewal") == 1, 10)
        await is_alive(caller)
        third = found.conversations[-1]
        assert ([item["id"] for item in third.items], caller.count("error")) == (caller.items, 0)
        assert third.sessions[-2]["instructions"] == "Speak slowly."
        caller.check()


async def test_recovery_goes_on_without_items_and_with_another_configuration() -> None:
    """A call with a difference is better than none; both are in the log, as numbers and names of keys."""
    refused = Fault(Moment.RECEIVED, End.error("invalid_value"), event="conversation.item.create", every=True)
    second = Behaviour(session_patch={"instructions": "Other."}, faults=(refused,))
    async with stage(Behaviour(), second) as found, calling(found.relay) as caller:
        await type_five(caller)
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        [line] = found.relay.events("session.recovered")
        assert (line["items_sent"], line["items_refused"], line["differing"]) == (5, 5, ["instructions"])
        await is_alive(caller)
        assert not caller.count("error")
        caller.check()


@pytest.mark.parametrize(
    ("items", "bound", "content"),
    [
        (250, ITEM_BYTES, {"type": "input_text", "text": "word " * 800}),
        (14, IMAGE_BYTES, {"type": "input_image", "image_url": IMAGE}),
    ],
    ids=["texts", "images"],
)
async def test_items_beyond_the_bound_are_the_oldest(items: int, bound: int, content: dict[str, str]) -> None:
    """The newest are sent again, in their order, and the client sees nothing of the others."""
    message = {"type": "message", "role": "user", "content": [content]}
    async with stage() as found, calling(found.relay) as caller:
        for number in range(items):
            caller.send("conversation.item.create", item=message)
            await caller.until("conversation.item.done", number + 1)
        assert found.relay.metric("realtime_relay_continuity_bytes") < 2 * bound
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1, 20)
        again = [item["id"] for item in found.conversations[1].items]
        assert again == caller.items[-len(again) :]
        assert items / 4 < len(again) < items
        [line] = found.relay.events("session.recovered")
        assert bound / 2 < line["bytes_sent"] < 2 * bound
        await is_alive(caller)
        assert not caller.count("error")
        caller.check()


async def test_tools_of_300_kilobytes_are_restored() -> None:
    """They do not count as items."""
    async with stage() as found, calling(found.relay) as caller:
        caller.send("session.update", session={"type": "realtime", "tools": TOOLS})
        await caller.until("session.updated")
        await type_five(caller)
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        assert found.conversations[1].sessions[-1]["tools"] == found.conversations[0].sessions[-1]["tools"]
        assert len(found.conversations[1].sessions[-1]["tools"]) == 100
        assert [item["id"] for item in found.conversations[1].items] == caller.items
        await is_alive(caller)
        caller.check()


async def test_session_has_few_enough_attributes_to_share_their_names() -> None:
    """CPython 3.11 shares the keys of up to 29; with more each session has a dictionary of its own, of 1.6 kB more."""
    async with stage() as found, calling(found.relay):
        [session] = found.relay.app.sessions
        assert len(vars(session)) <= MAX_SHARED_KEYS
