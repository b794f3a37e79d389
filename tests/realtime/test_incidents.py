"""service/realtime/incidents.py."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.events import ERROR_CODES, PARSED_EVENT_TYPES, parse_object
from service.realtime.incidents import (
    ERROR,
    INCIDENT_EVENTS,
    OTHER,
    RATE_LIMIT_NAMES,
    RATE_LIMITS_UPDATED,
    RESPONSE_DONE,
    TRANSCRIPTION_FAILED,
    Incident,
    find_incident,
)


def response(**body: object) -> bytes:
    """A `response.done` event."""
    return json.dumps({"type": RESPONSE_DONE, "response": body}).encode()


def failed(error: object) -> bytes:
    """A `response.done` event of a failed response."""
    return response(status="failed", status_details={"type": "failed", "error": error})


def limits(*rows: object) -> bytes:
    """A `rate_limits.updated` event."""
    return json.dumps({"type": RATE_LIMITS_UPDATED, "rate_limits": rows}).encode()


def test_incident_events_are_the_parsed_events() -> None:
    """The scanner yields exactly the events that can report an incident as whole messages."""
    assert set(INCIDENT_EVENTS) == PARSED_EVENT_TYPES


@pytest.mark.parametrize(
    ("kind", "payload", "code"),
    [
        (ERROR, b'{"type":"error","error":{"type":"invalid_request_error","code":"invalid_value"}}', "invalid_value"),
        (ERROR, b'{"type":"error","error":{"type":"server_error","code":null}}', "server_error"),
        (ERROR, b'{"type":"error","error":{"code":"sk-proj-secret"}}', OTHER),
        (ERROR, b"not json", OTHER),
        (TRANSCRIPTION_FAILED, b'{"error":{"type":"server_error","code":"audio_unintelligible"}}', "server_error"),
        (TRANSCRIPTION_FAILED, b"{}", OTHER),
        (RESPONSE_DONE, failed({"type": "invalid_request_error", "code": "model_not_found"}), "model_not_found"),
        (RESPONSE_DONE, failed({"type": "server_error", "code": None}), "server_error"),
        (RESPONSE_DONE, failed({"code": ["rate_limit_exceeded"]}), OTHER),
        (RESPONSE_DONE, failed("rate_limit_exceeded"), OTHER),
        (RESPONSE_DONE, response(status="failed", status_details="unimplemented"), OTHER),
        (RESPONSE_DONE, response(status="failed"), OTHER),
        (RESPONSE_DONE, response(status="completed"), None),
        (RESPONSE_DONE, response(status="cancelled", status_details={"reason": "turn_detected"}), None),
        (RESPONSE_DONE, response(status="incomplete", status_details={"reason": "max_output_tokens"}), None),
        (RESPONSE_DONE, b"[]", None),
        (RATE_LIMITS_UPDATED, limits({"name": "tokens", "limit": 10, "remaining": 9, "reset_seconds": 0.1}), None),
        (RATE_LIMITS_UPDATED, limits({"name": "tokens", "limit": 10, "remaining": 0}), "tokens"),
        (
            RATE_LIMITS_UPDATED,
            limits({"name": "tokens", "remaining": 5}, {"name": "requests", "remaining": -1}),
            "requests",
        ),
        (RATE_LIMITS_UPDATED, limits({"name": "unknown-limit", "remaining": 0}), OTHER),
        (RATE_LIMITS_UPDATED, limits("tokens", {"remaining": "0"}), None),
        (RATE_LIMITS_UPDATED, b'{"rate_limits": 7}', None),
    ],
)
def test_incident_is_found_in_an_event(kind: str, payload: bytes, code: str | None) -> None:
    """A failure gets a code of the closed set; an event without a failure gives None."""
    assert (Incident(kind, code) if code else None) == find_incident(kind, parse_object(payload))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "error", "code", "response", "status", "status_details", "rate_limits", "remaining", "name"]
            )
            | st.text(max_size=4),
            inner | st.just("failed") | st.just(0),
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(
    st.sampled_from(INCIDENT_EVENTS), json_values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)
)
def test_find_incident_accepts_any_payload(kind: str, payload: bytes) -> None:
    """Any payload raises nothing, and a code is in the closed set."""
    incident = find_incident(kind, parse_object(payload))

    assert incident is None or incident.event == kind
    assert incident is None or incident.code in {*ERROR_CODES, *RATE_LIMIT_NAMES, OTHER}
