"""service/realtime/live_events.py."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime import live
from service.realtime.events import ERROR_CODES
from service.realtime.incidents import ERROR, OTHER, Incident
from service.realtime.live_events import (
    MAX_SECONDS,
    MAX_TOKENS,
    NOTHING,
    RESPONSE_ENDS,
    RESPONSE_FAILED,
    BackendResponse,
    Decision,
    LiveEvent,
    SessionUsage,
    Transcript,
    parse_live_event,
)
from service.realtime.usage import Tokens, Usage

COUNTS = {
    "input_tokens": 100,
    "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 40},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 107,
}
USAGE = Usage(Tokens(100), Tokens(7), Tokens(40))
NESTED = (
    "response.created",
    "response.output_text.delta",
    "response.completed",
    "response.incomplete",
    "response.failed",
)


def event(kind: str, **fields: Any) -> LiveEvent:
    """The parsed event of a type with these fields."""
    return parse_live_event(kind, json.dumps({"type": kind, "event_id": "event_1", **fields}).encode())


def nested(kind: str, **response: Any) -> LiveEvent:
    """The parsed end of a nested response."""
    return event(live.RESPONSE_EVENT, delegation_id="item_1", event={"type": kind, "response": response})


def usage(**fields: Any) -> SessionUsage | None:
    """The parsed usage of an update."""
    return event(live.USAGE_UPDATED, usage=fields).usage


def test_error_is_an_incident() -> None:
    """Its code is one of a closed set."""
    assert Incident(ERROR, "forbidden") == event("error", error={"code": "forbidden", "message": "x"}).incident
    assert Incident(ERROR, OTHER) == event("error", error={"code": "sk-proj-secret"}).incident
    assert Incident(ERROR, OTHER) == parse_live_event("error", b"not json").incident


def test_started_session_has_id_and_model() -> None:
    """Values without the shape of an identifier are ignored: the session echoes text of the client."""
    session = {"id": "live_u2_ENOy6GhblDeLrMlDOGSX1", "model": "gpt-live-1", "instructions": "x"}

    assert LiveEvent(session_id="live_u2_ENOy6GhblDeLrMlDOGSX1", model="gpt-live-1") == event(
        live.SESSION_STARTED, session=session
    )
    for odd in ("a b", "x" * 200, "", 7, None, ["a"], "a\n"):
        assert LiveEvent() == event(live.SESSION_STARTED, session={"id": odd, "model": odd})
    assert LiveEvent() == event(live.SESSION_STARTED, session=[])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"seconds": 12.0}, SessionUsage(12)),
        ({"seconds": 0}, SessionUsage(0)),
        (
            {"seconds": 30, "active_seconds": 20.5, "paused_seconds": 9.5},
            SessionUsage(30, 20.5, 9.5),
        ),
        ({"seconds": 30, "active_seconds": "20", "paused_seconds": -1}, SessionUsage(30)),
        ({"active_seconds": 20}, None),
        ({"seconds": -0.1}, None),
        ({"seconds": MAX_SECONDS + 1}, None),
        ({"seconds": math.nan}, None),
        ({"seconds": math.inf}, None),
        ({"seconds": 10**400}, None),
        ({"seconds": True}, None),
        ({"seconds": "12"}, None),
        ({}, None),
    ],
)
def test_usage_is_within_bounds(fields: dict[str, Any], expected: SessionUsage | None) -> None:
    """A duration that is no plausible number is ignored."""
    assert expected == usage(**fields)


def test_context_ratio_is_from_0_to_1() -> None:
    """A ratio that is no number is ignored."""
    for ratio, expected in ((0.25, 0.25), (1.2, 1.0), (-1, 0.0), (math.nan, None), ("0.5", None), (None, None)):
        assert expected == event(live.USAGE_UPDATED, context_window={"usage_ratio": ratio}).usage_ratio


def test_closed_session_has_reason_and_final_usage() -> None:
    """An unknown reason is `other`; `session` is optional."""
    for reason in live.CLOSED_REASONS:
        assert LiveEvent(usage=SessionUsage(13), closed_reason=reason) == event(
            live.SESSION_CLOSED, reason=reason, usage={"seconds": 13.0}
        )
    for odd in ("new_reason", None, 7):
        assert LiveEvent(closed_reason=OTHER) == event(live.SESSION_CLOSED, reason=odd)
    assert LiveEvent(closed_reason=OTHER) == parse_live_event(live.SESSION_CLOSED, b"{")
    assert event(live.USAGE_UPDATED, reason="expired").closed_reason is None


@pytest.mark.parametrize("kind", RESPONSE_ENDS)
def test_end_of_nested_response_has_id_model_and_usage(kind: str) -> None:
    """Each of the three events that end a response reports its usage."""
    parsed = nested(kind, id="resp_1", model="gpt-5-mini", usage=COUNTS, output=[])

    assert BackendResponse("resp_1", "gpt-5-mini", kind, USAGE) == parsed.response
    assert (parsed.incident is not None) == (kind == RESPONSE_FAILED)


def test_failed_nested_response_is_an_incident() -> None:
    """It counts with the code of its error, also without an id."""
    parsed = nested("response.failed", error={"code": "rate_limit_exceeded", "message": "x"})

    assert LiveEvent(Incident(live.RESPONSE_EVENT, "rate_limit_exceeded")) == parsed
    assert Incident(live.RESPONSE_EVENT, OTHER) == nested("response.failed", id="resp_1", error=None).incident


@pytest.mark.parametrize(
    "counts",
    [
        None,
        {},
        {**COUNTS, "input_tokens": -1},
        {**COUNTS, "input_tokens": 1.5},
        {**COUNTS, "output_tokens": True},
        {**COUNTS, "output_tokens": MAX_TOKENS},
        {**COUNTS, "input_tokens": 10**30},
        {**COUNTS, "input_tokens_details": {"cached_tokens": 101}},
        {**COUNTS, "input_tokens_details": {"cached_tokens": None}},
    ],
)
def test_inconsistent_tokens_are_ignored(counts: Any) -> None:
    """The response counts without its tokens."""
    assert (
        BackendResponse("resp_1", None, "response.completed", None)
        == nested("response.completed", id="resp_1", usage=counts).response
    )


def test_nested_deltas_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session has hundreds of them for each response."""
    monkeypatch.setattr("service.realtime.live_events.parse_object", lambda _: pytest.fail("parsed"))

    for delta in ("x", 'a "response.completed" in the text'):
        nested_event = {"type": "response.output_text.delta", "delta": delta}
        assert NOTHING is event(live.RESPONSE_EVENT, event=nested_event)


