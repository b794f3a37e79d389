"""Parses the server events that the relay evaluates (`events.PARSED_EVENT_TYPES`): failures, usage, rate limits. Pure.

Every result is a number or a member of a closed set, so it may become a metric.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.realtime.events import parse_object
from service.realtime.incidents import (
    OTHER,
    RATE_LIMIT_NAMES,
    RATE_LIMITS_UPDATED,
    RESPONSE_DONE,
    TRANSCRIPTION_COMPLETED,
    Incident,
    find_incident,
)
from service.realtime.usage import Usage, UsageInconsistent, parse_usage, user_audio_tokens
from service.realtime.values import bounded_number, child, finite_number, member

RESPONSE_STATUSES: Final = ("completed", "cancelled", "failed", "incomplete", OTHER)
INTERRUPTION_REASONS: Final = ("turn_detected", "client_cancelled", OTHER)
"""Reasons of a cancelled response: the user began to speak, or the client sent `response.cancel`."""

_MAX_SECONDS: Final = 86_400.0
_MAX_TOKENS: Final = 10_000_000
"""A hundred times the largest context. A usage above it is ignored, because a counter never recovers from a wrong value."""


@dataclass(frozen=True, slots=True)
class ResponseResult:
    """How a response ended. `usage` is None if the event has none or an inconsistent one."""

    status: str
    interruption: str | None
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class TranscriptionUsage:
    """What the transcription of an item used: tokens, or seconds of audio, by its model.

    `is_reported` is False if the event has no usage, or none that can be read.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    is_reported: bool = True

    @property
    def tokens(self) -> int:
        """All tokens; seconds count as those of a user's audio, so that a budget in tokens holds for each model."""
        return self.input_tokens + self.output_tokens + user_audio_tokens(self.seconds * 1000)


@dataclass(frozen=True, slots=True)
class ParsedEvent:
    """The evaluated parts of one event. A part that the event does not have is None or empty."""

    incident: Incident | None = None
    response: ResponseResult | None = None
    remaining_ratios: tuple[tuple[str, float], ...] = ()  # name of a rate limit, and its remaining share from 0 to 1
    transcription: TranscriptionUsage | None = None


def parse_server_event(kind: str, payload: bytes) -> ParsedEvent:
    """Parse an event of a type in `events.PARSED_EVENT_TYPES`. A payload that is not a JSON object gives an empty result."""
    body = parse_object(payload)
    return ParsedEvent(
        find_incident(kind, body),
        _response_end(body.get("response")) if kind == RESPONSE_DONE else None,
        _remaining_ratios(body.get("rate_limits")) if kind == RATE_LIMITS_UPDATED else (),
        _transcription(child(body, "usage")) if kind == TRANSCRIPTION_COMPLETED else None,
    )


def _transcription(usage: Mapping[str, Any]) -> TranscriptionUsage:
    tokens, output = (bounded_number(usage.get(name), _MAX_TOKENS) for name in ("input_tokens", "output_tokens"))
    seconds = bounded_number(usage.get("seconds"), _MAX_SECONDS)
    is_reported = seconds is not None or (tokens is not None and output is not None)
    return TranscriptionUsage(int(tokens or 0), int(output or 0), seconds or 0.0, is_reported)


def _response_end(response: Any) -> ResponseResult | None:  # noqa: ANN401 - JSON from the wire
    if not isinstance(response, Mapping):
        return None
    status = member(response.get("status"), RESPONSE_STATUSES)
    details = response.get("status_details")
    reason = details.get("reason") if isinstance(details, Mapping) else None
    return ResponseResult(
        status, member(reason, INTERRUPTION_REASONS) if status == "cancelled" else None, _usage(response.get("usage"))
    )


def _usage(counts: Any) -> Usage | None:  # noqa: ANN401 - JSON from the wire
    if not isinstance(counts, Mapping):
        return None
    try:
        usage = parse_usage(counts)
    except UsageInconsistent:
        return None
    return usage if usage.total <= _MAX_TOKENS else None


def _remaining_ratios(limits: Any) -> tuple[tuple[str, float], ...]:  # noqa: ANN401 - JSON from the wire
    found = []
    for limit in limits if isinstance(limits, list) else ():
        if not isinstance(limit, Mapping):
            continue
        total, remaining = finite_number(limit.get("limit")), finite_number(limit.get("remaining"))
        if total is not None and remaining is not None and total > 0:
            found.append((member(limit.get("name"), RATE_LIMIT_NAMES), min(1.0, max(0.0, remaining / total))))
    return tuple(found)
