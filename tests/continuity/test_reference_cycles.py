"""Ended sessions with continuity leave no reference cycle, whatever was replaced meanwhile."""

import pytest

from service.simulator import Behaviour, End
from tests.continuity.caller import calling
from tests.continuity.relays import stage
from tests.relay.test_reference_cycles import no_garbage_collection, objects_in_cycles
from tests.support.harness import eventually

assert no_garbage_collection


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("behaviour", [Behaviour(), Behaviour(session_seconds=2)], ids=["loss", "renewal"])
async def test_session_with_continuity_leaves_no_reference_cycle(behaviour: Behaviour) -> None:
    """After a loss, and after a renewal."""
    async with stage(default=behaviour) as found:
        async with calling(found.relay) as caller:
            caller.say("hello")
            await caller.until("conversation.item.done")
            if behaviour.session_seconds is None:
                await found.simulator.drop_all(End.RESET)
            await eventually(lambda: found.swaps("loss") + found.swaps("renewal") == 1, 10)
            await eventually(lambda: found.upstreams[0].closed, 10)
        await eventually(lambda: not found.relay.app.sessions and all(up.closed for up in found.upstreams))
        # Requests and their handlers are those of the simulator, which runs in this process.
        assert objects_in_cycles().keys() <= {"Request", "RequestHandler", "WebSocketResponse"}
