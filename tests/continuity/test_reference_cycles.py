"""Ended sessions with continuity leave no reference cycle, whatever was replaced meanwhile."""

import pytest

from service.simulator import End
from tests.continuity.caller import calling
from tests.continuity.relays import renew, stage
from tests.relay.test_reference_cycles import no_garbage_collection, objects_in_cycles
from tests.support.harness import eventually

assert no_garbage_collection


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("cause", ["loss", "renewal"])
async def test_session_with_continuity_leaves_no_reference_cycle(cause: str) -> None:
    """After a loss, and after a renewal."""
    async with stage() as found:
        async with calling(found.relay) as caller:
            caller.say("hello")
            await caller.until("conversation.item.done")
            if cause == "loss":
                await found.simulator.drop_all(End.RESET)
            else:
                await renew(found)
            await eventually(lambda: found.swaps(cause) == 1, 10)
            await eventually(lambda: found.upstreams[0].closed, 10)
        await eventually(lambda: not found.relay.app.sessions and all(up.closed for up in found.upstreams))
        # Requests and their handlers are those of the simulator, which runs in this process.
        assert objects_in_cycles().keys() <= {"Request", "RequestHandler", "WebSocketResponse"}
