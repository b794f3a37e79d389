"""service/realtime/server_events.py."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.events import PARSED_EVENT_TYPES
from service.realtime.incidents import OTHER, RATE_LIMIT_NAMES, RATE_LIMITS_UPDATED, RESPONSE_DONE, Incident
from service.realtime.server_events import (
    INTERRUPTION_REASONS,
    RESPONSE_STATUSES,
    ParsedEvent,
    ResponseResult,
    parse_server_event,
)
from service.realtime.usage import Tokens, Usage

COUNTS = {
    "total_tokens": 205,
    "input_tokens": 41,
    "output_tokens": 164,
    "input_token_details": {
        "text_tokens": 14,
        "audio_tokens": 27,
        "image_tokens": 0,
        "cached_tokens": 10,
        "cached_tokens_details": {"text_tokens": 10, "audio_tokens": 0, "image_tokens": 0},
    },
    "output_token_details": {"text_tokens": 28, "audio_tokens": 136},
}
USAGE = Usage(Tokens(14, 27), Tokens(28, 136), Tokens(10))


def response(**fields: Any) -> bytes:
    """A `response.done` event."""
    return json.dumps({"type": RESPONSE_DONE, "response": fields}).encode()


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (response(status="completed", usage=COUNTS), ResponseResult("completed", None, USAGE)),
        (
            response(status="cancelled", status_details={"type": "cancelled", "reason": "turn_detected"}, usage=COUNTS),
            ResponseResult("cancelled", "turn_detected", USAGE),
        ),
        (
            response(status="cancelled", status_details={"reason": "client_cancelled"}),
            ResponseResult("cancelled", "client_cancelled", None),
        ),
        (response(status="cancelled", status_details=None), ResponseResult("cancelled", OTHER, None)),
        (
            response(status="cancelled", status_details={"reason": "unknown"}),
            ResponseResult("cancelled", OTHER, None),
        ),
        (
            response(status="incomplete", status_details={"reason": "max_output_tokens"}, usage=COUNTS),
            ResponseResult("incomplete", None, USAGE),
        ),
        (response(status="in_progress"), ResponseResult(OTHER, None, None)),
        (response(usage={**COUNTS, "total_tokens": 1}), ResponseResult(OTHER, None, None)),
        (
            response(status="completed", usage={"total_tokens": 10**400, "input_tokens": 10**400}),
            ResponseResult("completed", None, None),
        ),
        (
            response(
                status="completed",
                usage={"total_tokens": 10**9, "input_tokens": 10**9, "input_token_details": {"text_tokens": 10**9}},
            ),
            ResponseResult("completed", None, None),
        ),
        (b'{"response": 7}', None),
        (b"no JSON", None),
    ],
)
def test_response_result_is_parsed(payload: bytes, expected: ResponseResult | None) -> None:
    """Status and interruption are in closed sets; an inconsistent or impossibly large usage is None."""
    assert expected == parse_server_event(RESPONSE_DONE, payload).response


def limits(*rows: object) -> bytes:
    """A `rate_limits.updated` event."""
    return json.dumps({"type": RATE_LIMITS_UPDATED, "rate_limits": rows}).encode()


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (limits({"name": "tokens", "limit": 200, "remaining": 50, "reset_seconds": 1}), (("tokens", 0.25),)),
        (
            limits({"name": "tokens", "limit": 4, "remaining": 9}, {"name": "requests", "limit": 9, "remaining": -3}),
            (("tokens", 1.0), ("requests", 0.0)),
        ),
        (limits({"name": "unknown", "limit": 2, "remaining": 1}), ((OTHER, 0.5),)),
        (limits({"name": "tokens", "limit": 0, "remaining": 0}, 7, {"limit": "9", "remaining": True}), ()),
        (limits({"name": "tokens", "limit": 10**400, "remaining": 1}), ()),
        (b'{"rate_limits": [{"name": "tokens", "limit": NaN, "remaining": Infinity}]}', ()),
        (b'{"rate_limits": {}}', ()),
    ],
)
def test_remaining_ratio_of_rate_limits(payload: bytes, expected: tuple[tuple[str, float], ...]) -> None:
    """A ratio from 0 to 1 for each valid limit; invalid numbers are skipped."""
    assert expected == parse_server_event(RATE_LIMITS_UPDATED, payload).remaining_ratios


def test_failed_response_is_an_incident_and_a_result() -> None:
    """One event of a failed response gives both."""
    payload = response(status="failed", status_details={"error": {"code": "insufficient_quota"}}, usage=COUNTS)

    assert parse_server_event(RESPONSE_DONE, payload) == ParsedEvent(
        Incident(RESPONSE_DONE, "insufficient_quota"), ResponseResult("failed", None, USAGE), ()
    )


numbers = st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=3)
details = st.dictionaries(
    st.sampled_from(["text_tokens", "audio_tokens", "cached_tokens_details"]), numbers, max_size=3
)
usages = st.dictionaries(
    st.sampled_from(["total_tokens", "input_tokens", "output_tokens", "input_token_details", "output_token_details"]),
    numbers | details,
    max_size=5,
)
rows = st.fixed_dictionaries(
    {"name": st.sampled_from([*RATE_LIMIT_NAMES, "x"]) | numbers, "limit": numbers, "remaining": numbers}
)
bodies = st.fixed_dictionaries(
    {
        "response": st.fixed_dictionaries(
            {
                "status": st.sampled_from(RESPONSE_STATUSES) | numbers,
                "usage": usages | numbers,
                "status_details": details | numbers,
            }
        )
        | numbers,
        "rate_limits": st.lists(rows | numbers, max_size=3) | numbers,
    }
)


@given(
    st.sampled_from(sorted(PARSED_EVENT_TYPES)),
    bodies.map(lambda body: json.dumps(body).encode()) | st.binary(max_size=40),
)
def test_parse_server_event_accepts_any_payload(kind: str, payload: bytes) -> None:
    """Any payload raises nothing, and every result is in a closed set or range."""
    event = parse_server_event(kind, payload)

    if event.response is not None:
        assert event.response.status in RESPONSE_STATUSES
        assert event.response.interruption in {None, *INTERRUPTION_REASONS}
    assert all(name in {*RATE_LIMIT_NAMES, OTHER} and 0 <= ratio <= 1 for name, ratio in event.remaining_ratios)
