"""Answers in text behind a swap, of a model that knows its earlier answers as text."""

from typing import Any

import pytest

from tests.support.kept_session import KeptSession


@pytest.mark.parametrize(
    ("request_", "part", "status", "drifts"),
    [
        ({}, "output_text", "completed", 1),
        ({"output_modalities": ["audio"]}, "output_text", "completed", 1),
        ({"output_modalities": ["text"]}, "output_text", "completed", 0),
        ({}, "output_audio", "completed", 0),
        ({}, "output_text", "cancelled", 0),
    ],
)
def test_answer_in_text_behind_a_swap_is_counted_where_speech_was_due(
    request_: dict[str, Any], part: str, status: str, drifts: int
) -> None:
    """Before a swap none is."""
    session = KeptSession(output_modalities=["audio"])
    for number in range(2):
        session.client("response.create", response=request_)
        session.up("response.created", response={"id": f"r{number}"})
        output = [{"id": f"a{number}", "type": "message", "role": "assistant", "content": [{"type": part}]}]
        session.up("response.done", response={"id": f"r{number}", "status": status, "output": output})
        session.continuity.fold(session.now)
        assert session.continuity.mirror.text_answers == number * drifts
        session.flush(session.replay(output_modalities=["audio"]).run().replay)
