"""Parses the server events of GPT-Live that the relay evaluates (`live.PARSED_EVENT_TYPES`). Pure.

Every result is a number within bounds, an identifier of a bounded shape, or a member of a closed set.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

from service.realtime import live
from service.realtime.events import ERROR_CODES, parse_object
from service.realtime.incidents import ERROR, Incident, find_incident
from service.realtime.names import MODEL_NAME
from service.realtime.usage import Tokens, Usage, UsageInconsistent
from service.realtime.values import bounded_number, child, finite_number, member

MAX_SECONDS: Final = 86_400.0
"""Twelve times the longest session. A larger duration is ignored."""
_MAX_MS: Final = MAX_SECONDS * 1000
MAX_TOKENS: Final = 10_000_000
"""Ten times the largest context of a backend model. A larger usage is ignored."""

RESPONSE_FAILED: Final = "response.failed"
RESPONSE_ENDS: Final = ("response.completed", "response.incomplete", RESPONSE_FAILED)
"""The nested events that end a response of a backend model."""

_END_NAMES: Final = tuple(f'"{name}"'.encode() for name in RESPONSE_ENDS)
# A transcript as the provider writes it: a type, strings, and times of less than three hours. It is matched as a whole, and
# no key contains an escape, so that no other type can be in it.
find_transcript = re.compile(
    rb'\{"type": ?"session\.(in|out)put_transcript\.delta",(?: ?"(?!type")[a-z_]++": ?"[^"\\]*+(?:\\.[^"\\]*+)*+",)*+'
    rb' ?"start_ms": ?([0-9]{1,7}+), ?"end_ms": ?([0-9]{1,7}+)\}'
).fullmatch
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}")

Speaker = Literal["user", "assistant"]
_SPEAKERS: Final[Mapping[str, Speaker]] = {live.INPUT_TRANSCRIPT: "user", live.OUTPUT_TRANSCRIPT: "assistant"}
TYPES_OF_TRANSCRIPTS: Final[Mapping[Speaker, str]] = {speaker: kind for kind, speaker in _SPEAKERS.items()}


@dataclass(frozen=True, slots=True)
class SessionUsage:
    """Cumulative duration of a session. The greatest report counts; reports are never added."""

    seconds: float
    active_seconds: float | None = None
    paused_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class BackendResponse:
    """An ended response of a backend model (delegation to Responses). `usage` is None if it is missing or inconsistent."""

    id: str
    model: str | None
    event: str  # one of `RESPONSE_ENDS`
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class Decision:
    """A completed decision of a backend model. `usage` is None if it is missing or inconsistent."""

    model: str | None
    usage: Usage | None


class Transcript(NamedTuple):  # a frozen dataclass takes four times as long, and there are several each second
    """A fragment of speech on the timeline of the session, in milliseconds from its start. Holds no text."""

    speaker: Speaker
    start_ms: float
    end_ms: float


class LiveEvent(NamedTuple):
    """The evaluated parts of one event. A part that the event does not have is None."""

    incident: Incident | None = None
    session_id: str | None = None  # of `session.started`
    model: str | None = None  # of `session.started`
    usage: SessionUsage | None = None
    usage_ratio: float | None = None  # used share of the context window, from 0 to 1
    closed_reason: str | None = None  # one of `live.CLOSED_REASONS`, or `other`
    response: BackendResponse | None = None
    decision: Decision | None = None
    transcript: Transcript | None = None


NOTHING: Final = LiveEvent()


def parse_live_event(kind: str, payload: bytes) -> LiveEvent:
    """Parse an event of a type in `live.PARSED_EVENT_TYPES`. Parts that are missing or malformed are None.

    Most nested events are deltas of a response. Their JSON is not parsed.
    """
    if kind in _SPEAKERS:  # most events that are parsed
        return _transcript_event(_SPEAKERS[kind], payload)
    if kind == live.RESPONSE_EVENT and not any(name in payload for name in _END_NAMES):
        return NOTHING
    body = parse_object(payload)
    match kind:
        case "error":
            return LiveEvent(find_incident(ERROR, body))
        case live.SESSION_STARTED:
            session = child(body, "session")
            return LiveEvent(session_id=_match(_IDENTIFIER, session.get("id")), model=_model(session))
        case live.SESSION_CLOSED | live.USAGE_UPDATED:
            return _usage_event(kind, body)
        case live.RESPONSE_EVENT:
            return _response_event(child(body, "event"))
        case live.DECISION_EVENT:
            return _decision_event(child(body, "event"))
    return NOTHING


def _usage_event(kind: str, body: Mapping[str, Any]) -> LiveEvent:
    usage = child(body, "usage")
    seconds = bounded_number(usage.get("seconds"), MAX_SECONDS)
    ratio = finite_number(child(body, "context_window").get("usage_ratio"))
    return LiveEvent(
        usage=None
        if seconds is None
        else SessionUsage(
            seconds,
            bounded_number(usage.get("active_seconds"), MAX_SECONDS),
            bounded_number(usage.get("paused_seconds"), MAX_SECONDS),
        ),
        usage_ratio=None if ratio is None else min(1.0, max(0.0, ratio)),
        closed_reason=member(body.get("reason"), live.CLOSED_REASONS) if kind == live.SESSION_CLOSED else None,
    )


def _response_event(event: Mapping[str, Any]) -> LiveEvent:
    kind = event.get("type")
    response = child(event, "response")
    identifier = _match(_IDENTIFIER, response.get("id"))
    if kind not in RESPONSE_ENDS:
        return NOTHING
    return LiveEvent(
        Incident(live.RESPONSE_EVENT, member(child(response, "error").get("code"), ERROR_CODES))
        if kind == RESPONSE_FAILED
        else None,
        response=BackendResponse(identifier, _model(response), kind, _tokens(child(response, "usage")))
        if identifier is not None  # without its id a response could be counted twice
        else None,
    )


def _decision_event(event: Mapping[str, Any]) -> LiveEvent:
    if event.get("type") != "decision.completed":
        return NOTHING
    decision = child(event, "decision")
    return LiveEvent(decision=Decision(_model(decision), _tokens(child(decision, "usage"))))


def transcript_of(found: re.Match[bytes]) -> Transcript:
    """Return the transcript that `find_transcript` has found."""
    kind, start, end = found.groups()
    return Transcript("user" if kind == b"in" else "assistant", float(start), float(end))


def _transcript_event(speaker: Speaker, payload: bytes) -> LiveEvent:
    found = find_transcript(payload)
    if found is not None:
        transcript = transcript_of(found)
    else:
        body = parse_object(payload)
        times = [bounded_number(body.get(name), math.inf) for name in ("start_ms", "end_ms")]
        transcript = Transcript(speaker, *(-1.0 if time is None else time for time in times))
    return LiveEvent(transcript=transcript) if is_possible(transcript) else NOTHING


def is_possible(transcript: Transcript) -> bool:
    """Whether the times of a transcript are those of a session."""
    return 0 <= transcript.start_ms <= transcript.end_ms <= _MAX_MS


def _tokens(usage: Mapping[str, Any]) -> Usage | None:
    """The usage object of the Responses API, which does not split tokens by modality: all count as text."""
    whole, output = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    cached = _count(child(usage, "input_tokens_details"), "cached_tokens", 0)
    if whole is None or output is None or cached is None or whole + output > MAX_TOKENS:
        return None
    try:
        return Usage(Tokens(whole), Tokens(output), Tokens(cached))
    except UsageInconsistent:
        return None


def _count(counts: Mapping[str, Any], name: str, default: int | None = None) -> int | None:
    value = counts.get(name, default)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_TOKENS else None


def _model(body: Mapping[str, Any]) -> str | None:
    return _match(MODEL_NAME, body.get("model"))


def _match(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None
