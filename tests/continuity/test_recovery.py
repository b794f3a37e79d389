"""Recovery: what a client sees of a connection that upstream lost or closed, and when the session ends nevertheless."""

from typing import Any

import pytest

from service.failures import CATALOGUE
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode
from service.simulator import Behaviour, End, Fault, Moment
from tests.continuity.caller import SAMPLES_PER_MS, Caller, calling
from tests.continuity.relays import Stage, failing, stage
from tests.support.harness import eventually

RECOVERED = (
    End.RESET,
    End.FIN,
    End.EXPIRE,
    End.close(1001),
    End.close(1011),
    End.close(1012),
    End.close(1013),
    End.close(1013, "overloaded"),
)
ENDED = (
    (End.QUOTA, "upstream_closed"),
    (End.close(1000), "upstream_closed"),
    (End.close(1008), "upstream_closed"),
    (End.close(3000), "upstream_closed"),
    (End.close(4004), "upstream_closed"),
)
AFTER_UPDATE = Moment.AFTER_SENT


async def is_alive(caller: Caller) -> None:
    """Have the session answer once more."""
    updates = caller.count("session.updated")
    caller.send("session.update", session={"type": "realtime", "instructions": f"number {updates}"})
    await caller.until("session.updated", updates + 1)


def spoken(found: Stage, caller: Caller) -> list[tuple[int, int]]:
    """The numbered samples of the turns that the client knows, each as often as it is in one."""
    turns = {turn.item_id: turn.samples for conversation in found.conversations for turn in conversation.turns}
    return sorted(samples for item in caller.items for samples in turns.get(item, ()))


def everything(caller: Caller) -> list[tuple[int, int]]:
    """The samples that the client has said, as one turn each."""
    return [(0, caller.said_ms * SAMPLES_PER_MS)]


@pytest.mark.parametrize("end", RECOVERED, ids=str)
async def test_loss_of_an_idle_session_is_invisible(end: End) -> None:
    """One dial; the configuration and the items are there again, and the client has seen no event at all."""
    fault = Fault(AFTER_UPDATE, end, event="session.updated")
    async with stage(failing(fault)) as found, calling(found.relay) as caller:
        caller.say("before")
        await caller.until("conversation.item.done")
        caller.send("session.update", session={"type": "realtime", "instructions": "Speak slowly."})
        await eventually(lambda: found.swaps("loss") == 1)
        seen = [event["type"] for event in caller.events]
        await is_alive(caller)

        assert seen[-1] == "session.updated"
        assert [len(found.upstreams), caller.count("error")] == [2, 0]
        [_, second] = found.conversations
        assert caller.items == [item["id"] for item in second.items]
        assert second.sessions[-2]["instructions"] == "Speak slowly."
        assert not second.errors
        caller.check()
    [line] = found.relay.events("session.ended")
    assert (line["reason"], line["recoveries"], line["renewals"]) == ("client_lost", 1, 0)
    [recovered] = found.relay.events("session.recovered")
    assert (recovered["items_sent"], recovered["turns_lost"], recovered["attempts"]) == (1, 0, 1)


@pytest.mark.parametrize(("end", "reason"), ENDED, ids=str)
async def test_end_for_a_reason_that_stays_is_the_end_as_without_continuity(end: End, reason: str) -> None:
    """Key, credit, policy, or an orderly end: another connection would meet the same."""
    ends = []
    for path in ("&continuity=renew", ""):
        fault = Fault(AFTER_UPDATE, end, event="session.updated")
        async with (
            stage(failing(fault)) as found,
            calling(found.relay, f"/v1/realtime?model=gpt-realtime{path}") as caller,
        ):
            caller.send("session.update", session={"type": "realtime"})
            await caller.until_over()
            assert await found.ended() == reason
            assert len(found.upstreams) == 1
            ends.append((caller.close, [event["type"] for event in caller.events]))
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("scenario", "why"),
    [
        ("quota-exhausted", "quota_exhausted"),
        ("key-rejected", "key_rejected"),
        ("http-503", "timeout"),
        ("hang", "timeout"),
    ],
)
async def test_session_ends_with_the_original_reason_if_no_connection_is_found(scenario: str, why: str) -> None:
    """At once where no attempt can succeed, else after RELAY_RECOVERY_SECONDS."""
    fault = Fault(AFTER_UPDATE, End.RESET, event="session.updated")
    default, dial_seconds = Behaviour(scenario=scenario), "0.2" if scenario == "hang" else "2"
    times: dict[str, Any] = {"RELAY_RECOVERY_SECONDS": "2", "RELAY_DIAL_TIMEOUT_SECONDS": dial_seconds}
    async with stage(failing(fault), default=default, **times) as found, calling(found.relay) as caller:
        caller.send("session.update", session={"type": "realtime"})
        await caller.until_over()
        assert await found.ended() == "upstream_lost"
        assert caller.of_type("error")[-1]["error"]["code"] == "upstream_lost"
        assert caller.close is not None
        assert caller.close[0] == CATALOGUE["upstream_lost"].close_code
        assert found.swaps("loss", "ended") == 1
        [line] = found.relay.events("session.not_recovered")
        assert (line["reason"], line["attempts"] > 1) == (why, why == "timeout")


