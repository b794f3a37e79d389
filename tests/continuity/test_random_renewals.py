"""Random conversations over connections that end every few seconds: renewed at a boundary, forced, or lost at the limit."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from service.simulator import Behaviour
from tests.continuity.caller import calling
from tests.continuity.conversations import (
    check_all,
    delete,
    speak,
    type_text,
    update,
    use_tool,
)
from tests.continuity.relays import stage

STEPS = (speak, speak, type_text, use_tool, update, delete)


@given(st.integers(0, 10_000), st.sampled_from((0, 30)), st.sampled_from((0, 200)))
@settings(max_examples=2, deadline=None)
async def test_random_conversation_over_renewals_loses_and_doubles_nothing(
    seed: int, round_trip_ms: int, vad_lag_ms: int
) -> None:
    """With a distance to the provider, and with speech that it notices late."""
    rng = random.Random(seed)
    behaviour = Behaviour(session_seconds=2, round_trip_ms=round_trip_ms, vad_lag_ms=vad_lag_ms)
    async with stage(behaviour, behaviour, behaviour) as found, calling(found.relay) as caller:
        for _ in range(12):
            await rng.choice(STEPS)(caller, rng)
        before = caller.count("session.updated")
        caller.send("session.update", session={"type": "realtime"})
        await caller.until("session.updated", before + 1)
        check_all(found, caller)
