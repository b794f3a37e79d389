"""Properties of continuity: random conversations, any folding, and a loss of upstream at any event.

With TEST_PROFILE=deep upstream is lost at every event of each conversation.
"""

import os
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.talk import ACTIONS, talk_through

IS_DEEP: Final = os.environ.get("TEST_PROFILE") == "deep"
EXAMPLES: Final = int(os.environ.get("TEST_EXAMPLES", "10000" if IS_DEEP else "60"))
pytestmark = pytest.mark.timeout(36_000 if IS_DEEP else 180)

actions = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 30), st.integers(0, 30)), min_size=5, max_size=45)
plans = st.lists(st.sampled_from([0, 1, 3, 3, 8, -2]), min_size=1, max_size=12)


options = st.fixed_dictionaries(
    {
        "is_manual": st.booleans(),
        "has_transcripts": st.booleans(),
        "lag": st.sampled_from([0, 0, 5, 15]),
        "fold_entries": st.sampled_from([1, 3, 1000]),
        "chunk": st.sampled_from([960, 4800, 1000, 31_000]),
    }
)


@given(actions, plans, options, st.lists(st.integers(0, 1000), max_size=3))
@settings(max_examples=EXAMPLES)
def test_conversation_survives_a_loss_at_any_event(
    steps: list[tuple[str, int, int]], plan: list[int], options: dict[str, Any], places: list[int]
) -> None:
    """Speech is in one turn, items and texts are those that the client has, and each answer ends once."""
    whole = talk_through(steps, plan, (), **options).call
    numbers = [whole.points[place * len(whole.points) // 1001] for place in places]
    for number in range(1, whole.passed + 1) if IS_DEEP else numbers:
        talk_through(steps, plan, (number,), **options)
    talk_through(steps, plan, tuple(numbers), **options)