async def test_expiry_that_is_not_recovered_is_reported_as_by_the_provider() -> None:
    """Its error event was hidden, and comes before the close frame."""
    fault = Fault(AFTER_UPDATE, End.EXPIRE, event="session.updated")
    async with (
        stage(failing(fault), default=Behaviour(scenario="quota-exhausted")) as found,
        calling(found.relay) as caller,
    ):
        caller.send("session.update", session={"type": "realtime"})
        await caller.until_over()
        assert await found.ended() == "session_expired"
        assert caller.of_type("error")[-1]["error"]["code"] == "session_expired"
        assert caller.close is not None
        assert caller.close[0] == 1001


async def test_silent_upstream_is_replaced() -> None:
    """It answers no ping, which is a loss without any sign."""
    fault = Fault(AFTER_UPDATE, End.SILENCE, event="session.updated")
    async with stage(failing(fault)) as found, calling(found.relay) as caller:
        caller.send("session.update", session={"type": "realtime"})
        await caller.until("session.updated")
        [session] = found.relay.app.sessions
        upstream = session._upstream
        upstream.last_alive_at -= 60
        upstream.last_received_at -= 60
        session._watch.quiet_until = 0.0
        await eventually(lambda: found.swaps("loss") == 1)
        await is_alive(caller)
        caller.check()


@pytest.mark.parametrize(
    ("moment", "event"),
    [
        (Moment.RECEIVED, "input_audio_buffer.append"),
        (Moment.AFTER_SENT, "input_audio_buffer.speech_started"),
        (Moment.BEFORE_SENT, "input_audio_buffer.speech_stopped"),
        (Moment.AFTER_SENT, "input_audio_buffer.speech_stopped"),
        (Moment.AFTER_SENT, "input_audio_buffer.committed"),
        (Moment.AFTER_SENT, "conversation.item.added"),
        (Moment.AFTER_SENT, "conversation.item.done"),
        (Moment.AFTER_SENT, "response.created"),
        (Moment.AFTER_SENT, "response.output_audio.delta"),
        (Moment.AFTER_SENT, "response.output_item.done"),
    ],
)
async def test_turn_that_a_loss_cuts_is_heard_once_and_answered(moment: Moment, event: str) -> None:
    """Wherever it is cut; the client hears one whole answer."""
    fault = Fault(moment, End.RESET, event=event, count=40 if "append" in event else 1)
    async with stage(failing(fault)) as found, calling(found.relay) as caller:
        for _ in range(60):
            caller.speak(20)
        for _ in range(40):
            caller.be_silent(20)
        await caller.until(lambda: any(d["response"]["status"] == "completed" for d in caller.of_type("response.done")))
        await eventually(lambda: found.swaps("loss") == 1)
        await is_alive(caller)
        assert spoken(found, caller) == everything(caller)
        caller.check()


async def test_answer_is_asked_for_again_with_the_clients_own_request() -> None:
    """Its metadata survives, by which some SDKs find their answer."""
    fault = Fault(Moment.AFTER_SENT, End.RESET, event="response.output_audio.delta")
    async with stage(failing(fault)) as found, calling(found.relay) as caller:
        caller.say("hello")
        caller.send("response.create", response={"metadata": {"client_event_id": "mine"}})
        await caller.until("response.done", 2)
        first, second = (event["response"] for event in caller.of_type("response.done"))
        assert (first["status"], second["status"]) == ("cancelled", "completed")
        assert second["metadata"] == {"client_event_id": "mine"}
        caller.check()


async def test_answer_that_the_client_has_cancelled_is_not_asked_for_again() -> None:
    """The client gets the end of it, and nothing else."""
    fault = Fault(Moment.RECEIVED, End.RESET, event="response.cancel")
    async with stage(failing(fault), pace=1) as found, calling(found.relay) as caller:
        caller.say("hello")
        caller.send("response.create")
        await caller.until("response.output_audio_transcript.delta")
        caller.send("response.cancel")
        await eventually(lambda: found.swaps("loss") == 1)
        await is_alive(caller)
        assert [event["response"]["status"] for event in caller.of_type("response.done")] == ["cancelled"]
        assert not found.conversations[1].responses


