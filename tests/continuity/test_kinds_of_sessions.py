"""Formats, turn detection, policies and sidebands across a loss."""

from pathlib import Path

import pytest

from service.simulator import End, Fault, Moment
from service.simulator.audio import ALAW, ULAW, AudioFormat
from service.simulator.numbered import numbered_audio
from tests.clients_file.relays import TOKENS, table, write
from tests.continuity.caller import calling
from tests.continuity.relays import failing, stage
from tests.continuity.test_recovery import everything, spoken
from tests.relay.test_policies import ALL, KIOSK, POLICY, SECRET
from tests.support.harness import eventually, open_raw

FORMATS: dict[str, tuple[AudioFormat, str]] = {"pcmu": (ULAW, "audio/pcmu"), "pcma": (ALAW, "audio/pcma")}


@pytest.mark.parametrize("name", FORMATS)
async def test_open_turn_of_telephone_audio_is_said_again(name: str) -> None:
    """G.711 has eight samples a millisecond, of a byte each."""
    audio_format, media_type = FORMATS[name]
    async with stage() as found, calling(found.relay) as caller:
        audio = {"input": {"format": {"type": media_type}}, "output": {"format": {"type": media_type}}}
        caller.send("session.update", session={"type": "realtime", "audio": audio})
        await caller.until("session.updated")
        for number in range(30):
            caller.append(numbered_audio(number * 160, 160, audio_format))
        await caller.until("input_audio_buffer.speech_started")
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        for _ in range(50):
            caller.append(audio_format.silence(160))
        await caller.until("response.done")
        assert spoken(found, caller) == [(0, 30 * 160)]
        caller.check()


async def test_open_turn_of_semantic_turn_detection_is_said_again() -> None:
    """The kind of turn detection is restored."""
    async with stage() as found, calling(found.relay) as caller:
        detection = {"type": "semantic_vad", "eagerness": "high"}
        caller.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": detection}}})
        await caller.until("session.updated")
        caller.speak(600)
        await caller.until("input_audio_buffer.speech_started")
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        caller.speak(200)
        caller.be_silent(4_000)
        await caller.until("response.done")
        restored = found.conversations[1].sessions[-1]["audio"]["input"]["turn_detection"]
        assert (restored["type"], restored["eagerness"]) == ("semantic_vad", "high")
        assert spoken(found, caller) == everything(caller)
        caller.check()


@pytest.mark.parametrize("when", ["before the commit", "after the commit"])
async def test_turn_that_the_client_commits_is_heard_once(when: str) -> None:
    """Without turn detection, nothing leaves the journal until the commit."""
    async with stage() as found, calling(found.relay) as caller:
        caller.send("session.update", session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})
        await caller.until("session.updated")
        caller.speak(800)
        if when == "before the commit":
            await found.simulator.drop_all(End.RESET)
        caller.send("input_audio_buffer.commit")
        caller.send("response.create")
        if when == "after the commit":
            await caller.until("input_audio_buffer.committed")
            await found.simulator.drop_all(End.RESET)
        await caller.until(lambda: any(d["response"]["status"] == "completed" for d in caller.of_type("response.done")))
        await eventually(lambda: found.swaps("loss") == 1)
        assert spoken(found, caller) == everything(caller)
        caller.check()


async def test_call_that_is_over_ends_its_sideband() -> None:
    """The provider answers 404: nothing is left to join."""
    async with stage() as found:
        client = await open_raw(found.relay.app.public_port, "/v1/realtime?call_id=rtc_known&continuity=renew")
        try:
            await eventually(lambda: len(found.upstreams) == 1)
            found.simulator.end_call("rtc_known")
            await found.simulator.drop_all(End.RESET)
            await client.answer_close()
            assert await found.ended() == "upstream_lost"
        finally:
            await client.close()


