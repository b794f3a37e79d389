"""What is read in the few events that the relay looks into."""

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
    """A response.done."""
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
            response(status="cancelled", status_details={"reason": "of my own"}),
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
def test_the_end_of_a_response(payload: bytes, expected: ResponseResult | None) -> None:
    """Status and interruption are of closed sets; a usage that contradicts itself, or is absurd, is none."""
    assert expected == parse_server_event(RESPONSE_DONE, payload).response


def limits(*rows: object) -> bytes:
    """A rate_limits.updated."""
    return json.dumps({"type": RATE_LIMITS_UPDATED, "rate_limits": rows}).encode()


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (limits({"name": "tokens", "limit": 200, "remaining": 50, "reset_seconds": 1}), (("tokens", 0.25),)),
        (
            limits({"name": "tokens", "limit": 4, "remaining": 9}, {"name": "requests", "limit": 9, "remaining": -3}),
            (("tokens", 1.0), ("requests", 0.0)),
        ),
        (limits({"name": "of mine", "limit": 2, "remaining": 1}), ((OTHER, 0.5),)),
        (limits({"name": "tokens", "limit": 0, "remaining": 0}, 7, {"limit": "9", "remaining": True}), ()),
        (limits({"name": "tokens", "limit": 10**400, "remaining": 1}), ()),
        (b'{"rate_limits": [{"name": "tokens", "limit": NaN, "remaining": Infinity}]}', ()),
        (b'{"rate_limits": {}}', ()),
    ],
)
def test_what_is_left_of_a_limit(payload: bytes, expected: tuple[tuple[str, float], ...]) -> None:
    """A share from 0 to 1 for each limit that can be read; numbers that are none are passed over."""
    assert expected == parse_server_event(RATE_LIMITS_UPDATED, payload).remaining_ratios


def test_a_failure_and_its_usage_come_from_one_reading() -> None:
    """A response that failed is an incident and an end at once."""
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
def test_any_payload_is_read(kind: str, payload: bytes) -> None:
    """Whatever upstream sends, nothing is raised, and all that comes out may be counted."""
    reading = parse_server_event(kind, payload)

    if reading.response is not None:
        assert reading.response.status in RESPONSE_STATUSES
        assert reading.response.interruption in {None, *INTERRUPTION_REASONS}
    assert all(name in {*RATE_LIMIT_NAMES, OTHER} and 0 <= left <= 1 for name, left in reading.remaining_ratios)
