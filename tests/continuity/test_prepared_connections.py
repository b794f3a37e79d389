"""A connection that waits to take over may be lost without a sign: it is pinged, and a silent one is replaced."""

import pytest

from service.relay.continuity import preparation
from service.simulator import Behaviour, End, Fault, Moment
from tests.continuity.caller import calling
from tests.continuity.relays import FAST, failing, renew, session_of, stage
from tests.continuity.test_recovery import is_alive
from tests.support.harness import eventually

SILENT = failing(Fault(Moment.AFTER_SENT, End.SILENCE, event="conversation.item.done"))
"""In step, then without an event or a pong."""


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that upstream has sent counts for a later moment."""
    monkeypatch.setattr(preparation, "PING_SECONDS", 0.1)
    monkeypatch.setattr(preparation, "_FRESH_SECONDS", -1.0)


async def test_silent_connection_does_not_take_over_at_a_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is prepared, and the session stays on its connection until then."""
    answer_seconds = preparation.ANSWER_SECONDS
    monkeypatch.setattr(preparation, "ANSWER_SECONDS", 0.5)
    async with stage(FAST, SILENT) as found, calling(found.relay) as caller:
        caller.say("hello")
        await caller.until("conversation.item.done")
        await renew(found)
        await eventually(lambda: found.relay.events("session.renewal_failed"), 10)
        monkeypatch.setattr(preparation, "ANSWER_SECONDS", answer_seconds)  # the next one answers, perhaps late
        await renew(found)
        await eventually(lambda: found.swaps("renewal") == 1, 10)
        [line] = found.relay.events("session.renewal_failed")
        assert (line["reason"], len(found.upstreams)) == ("silent", 3)
        assert found.upstreams[1].closed
        await is_alive(caller)
        assert [item["id"] for item in found.conversations[2].items] == caller.items
        caller.check()


async def test_silent_connection_does_not_take_over_from_one_that_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are lost in one failure of the network, however lately it has sent something: a third one is dialled in time."""
    monkeypatch.setattr(preparation, "_FRESH_SECONDS", 3_600.0)
    monkeypatch.setattr(preparation, "ANSWER_SECONDS", 0.5)
    async with stage(FAST, SILENT) as found, calling(found.relay) as caller:
        caller.speak(100)  # no boundary: it waits
        caller.say("hello")
        await caller.until("conversation.item.done")
        await renew(found)
        await eventually(lambda: len(found.conversations) == 2 and found.upstreams[1].ended_by, 10)
        session_of(found)._connected.leg.abort()
        await eventually(lambda: found.swaps("loss") == 1)
        assert len(found.upstreams) == 3
        await is_alive(caller)
        assert [item["id"] for item in found.conversations[2].items] == caller.items
        caller.check()


async def test_connection_that_waits_is_pinged() -> None:
    """So that neither side nor a proxy forgets it, and that its loss is noticed before it is needed."""
    async with stage() as found, calling(found.relay) as caller:
        caller.speak(100)
        await caller.until("input_audio_buffer.speech_started")
        await renew(found)
        await eventually(lambda: len(found.upstreams) == 2 and found.upstreams[1].pings_received >= 2, 10)
        assert found.swaps("renewal") == 0
        caller.be_silent(800)
        await caller.until("response.done")
        await eventually(lambda: found.swaps("renewal") == 1, 10)
        await is_alive(caller)
        caller.check()


async def test_items_that_exceed_their_bound_at_the_loss_delay_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of the answer that it cuts do: the oldest item is deleted at the prepared connection, too, at once."""
    monkeypatch.setattr(preparation, "PING_SECONDS", 3_600.0)  # no pong brings the next look
    async with stage(Behaviour(pace=1, answer_seconds=30)) as found, calling(found.relay) as caller:
        for number in range(3):
            caller.say(f"text {number} " + "x" * 300)
        await caller.until("conversation.item.done", 3)
        caller.send("response.create")
        await caller.until("response.output_audio.delta", 5)
        await renew(found)
        session = session_of(found)
        await eventually(lambda: session._swapper._swap.state == "ready", 10)
        items = session._kept.continuity.mirror.items
        items._limit = items.bytes
        session._connected.leg.abort()
        await eventually(lambda: found.swaps("loss") == 1)
        assert found.relay.metric("realtime_relay_lost_turns_total", reason="items_over_limit") == 1
        assert (len(found.upstreams), caller.items[0]) == (2, next(iter(items.dropped)))
        await caller.until("response.created", 2)
        assert [item["id"] for item in found.conversations[1].items][:2] == caller.items[1:3]
