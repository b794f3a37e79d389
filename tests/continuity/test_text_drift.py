"""Answers in text after a swap, which the next connection may give because it knows earlier answers as text."""

from service.simulator import Behaviour, End
from tests.continuity.caller import calling
from tests.continuity.relays import stage
from tests.support.harness import eventually

COUNTER = "realtime_relay_text_drift_total"


async def test_answers_in_text_are_counted_where_speech_was_due() -> None:
    """Not those that the client wanted in text, nor those before a swap."""
    async with stage(Behaviour(), Behaviour(text_drift=True)) as found, calling(found.relay) as caller:
        for number, modalities in enumerate((None, ["text"], None, ["text"]), 1):
            if number == 3:
                await found.simulator.drop_all(End.RESET)
                await eventually(lambda: found.swaps("loss") == 1)
            caller.say("Hello.")
            caller.send("response.create", response={"output_modalities": modalities} if modalities else {})
            await caller.until("response.done", number)
        contents = [event["response"]["output"][0]["content"][0]["type"] for event in caller.of_type("response.done")]
        assert contents == ["output_audio", "output_text", "output_text", "output_text"]
        await eventually(lambda: found.relay.metric(COUNTER) == 1)
