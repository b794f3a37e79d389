"""Random conversations, with a loss at an event of each: whatever is cut, nothing is lost, doubled or invented.

`python -m tests.continuity.every_event` tries as many as wanted, with a loss at every event of each in turn.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.simulator import Behaviour, End, Fault, Moment
from tests.continuity.caller import calling
from tests.continuity.conversations import ENDS, Talk, check_all
from tests.continuity.every_event import Failure, Progress, check_in_memory, check_on_sockets
from tests.continuity.relays import stage
from tests.support.harness import eventually


@given(st.integers(0, 10_000), st.integers(1, 300), st.sampled_from(ENDS))
@settings(max_examples=6, deadline=None)
async def test_loss_at_a_random_event_of_a_random_conversation(seed: int, event: int, end: End) -> None:
    """One that the conversation does not reach is a conversation without a loss."""
    fault = Fault(Moment.EITHER, end, count=event)
    async with stage(Behaviour(faults=(fault,))) as found, calling(found.relay) as caller:
        await Talk(seed, 4).hold(caller)
        check_all(found, caller)
        if found.upstreams[0].ended_by is not None:
            await eventually(lambda: found.swaps("loss") == 1)


async def test_program_holds_a_conversation_on_sockets_with_a_loss() -> None:
    """With one loss of the thousands that it tries."""
    progress = Progress()
    await check_on_sockets([3], progress, at_once=1, event=30)
    assert (progress.conversations, progress.runs, progress.losses, progress.failures) == (1, 1, 1, [])


@pytest.mark.parametrize(("seed", "is_wide"), [(1, False), (6, True)])
def test_program_loses_each_event_of_a_conversation_in_memory(seed: int, *, is_wide: bool) -> None:
    """A run without a loss counts them."""
    progress = Progress()
    check_in_memory([seed], progress, is_wide=is_wide)
    assert progress.losses == progress.runs - 1 > 10
    assert not progress.failures


def test_failure_names_the_command_that_repeats_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Its seed and its event are all that a conversation depends on, but for the moments of the network."""
    Progress().failed(Failure("sockets", 7, 12, AssertionError("two turns")))
    text = capsys.readouterr().out
    assert "sockets --first-seed 7 --conversations 1 --event 12\n" in text
    assert "two turns" in text