def test_end_named_in_another_nested_event_is_ignored() -> None:
    """Only the type of the nested event counts."""
    assert NOTHING == event(live.RESPONSE_EVENT, event={"type": "response.created", "metadata": "response.completed"})


def test_decision_has_model_and_usage() -> None:
    """Its usage object is that of a response."""
    decision = {"answers": [], "model": "m", "usage": COUNTS}

    assert LiveEvent(decision=Decision("m", USAGE)) == event(
        live.DECISION_EVENT, event={"type": "decision.completed", "decision": decision}
    )
    assert NOTHING == event(live.DECISION_EVENT, event={"type": "decision.created", "decision": decision})


def test_transcript_has_speaker_and_times() -> None:
    """It never holds the text."""
    times = {"delta": " hi", "start_ms": 200, "end_ms": 400}

    assert Transcript("user", 200, 400) == event(live.INPUT_TRANSCRIPT, **times).transcript
    assert Transcript("assistant", 200, 400) == event(live.OUTPUT_TRANSCRIPT, **times).transcript
    for odd in ({"end_ms": 100}, {"start_ms": None}, {"start_ms": -1}, {"end_ms": 1e12}):
        assert NOTHING == event(live.INPUT_TRANSCRIPT, **(times | odd))


@pytest.mark.parametrize(
    "payload",
    [
        '{"delta":"a","start_ms":200,"end_ms":400}',
        '{"delta": "a", "start_ms": 200, "end_ms": 400}',
        '{"delta":"a","end_ms":400,"start_ms":200}',
        '{"start_ms":200,"end_ms":400,"delta":"a"}',
        '{"delta":"a","start_ms":200.0,"end_ms":4e2}',
        '{"delta":"a","start_ms":200,"end_ms":400}\n',
        '{"start_ms":1,"end_ms":2,"delta":"a","start_ms":200,"end_ms":400}',
        r'{"start_ms":200,"end_ms":400,"delta":",\"start_ms\":1,\"end_ms\":2}"}',
        '{"start_ms":200,"end_ms":400,"nested":{"delta":"a","start_ms":1,"end_ms":2}}',
    ],
)
def test_times_of_transcript_are_those_of_a_json_parser(payload: str) -> None:
    """Wherever and however they are written."""
    body = json.loads(payload)

    assert (200, 400) == (body["start_ms"], body["end_ms"])
    assert Transcript("user", 200, 400) == parse_live_event(live.INPUT_TRANSCRIPT, payload.encode()).transcript


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(NESTED),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([
                "type", "error", "code", "session", "id", "model", "usage", "seconds", "active_seconds", "paused_seconds",
                "context_window", "usage_ratio", "reason", "event", "response", "decision", "start_ms", "end_ms",
                "input_tokens", "output_tokens", "input_tokens_details", "cached_tokens",
            ]),
            inner,
        )
    ),
    max_leaves=25,
)  # fmt: skip


def is_bounded(tokens: Usage | None) -> bool:
    """Whether token counts may be added to a counter."""
    return tokens is None or 0 <= tokens.total <= MAX_TOKENS


@given(
    st.sampled_from(sorted(live.PARSED_EVENT_TYPES)),
    values.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=60)
    | st.just(b'{"event":' + b"[" * 100_000 + b'"response.completed"')
    | st.just(b'{"usage":{"seconds":' + b"9" * 5_000 + b"}}"),
)
def test_any_payload_gives_bounded_values(kind: str, payload: bytes) -> None:
    """Nothing raises, and each part is a number within bounds, an identifier, or of a closed set."""
    found = parse_live_event(kind, payload)

    assert found.incident is None or found.incident.code in {*ERROR_CODES, OTHER}
    parts = (found.response, found.decision)
    models = [part.model for part in parts if part is not None]
    identifiers = [found.response.id] if found.response is not None else []
    for text in (found.session_id, found.model, *models, *identifiers):
        assert text is None or (1 <= len(text) <= 128 and text.isascii() and text.isprintable() and " " not in text)
    if found.usage is not None:
        for seconds in (found.usage.seconds, found.usage.active_seconds, found.usage.paused_seconds):
            assert seconds is None or 0 <= seconds <= MAX_SECONDS
    assert found.usage_ratio is None or 0 <= found.usage_ratio <= 1
    assert found.closed_reason in {None, OTHER, *live.CLOSED_REASONS}
    assert found.response is None or (found.response.event in RESPONSE_ENDS and is_bounded(found.response.usage))
    assert found.decision is None or is_bounded(found.decision.usage)
    assert found.transcript is None or 0 <= found.transcript.start_ms <= found.transcript.end_ms <= MAX_SECONDS * 1000
