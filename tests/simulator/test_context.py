"""The context of a model: what `truncation` leaves out of a response's input, and how `disabled` fails."""

from typing import Any

import pytest

from service.simulator import Behaviour, Simulator, SimulatorOptions
from tests.support.simulator_client import connect

RATIO = {"type": "retention_ratio", "retention_ratio": 0.5}


async def inputs(truncation: Any) -> list[dict[str, Any]]:
    """The responses to texts of 25 tokens each, with a context of 100 tokens."""
    responses = []
    options = SimulatorOptions(pace=0, default=Behaviour(context_tokens=100))
    async with Simulator(options) as sim, connect(sim) as client:
        await client.update_session(truncation=truncation)
        for _ in range(3):
            events = await client.run_text_turn("x" * 100)
            responses += [event["response"] for event in events if event["type"] == "response.done"]
    return responses


@pytest.mark.parametrize(
    ("truncation", "tokens"),
    [
        ("auto", [25, 75, 100]),
        (RATIO, [25, 75, 50]),
        ({**RATIO, "token_limits": {"post_instructions": 60}}, [25, 25, 25]),
    ],
)
async def test_oldest_items_are_left_out_of_the_input(truncation: Any, tokens: list[int]) -> None:
    """Each turn adds a text and its answer. With a ratio, more than needed is left out."""
    assert [response["usage"]["input_tokens"] for response in await inputs(truncation)] == tokens


async def test_response_fails_where_nothing_may_be_left_out() -> None:
    """The session goes on."""
    statuses = [(response["status"], response["status_details"]) for response in await inputs("disabled")]
    assert [status for status, _ in statuses] == ["completed", "completed", "failed"]
    assert statuses[-1][1]["error"]["code"] == "context_length_exceeded"
