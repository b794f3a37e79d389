"""A renewal that falls into half a large message waits for the rest of it."""

import json
import os
from collections import Counter
from math import inf

import pytest

from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import MAX_EVENT_BYTES
from service.relay.continuity.swapper import Swapper
from service.relay.pipe import Pipe
from service.simulator import Behaviour, End, Fault, Moment, response
from service.wire.leg import Leg
from tests.continuity.caller import calling
from tests.continuity.relays import force, renew, session_of, stage
from tests.continuity.test_recovery import is_alive
from tests.support.harness import eventually


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the end of the time for a switch is handled, within a tick of the session and else; and its ticks."""
    counts: Counter[str] = Counter()
    tick, force, ticking = Swapper.tick, Swapper._force, []

    def counted_tick(swapper: Swapper) -> None:
        counts["ticks"] += 1
        ticking.append(swapper)
        tick(swapper)
        ticking.pop()

    def counted_force(swapper: Swapper) -> None:
        counts["in ticks" if ticking else "else"] += 1
        force(swapper)

    monkeypatch.setattr(Swapper, "tick", counted_tick)
    monkeypatch.setattr(Swapper, "_force", counted_force)
    return counts


async def wait_some_ticks(calls: Counter[str]) -> None:
    """Wait until the switch is overdue, and for some time then: it is tried once, and whenever the session ticks."""
    await eventually(lambda: calls["in ticks"] >= 4, 20)
    assert calls["else"] <= 1


def item_of(characters: int) -> bytes:
    """The frame of an item with so much text."""
    content = [{"type": "input_text", "text": "x" * characters}]
    item = {"id": "item_large", "type": "message", "role": "user", "content": content}
    event = {"type": "conversation.item.create", "item": item}
    return build_frame(Opcode.TEXT, json.dumps(event).encode(), os.urandom(4))


async def test_half_a_message_of_the_client_does_not_delay_a_renewal() -> None:
    """Nothing of it is forwarded before its last byte: it arrives at the next connection, once."""
    async with stage() as found, calling(found.relay) as caller:
        frame = item_of(300_000)
        caller.answers_pings = False  # within the frame
        caller.client.writer.write(frame[: len(frame) // 2])
        await eventually(lambda: session_of(found)._to_upstream._scanner.missing_bytes)
        await renew(found)
        await eventually(lambda: found.swaps("renewal") == 1, 10)
        caller.client.writer.write(frame[len(frame) // 2 :])
        await caller.until("conversation.item.done")
        await is_alive(caller)
        assert not found.conversations[0].items
        assert [item["id"] for item in found.conversations[1].items] == caller.items == ["item_large"]
        caller.check()


async def test_half_a_message_of_the_client_that_is_too_large_stops_a_renewal() -> None:
    """A part of it was forwarded, and all of it cannot be kept: the session stays, also after its end."""
    without_limit = Behaviour(expires_at="absent")  # it is renewed by the setting, and lives on
    async with stage(without_limit, RELAY_RENEW_AFTER_SECONDS="4") as found, calling(found.relay) as caller:
        frame = item_of(MAX_EVENT_BYTES + 1000)
        caller.answers_pings = False  # within the frame
        caller.client.writer.write(frame[:-1000])
        await eventually(lambda: found.relay.events("session.not_renewable"))
        caller.client.writer.write(frame[-1000:])
        await caller.until("conversation.item.done")
        await eventually(lambda: session_of(found)._swapper._swap.next_at() == inf, 10)
        await is_alive(caller)
        assert len(found.upstreams) == 1


def held_within_an_event(monkeypatch: pytest.MonkeyPatch) -> list[Leg]:
    """Stop reading upstream after the first part of an event that is forwarded in parts; it is in the list then."""
    held: list[Leg] = []
    forward = Pipe._forward

    def call(pipe: Pipe, raw: bytes, *, mid_frame: bool = False) -> None:
        forward(pipe, raw, mid_frame=mid_frame)
        if mid_frame and pipe._from_upstream and not held:
            held.append(pipe._source)
            pipe._source.hold("no_receiver")

    monkeypatch.setattr(Pipe, "_forward", call)
    return held


async def test_renewal_waits_for_the_end_of_a_large_event_of_upstream(
    calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gets the event whole. At its end the switch is overdue, and follows without waiting for a tick."""
    monkeypatch.setattr(response, "_CHUNK_MS", 20_000)  # 1.3 MB of base64 in one event, which is forwarded as it comes
    held = held_within_an_event(monkeypatch)
    async with stage(Behaviour(answer_seconds=20)) as found, calling(found.relay) as caller:
        caller.say("hello")
        caller.send("response.create")
        await eventually(lambda: held)
        await renew(found)
        await force(found)
        await wait_some_ticks(calls)
        assert len(found.upstreams) == 2
        assert found.swaps("renewal") == found.swaps("forced") == 0
        before = calls["else"]
        held[0].release("no_receiver")
        await eventually(lambda: found.swaps("forced") == 1, 10)
        assert calls["else"] > before
        await is_alive(caller)
        await caller.until(lambda: caller.count("response.done") == caller.count("response.created"))
        assert caller.count("response.output_audio.delta") == caller.count("response.created")
        assert [item["id"] for item in found.conversations[1].items] == caller.items
        caller.check()


async def test_event_of_upstream_that_never_ends_ends_the_session_with_its_connection(
    calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else can complete what the client has got."""
    monkeypatch.setattr(response, "_CHUNK_MS", 4_000)  # 256 kB of base64 in one event, which is forwarded as it comes
    half = Fault(Moment.MID_FRAME, End.SILENCE, event="response.output_audio.delta")
    async with stage(Behaviour(answer_seconds=8, faults=(half,))) as found, calling(found.relay) as caller:
        caller.say("hello")
        caller.send("response.create")
        await eventually(lambda: not session_of(found)._to_client.at_message_boundary)
        await renew(found)
        await force(found)
        await wait_some_ticks(calls)
        assert len(found.upstreams) == 2
        assert found.swaps("renewal") == found.swaps("forced") == 0
        session_of(found)._connected.leg.abort()
        await caller.until_over()
        assert await found.ended() == "upstream_lost"
        assert found.relay.events("session.not_recovered")[0]["reason"] == "inside_a_message"
        await eventually(lambda: all(record.closed for record in found.simulator.connections))
