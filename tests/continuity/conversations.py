"""Random conversations of a caller, and what has to hold after each, whatever was lost in it."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from service.simulator import End
from service.simulator.record import ConnectionRecord
from tests.continuity.caller import SAMPLES_PER_MS, Caller

ENDS: Final = (End.RESET, End.FIN, End.close(1011), End.EXPIRE)
TOOL: Final = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}


def is_answered(caller: Caller, before: int) -> bool:
    """Whether an answer has been completed since, and none is open."""
    done = caller.of_type("response.done")
    is_idle = len(done) == caller.count("response.created")
    return is_idle and sum(event["response"]["status"] == "completed" for event in done) > before


def completed(caller: Caller) -> int:
    """How many answers have been completed."""
    return sum(event["response"]["status"] == "completed" for event in caller.of_type("response.done"))


async def speak(caller: Caller, rng: random.Random) -> None:
    """A turn that voice activity detection ends, and its answer."""
    before = completed(caller)
    caller.speak(rng.choice((200, 400, 900)))
    caller.be_silent(rng.choice((700, 1000)))
    await caller.until(lambda: is_answered(caller, before))


async def type_text(caller: Caller, rng: random.Random) -> None:
    """A typed message, and its answer."""
    before = completed(caller)
    caller.say(f"text {rng.random()}")
    caller.send("response.create")
    await caller.until(lambda: is_answered(caller, before))


async def use_tool(caller: Caller, _: random.Random) -> None:
    """A function call, its output, and the answer to that."""
    before = completed(caller)
    caller.say("look")
    caller.send("response.create", response={"tools": [TOOL], "tool_choice": {"type": "function", "name": "look"}})
    await caller.until(lambda: is_answered(caller, before))
    call = caller.of_type("response.function_call_arguments.done")[-1]["call_id"]
    caller.send("conversation.item.create", item={"type": "function_call_output", "call_id": call, "output": "{}"})
    before = completed(caller)
    caller.send("response.create")
    await caller.until(lambda: is_answered(caller, before))


async def update(caller: Caller, rng: random.Random) -> None:
    """Other instructions."""
    before = caller.count("session.updated")
    caller.send("session.update", session={"type": "realtime", "instructions": f"{rng.random()}"})
    await caller.until("session.updated", before + 1)


async def delete(caller: Caller, rng: random.Random) -> None:
    """One of the messages is deleted, if there is one: an output without its call could not be sent again."""
    added = [event["item"] for event in caller.of_type("conversation.item.added")]
    messages = [item["id"] for item in added if item["type"] == "message" and item["id"] in caller.items]
    if messages:
        before = caller.count("conversation.item.deleted")
        caller.send("conversation.item.delete", item_id=rng.choice(messages))
        await caller.until("conversation.item.deleted", before + 1)


async def truncate(caller: Caller, rng: random.Random) -> None:
    """The last answer is cut, if it was spoken."""
    spoken_items = [event["item_id"] for event in caller.of_type("response.output_audio.done")]
    cut = [event["item_id"] for event in caller.of_type("conversation.item.truncated")]
    if spoken_items and caller.items and caller.items[-1] == spoken_items[-1] and spoken_items[-1] not in cut:
        before = caller.count("conversation.item.truncated")
        caller.send(
            "conversation.item.truncate",
            item_id=spoken_items[-1],
            content_index=0,
            audio_end_ms=rng.choice((0, 100)),
        )
        await caller.until("conversation.item.truncated", before + 1)


STEPS: Final[tuple[Callable[[Caller, random.Random], Any], ...]] = (
    speak,
    speak,
    type_text,
    use_tool,
    update,
    delete,
    truncate,
)


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation: the same steps for the same seed."""

    seed: int
    length: int

    async def hold(self, caller: Caller) -> None:
        """Hold it."""
        rng = random.Random(self.seed)
        for _ in range(self.length):
            await rng.choice(STEPS)(caller, rng)
        before = caller.count("session.updated")
        caller.send("session.update", session={"type": "realtime"})
        await caller.until("session.updated", before + 1)


class Upstreams(Protocol):
    """The upstream connections of one call."""

    @property
    def upstreams(self) -> list[ConnectionRecord]:
        """In the order of the dials."""

    @property
    def conversations(self) -> list[Any]:
        """The `ConversationRecord` of each of them."""


def check_words(found: Upstreams, caller: Caller) -> None:
    """Every sample that was spoken is in one turn that the client knows, or in one that it has deleted."""
    turns = {turn.item_id: turn.samples for conversation in found.conversations for turn in conversation.turns}
    known = [event["item"]["id"] for event in caller.of_type("conversation.item.added")]
    ranges = sorted(samples for item in known for samples in turns.get(item, ()))
    assert sum(end - start for start, end in ranges) == caller.said_ms * SAMPLES_PER_MS, ranges
    covered = 0
    for start, end in ranges:
        assert start == covered, ranges
        covered = end


def check_items(found: Upstreams, caller: Caller) -> None:
    """Upstream has the items that the client knows, in their order, but for answers that were cut at once."""
    conversations = [[item["id"] for item in conversation.items] for conversation in found.conversations]
    # The last one may be prepared, and not in sync yet.
    assert any(
        items == [item for item in caller.items if item in items] and set(caller.items) - set(items) <= cut_off(caller)
        for items in conversations[-2:]
    ), (conversations, caller.items)
    errors = [error["code"] for conversation in found.conversations for error in conversation.errors]
    assert set(errors) <= {"session_expired"}, errors


def cut_off(caller: Caller) -> set[str]:
    """The items of answers that were cut: without a word, or without all arguments of a call, they cannot be repeated."""
    truncated = {event["item_id"] for event in caller.of_type("conversation.item.truncated")}
    done = {event["response"]["id"]: event["response"]["status"] for event in caller.of_type("response.done")}
    added = caller.of_type("response.output_item.added")
    return truncated | {event["item"]["id"] for event in added if done[event["response_id"]] == "cancelled"}


def check_all(found: Upstreams, caller: Caller) -> None:
    """All of it."""
    caller.check()
    check_words(found, caller)
    check_items(found, caller)
    assert not caller.count("error")
