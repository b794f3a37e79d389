"""Clients that leave, drains, policies and limits while a session has no upstream, or two."""

import asyncio
from pathlib import Path

import pytest

from service.realtime.closing import close_payload
from service.realtime.frames import Opcode
from service.relay.drain import DrainSignals, DrainTiming
from service.simulator import Behaviour, End, Fault, Moment
from tests.clients_file.relays import TOKENS, table, write
from tests.continuity.caller import calling
from tests.continuity.relays import FAST, Stage, failing, prepare, renew, stage
from tests.continuity.test_recovery import is_alive
from tests.support.harness import eventually

LOSING = failing(Fault(Moment.AFTER_SENT, End.RESET, event="session.updated"))


async def upstream_is_left(found: Stage) -> None:
    """Wait until no upstream connection is left."""
    await eventually(lambda: all(record.closed for record in found.simulator.connections), 5)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_client_that_leaves_while_a_connection_is_prepared_ends_both(how: str) -> None:
    """One ending, and no connection is left."""
    async with stage() as found, calling(found.relay) as caller:
        await prepare(found, caller)
        if how == "reset":
            caller.client.reset()
        else:
            caller.client.send_frame(Opcode.CLOSE, close_payload(1000))
        assert await found.ended() == ("client_lost" if how == "reset" else "client_closed")
        await upstream_is_left(found)


async def test_drain_drops_what_is_prepared_and_renews_nothing() -> None:
    """The session goes on until the drain's deadline."""
    async with stage() as found, calling(found.relay) as caller:
        await prepare(found, caller)
        for session in found.relay.app.sessions:
            session.announce_drain(60)
        await eventually(lambda: found.upstreams[1].closed)
        await is_alive(caller)
        assert found.swaps("renewal") == found.swaps("forced") == 0


async def test_recovery_goes_on_during_a_drain() -> None:
    """Until it closes the remaining sessions: this one ends as others do."""
    async with stage(LOSING) as found, calling(found.relay) as caller:
        signals = DrainSignals()
        drain = asyncio.ensure_future(found.relay.app.drainer.drain(DrainTiming(60, 0.1), signals))
        await eventually(lambda: found.relay.app.drainer.is_draining)
        caller.send("session.update", session={"type": "realtime"})
        await eventually(lambda: found.swaps("loss") == 1)
        await is_alive(caller)
        signals.close_now.set()
        await asyncio.gather(drain, caller.until_over())
        assert await found.ended() == "relay_draining"


async def test_recovery_that_a_drain_cuts_ends_for_the_drain() -> None:
    """As every session that is open then: the client may connect again at once."""
    hanging = Behaviour(scenario="hang")
    async with stage(LOSING, hanging) as found, calling(found.relay) as caller:
        caller.send("session.update", session={"type": "realtime"})
        await found.simulator.wait_dials(found.probes + 2)
        await found.relay.app.drainer.drain(DrainTiming(0.1, 0.0), DrainSignals())
        await caller.until_over()
        assert await found.ended() == "relay_draining"
        assert caller.of_type("error")[-1]["error"]["code"] == "relay_draining"
        await upstream_is_left(found)


async def test_limit_of_the_session_holds_while_upstream_is_missing() -> None:
    """The operator ends it."""
    async with stage(LOSING, Behaviour(scenario="hang")) as found, calling(found.relay) as caller:
        caller.send("session.update", session={"type": "realtime"})
        await found.simulator.wait_dials(found.probes + 2)
        [session] = found.relay.app.sessions
        session.end("ended_by_operator")
        await caller.until_over()
        assert await found.ended() == "ended_by_operator"
        await upstream_is_left(found)


async def test_flood_of_the_client_ends_the_session_while_upstream_is_missing() -> None:
    """Its limits hold meanwhile."""
    hanging = Behaviour(scenario="hang")
    async with (
        stage(LOSING, hanging, RELAY_MAX_MESSAGES_PER_SECOND="50") as found,
        calling(found.relay) as caller,
    ):
        caller.send("session.update", session={"type": "realtime"})
        await found.simulator.wait_dials(found.probes + 2)
        for _ in range(1_000):
            caller.be_silent(20)
        await caller.until_over()
        assert await found.ended() == "rate_exceeded"
        await upstream_is_left(found)


async def test_end_by_the_operator_while_a_connection_is_prepared_closes_both() -> None:
    """Also in the dial of it."""
    for second in (Behaviour(), Behaviour(scenario="hang")):
        async with stage(FAST, second) as found, calling(found.relay) as caller:
            caller.speak(100)  # no boundary: it stays prepared
            await caller.until("input_audio_buffer.speech_started")
            await renew(found)
            await eventually(lambda: found.simulator.dials_left() == 0, 10)
            dials = len(found.simulator.connections)
            [session] = found.relay.app.sessions
            session.end("ended_by_operator")
            await caller.until_over()
            assert await found.ended() == "ended_by_operator"
            await upstream_is_left(found)
            assert len(found.simulator.connections) == dials


async def test_flood_of_the_client_while_a_connection_is_prepared_ends_the_session() -> None:
    """As without one; neither connection is left."""
    async with stage(RELAY_MAX_MESSAGES_PER_SECOND="50") as found, calling(found.relay) as caller:
        await prepare(found, caller)
        for _ in range(1_000):
            caller.be_silent(20)
        await caller.until_over()
        assert await found.ended() == "rate_exceeded"
        await upstream_is_left(found)


async def test_limit_of_the_session_while_a_connection_is_prepared_ends_it() -> None:
    """It counts from the beginning of the call."""
    async with stage(RELAY_MAX_SESSION_SECONDS="3") as found, calling(found.relay) as caller:
        await prepare(found, caller)
        await caller.until_over()
        assert await found.ended() == "max_duration"
        await upstream_is_left(found)


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ("", 14400),
        ("max_session_seconds = 3900", 3900),
        ("max_session_seconds = 600", 600),
        ('max_session_seconds = "unlimited"', 0),
    ],
)
async def test_maximum_duration_that_a_client_has_holds_whatever_its_value(
    tmp_path: Path, lines: str, seconds: float
) -> None:
    """3900 seconds are the default of the setting as well."""
    file = tmp_path / "clients.toml"
    write(file, table("kiosk", lines))
    headers = {"Authorization": f"Bearer {TOKENS['kiosk']}"}
    async with stage(RELAY_CLIENTS_FILE=str(file)) as found, calling(found.relay, headers=headers):
        [session] = found.relay.app.sessions
        assert session._watch._limits.max_session_seconds == seconds


@pytest.mark.parametrize(
    ("settings", "seconds"),
    [
        ({}, 14400),
        ({"RELAY_CONTINUITY_MAX_SECONDS": "7200"}, 7200),
        ({"RELAY_MAX_SESSION_SECONDS": "600"}, 600),
        ({"RELAY_MAX_SESSION_SECONDS": "3900"}, 3900),
    ],
)
async def test_maximum_duration_is_that_of_continuity_unless_the_operator_set_one(
    settings: dict[str, str], seconds: float
) -> None:
    """What is set bounds the whole call."""
    async with stage(default=Behaviour(), pace=0, **settings) as found, calling(found.relay):
        [session] = found.relay.app.sessions
        assert session._watch._limits.max_session_seconds == seconds
