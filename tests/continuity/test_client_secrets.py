"""A call that was opened with a client secret outlives its upstream connection: nothing of the secret is needed again."""

import pytest

from service.simulator import End, Fault, Moment
from tests.clients_file.secret_requests import created
from tests.continuity.caller import calling
from tests.continuity.relays import failing, stage
from tests.support.harness import eventually

INSTRUCTIONS = "You sell train tickets."


@pytest.mark.parametrize("locked", [[], ["instructions"]], ids=["open", "locked"])
async def test_session_of_a_secret_is_the_same_at_the_next_upstream(locked: list[str]) -> None:
    """With what the secret set, which the client has not seen if it is locked, and with its locks."""
    fault = Fault(Moment.AFTER_SENT, End.RESET, event="conversation.item.done")
    async with stage(failing(fault)) as found:
        session = {"instructions": INSTRUCTIONS, "audio": {"output": {"voice": "cedar"}}}
        secret = await created(found.relay, {"session": session, "locked": locked}, token=None)
        async with calling(found.relay, headers={"Authorization": f"Bearer {secret}"}) as caller:
            assert (INSTRUCTIONS in str(caller.events)) is not bool(locked)
            caller.say("before")
            await eventually(lambda: found.swaps("loss") == 1)
            caller.send("session.update", session={"type": "realtime", "instructions": "Sell ships."})
            await caller.until("error" if locked else "session.updated")

            [_, second] = found.conversations
            configured = [shown for shown in second.sessions if shown["instructions"] == INSTRUCTIONS]
            assert configured
            assert "cedar" == second.sessions[-1]["audio"]["output"]["voice"]
            assert ("Sell ships." == second.sessions[-1]["instructions"]) is not bool(locked)
            assert caller.count("session.created") == 1