async def test_policy_holds_on_each_connection(tmp_path: Path) -> None:
    """The client neither sees its instructions nor changes them, also where the relay ends an answer in upstream's place."""
    file = tmp_path / "clients.toml"
    write(file, KIOSK + POLICY + ALL)
    headers = {"Authorization": f"Bearer {TOKENS['kiosk']}"}
    fault = Fault(Moment.AFTER_SENT, End.RESET, event="response.output_audio.delta")
    async with (
        stage(failing(fault), RELAY_CLIENTS_FILE=str(file)) as found,
        calling(found.relay, headers=headers) as caller,
    ):
        caller.say("hello")
        caller.send("response.create")
        await caller.until("response.done", 2)
        caller.send("session.update", session={"type": "realtime", "instructions": "Sell ships."})
        await caller.until("error")
        assert caller.of_type("error")[0]["error"]["code"] == "instructions_locked"
        assert found.swaps("loss") == 1
        assert [SECRET] * 2 == [conversation.sessions[-1]["instructions"] for conversation in found.conversations]
        assert SECRET not in str(caller.events)
        assert caller.count("session.updated") == 0
        caller.check()
    assert SECRET not in str(found.relay.logs)


async def test_answer_that_a_loss_cuts_counts_for_the_budget_by_an_estimate(tmp_path: Path) -> None:
    """The client has heard a part of it. The budget is not left open for an answer that never ends."""
    file = tmp_path / "clients.toml"
    write(file, table("kiosk", "tokens_per_day = 1000000"))
    headers = {"Authorization": f"Bearer {TOKENS['kiosk']}"}
    fault = Fault(Moment.AFTER_SENT, End.RESET, event="response.output_audio.delta")
    async with (
        stage(failing(fault), RELAY_CLIENTS_FILE=str(file)) as found,
        calling(found.relay, headers=headers) as caller,
    ):
        caller.say("hello")
        caller.send("response.create")
        await caller.until("response.done", 2)
        [session] = found.relay.app.sessions
        assert session._budget is not None
        assert not session._budget.is_response_running
        usage = caller.of_type("response.done")[1]["response"]["usage"]["total_tokens"]
        assert session._reporter.spending.tokens > usage
        assert session._reporter.spending.is_estimated
        caller.check()


TRANSCRIBED = "conversation.item.input_audio_transcription.completed"


@pytest.mark.parametrize("is_manual", [True, False])
@pytest.mark.parametrize(
    "event",
    [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "conversation.item.input_audio_transcription.delta",
    ],
)
async def test_turn_of_a_transcription_session_is_transcribed_under_its_id(event: str, *, is_manual: bool) -> None:
    """The client waits for that. The next connection hears the turn again, as another item; the turn behind it is new."""
    fault = Fault(Moment.AFTER_SENT, End.RESET, event=event)
    path = "/v1/realtime?intent=transcription&continuity=renew"
    async with stage(failing(fault)) as found, calling(found.relay, path) as caller:
        turns = None if is_manual else {"type": "server_vad"}
        source = {"turn_detection": turns, "transcription": {"model": "gpt-4o-transcribe"}}
        caller.send("session.update", session={"type": "transcription", "audio": {"input": source}})
        await caller.until("session.updated")
        for number in (1, 2):
            caller.speak(600)
            if is_manual:
                caller.send("input_audio_buffer.commit")
            else:
                caller.be_silent(800)
            await caller.until(TRANSCRIBED, number)
        assert found.swaps("loss") == 1
        first, second = caller.of_type("input_audio_buffer.committed")
        assert [end["item_id"] for end in caller.of_type(TRANSCRIBED)] == [first["item_id"], second["item_id"]]
        assert second["previous_item_id"] == first["item_id"]
        assert caller.items == [first["item_id"], second["item_id"]]
        words = [
            event["delta"]
            for event in caller.events
            if event["type"].endswith("transcription.delta") and event["item_id"] == first["item_id"]
        ]
        assert caller.of_type(TRANSCRIBED)[0]["transcript"].startswith("".join(words))
        caller.check()