async def test_half_an_event_that_is_read_whole_is_no_obstacle() -> None:
    """Nothing of it was forwarded; the next connection answers the request."""
    fault = Fault(Moment.MID_FRAME, End.RESET, event="session.updated")
    async with stage(failing(fault)) as found, calling(found.relay) as caller:
        caller.send("session.update", session={"type": "realtime", "instructions": "A" * 200_000})
        await caller.until("session.updated")
        assert caller.of_type("session.updated")[0]["session"]["instructions"] == "A" * 200_000
        caller.check()


async def test_events_that_end_every_upstream_end_the_session_after_three() -> None:
    """A poisonous event must not loop."""
    poison = Fault(Moment.RECEIVED, End.RESET, contains="poison")
    async with stage(default=failing(poison)) as found, calling(found.relay) as caller:
        caller.say("poison")
        await caller.until_over()
        assert await found.ended() == "upstream_lost"
        assert len(found.upstreams) == 1 + 3


@pytest.mark.parametrize("item", range(1, 6))
async def test_second_loss_during_the_replay_starts_it_again(item: int) -> None:
    """At each item of it."""
    first = Fault(AFTER_UPDATE, End.RESET, event="session.updated")
    second = Fault(Moment.RECEIVED, End.RESET, event="conversation.item.create", count=item)
    async with stage(failing(first), failing(second)) as found, calling(found.relay) as caller:
        for number in range(5):
            caller.say(f"text {number}")
        await caller.until("conversation.item.done", 5)
        caller.send("session.update", session={"type": "realtime"})
        await eventually(lambda: found.swaps("loss") == 1, 10)
        await is_alive(caller)
        assert [item["id"] for item in found.conversations[-1].items] == caller.items
        caller.check()


async def test_client_is_held_back_while_upstream_is_missing_and_loses_nothing() -> None:
    """Once what is kept reaches its bound, TCP keeps the words."""
    fault = Fault(AFTER_UPDATE, End.RESET, event="session.updated")
    hanging = Behaviour(scenario="hang")
    async with (
        stage(failing(fault), hanging, RELAY_DIAL_TIMEOUT_SECONDS="1", RELAY_CONTINUITY_AUDIO_BYTES="1000000") as found,
        calling(found.relay) as caller,
    ):
        caller.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        await caller.until("session.updated")
        await found.simulator.wait_dials(found.probes + 2)
        caller._piece_ms = 200  # quickly, before the dial has failed
        caller.speak(60_000)
        caller.send("input_audio_buffer.commit")
        [session] = found.relay.app.sessions
        await eventually(lambda: session._client.held_since is not None)
        assert found.relay.metric("realtime_relay_continuity_bytes") < 4_000_000
        await caller.until("conversation.item.done", seconds=20)
        assert spoken(found, caller) == everything(caller)


@pytest.mark.parametrize("leave", ["close", "reset", "close behind much speech"])
async def test_client_that_leaves_during_a_recovery_ends_the_session_once(leave: str) -> None:
    """And the connection that was being made is given up."""
    fault = Fault(AFTER_UPDATE, End.RESET, event="session.updated")
    async with (
        stage(failing(fault), Behaviour(scenario="hang"), RELAY_CONTINUITY_AUDIO_BYTES="1000000") as found,
        calling(found.relay) as caller,
    ):
        caller.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        await found.simulator.wait_dials(found.probes + 2)
        if leave == "close behind much speech":
            [session] = found.relay.app.sessions
            caller.speak(16_800)
            await eventually(lambda: session._client.held_since is not None)
        if leave == "reset":
            caller.client.reset()
        else:
            caller.client.send_frame(Opcode.CLOSE, close_payload(1000))
        assert await found.ended() == ("client_lost" if leave == "reset" else "client_closed")
        assert not found.relay.events("session.ended")[0]["recoveries"]
        await eventually(lambda: all(record.closed for record in found.simulator.connections))


async def test_budget_and_record_span_all_connections(tmp_path: object) -> None:
    """One session, one record; what each answer cost is counted once."""
    fault = Fault(Moment.AFTER_SENT, End.RESET, event="response.done")
    async with (
        stage(failing(fault), RELAY_RECORDS=f"{tmp_path}/records.jsonl") as found,
        calling(found.relay) as caller,
    ):
        for number in (1, 2):
            caller.say("hello")
            caller.send("response.create")
            await caller.until("response.done", number)
            await eventually(lambda: found.swaps("loss") == 1)
        usage = sum(event["response"]["usage"]["total_tokens"] for event in caller.of_type("response.done"))
    assert usage == found.relay.metric("realtime_relay_tokens_total")
    assert len(found.relay.events("session.ended")) == 1
