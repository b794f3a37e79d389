"""Function calls across a swap: a call is shown once, and its output is accepted however late it is."""

import pytest

from service.simulator import Behaviour, End, Fault, Moment
from tests.continuity.caller import Caller, calling
from tests.continuity.relays import failing, stage
from tests.support.harness import eventually

TOOL = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
ASK = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "look"}}


def call(caller: Caller) -> None:
    """Have the model call the function."""
    caller.say("look")
    caller.send("response.create", response=ASK)


def give(caller: Caller) -> None:
    """Send the output of the last call."""
    call_id = caller.of_type("response.function_call_arguments.done")[-1]["call_id"]
    item = {"type": "function_call_output", "call_id": call_id, "output": '{"seen": "nothing"}'}
    caller.send("conversation.item.create", item=item)


@pytest.mark.parametrize(
    "event",
    [
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ],
)
async def test_call_that_a_loss_cuts_is_shown_once_and_answered(event: str) -> None:
    """Before its arguments are complete it is called again, under another id; from then on its output is accepted."""
    count = 2 if event == "conversation.item.done" else 1
    fault = Fault(Moment.AFTER_SENT, End.RESET, event=event, count=count)
    async with stage(failing(fault)) as found, calling(found.relay) as caller:
        call(caller)
        await eventually(lambda: found.swaps("loss") == 1)
        await caller.until(
            lambda: (
                caller.count("response.function_call_arguments.done")
                and caller.of_type("response.done")
                and caller.count("response.done") == caller.count("response.created")
            )
        )
        shown = [event["call_id"] for event in caller.of_type("response.function_call_arguments.done")]
        assert len(set(shown)) == len(shown)
        give(caller)
        outputs = caller.count("conversation.item.done")
        await caller.until("conversation.item.done", outputs + 1)
        assert not caller.count("error")
        assert found.conversations[-1].items[-1]["type"] == "function_call_output"
        caller.check()


@pytest.mark.parametrize("moment", [Moment.RECEIVED, Moment.PROCESSED])
async def test_output_that_is_not_acknowledged_arrives_once(moment: Moment) -> None:
    """Whether the connection that was lost has processed it or not."""
    fault = Fault(moment, End.RESET, event="conversation.item.create", count=2)
    async with stage(failing(fault)) as found, calling(found.relay) as caller:
        call(caller)
        await caller.until("response.done")
        give(caller)
        await eventually(lambda: found.swaps("loss") == 1)
        await caller.until(lambda: len(caller.items) == caller.count("conversation.item.done") == 3)
        assert [item["type"] for item in found.conversations[-1].items].count("function_call_output") == 1
        assert not caller.count("error")
        caller.check()


async def test_output_is_accepted_after_a_renewal_while_the_tool_runs() -> None:
    """The renewal waits for the output, until it cannot."""
    async with stage(Behaviour(session_seconds=3)) as found, calling(found.relay) as caller:
        call(caller)
        await caller.until("response.done")
        await eventually(lambda: len(found.upstreams) == 2 and found.upstreams[0].closed, 10)
        give(caller)
        outputs = caller.count("conversation.item.done")
        await caller.until("conversation.item.done", outputs + 1)
        assert not caller.count("error")
        caller.check()
