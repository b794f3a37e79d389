"""Sessions that can no longer be continued while they have two upstream connections, or none."""

from math import inf

from service.simulator import Behaviour, End, Fault, Moment
from tests.continuity.caller import Caller, calling
from tests.continuity.relays import Stage, failing, prepare, renew, session_of, stage
from tests.continuity.test_recovery import is_alive
from tests.support.harness import eventually

LOSING = failing(Fault(Moment.AFTER_SENT, End.RESET, event="session.updated"))


def send_what_cannot_be_kept(caller: Caller) -> None:
    """Send an item that is forwarded and too intricate to be parsed."""
    caller.say("hello", metadata=[0] * 20_000)


async def is_reported(found: Stage, reason: str = "kept_event_too_intricate") -> None:
    """Wait for the report of it."""
    await eventually(lambda: found.relay.metric("realtime_relay_not_renewable_total", reason=reason) == 1)


async def test_event_that_is_too_large_is_reported_as_such() -> None:
    """With its own remedy; it is forwarded."""
    async with stage() as found, calling(found.relay) as caller:
        caller.say("x" * 1_100_000)
        await is_reported(found, "kept_event_too_large")
        await is_alive(caller)
        [line] = found.relay.events("session.not_renewable")
        assert "1 MiB" in line["remedy"]


async def test_prepared_connection_that_lacks_an_item_does_not_take_over() -> None:
    """It is dropped: the session goes on at the old one, which has all of the conversation."""
    async with stage() as found, calling(found.relay) as caller:
        await prepare(found, caller)
        send_what_cannot_be_kept(caller)
        await is_reported(found)
        await eventually(lambda: found.upstreams[1].closed)
        await is_alive(caller)
        assert not found.upstreams[0].closed
        assert found.swaps("renewal") == found.swaps("forced") == 0
        assert found.swaps("renewal", "failed") == 0  # the provider has refused nothing


async def test_renewal_waits_for_an_approval_and_does_not_fail() -> None:
    """Its alert is for what the relay or the provider does; a user may take minutes."""
    async with stage() as found, calling(found.relay):
        approvals = session_of(found)._kept.continuity.mirror.conversation.approvals
        approvals.add("item_1")
        await renew(found)
        await eventually(lambda: found.swaps("renewal", "postponed") == 1, 10)
        assert len(found.upstreams) == 1
        approvals.clear()
        await eventually(lambda: found.swaps("renewal") == 1, 10)
        assert found.swaps("renewal", "failed") == 0
        assert found.swaps("renewal", "postponed") == 1
        [line] = found.relay.events("session.renewal_postponed")
        assert line["reason"] == "mcp_approval"


async def test_session_that_cannot_be_continued_is_not_renewed_and_does_not_fail() -> None:
    """It is counted as not renewable, once; nothing is tried again and again."""
    async with (
        stage(Behaviour(expires_at="absent"), RELAY_RENEW_AFTER_SECONDS="4") as found,
        calling(found.relay) as caller,
    ):
        send_what_cannot_be_kept(caller)
        await is_reported(found)
        swap = session_of(found)._swapper._swap
        await eventually(lambda: swap.next_at() == inf, 10)
        assert found.swaps("renewal", "failed") == found.swaps("renewal", "postponed") == 0
        assert len(found.upstreams) == 1
        await is_alive(caller)


async def test_session_that_cannot_be_continued_ends_with_the_reason_of_its_loss() -> None:
    """Another connection would have neither its configuration nor its conversation."""
    async with (
        stage(LOSING, Behaviour(scenario="hang"), RELAY_DIAL_TIMEOUT_SECONDS="2") as found,
        calling(found.relay) as caller,
    ):
        caller.send("session.update", session={"type": "realtime", "instructions": "be brief"})
        await found.simulator.wait_dials(found.probes + 2)
        send_what_cannot_be_kept(caller)
        await caller.until_over()
        assert await found.ended() == "upstream_lost"
        assert found.swaps("loss", "ended") == 1
        await eventually(lambda: all(record.closed for record in found.simulator.connections), 5)


async def test_upstream_that_lacks_what_cannot_be_kept_does_not_take_over() -> None:
    """Also if it is in step before the next tick."""
    async with stage(LOSING, Behaviour(round_trip_ms=50)) as found, calling(found.relay) as caller:
        caller.send("session.update", session={"type": "realtime", "instructions": "be brief"})
        await found.simulator.wait_dials(found.probes + 2)
        send_what_cannot_be_kept(caller)
        await caller.until_over()
        assert await found.ended() == "upstream_lost"
        assert found.swaps("loss") == 0
        [line] = found.relay.events("session.not_recovered")
        assert line["reason"] == "kept_event_too_intricate"
