"""Failures within an open session that do not end it, as counted by `session_incidents_total`. Pure.

The provider reports them in four events: `error`, `response.done` with status `failed`, a failed transcription, and
`rate_limits.updated` with nothing remaining. A client that handles none of them falls silent without a reason.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.realtime.events import ERROR_CODES, find_error

ERROR: Final = "error"
RESPONSE_DONE: Final = "response.done"
TRANSCRIPTION_COMPLETED: Final = "conversation.item.input_audio_transcription.completed"
TRANSCRIPTION_FAILED: Final = "conversation.item.input_audio_transcription.failed"
RATE_LIMITS_UPDATED: Final = "rate_limits.updated"
INCIDENT_EVENTS: Final = (ERROR, RESPONSE_DONE, TRANSCRIPTION_FAILED, RATE_LIMITS_UPDATED)

RATE_LIMIT_NAMES: Final = ("tokens", "requests")
"""Names of the rate limits. Only the beta interface and some compatible servers report `requests`."""
OTHER: Final = "other"


@dataclass(frozen=True, slots=True)
class Incident:
    """One failure: the type of the event that reported it, and a code of a closed set."""

    event: str
    code: str


def find_incident(kind: str, body: Mapping[str, Any]) -> Incident | None:
    """Return the failure that an event of a type in `INCIDENT_EVENTS` reports, or None."""
    if kind in {ERROR, TRANSCRIPTION_FAILED}:
        error = find_error(body)
        return Incident(kind, error.label if error is not None else OTHER)
    if kind == RESPONSE_DONE:
        return _failed_response(body.get("response"))
    return _empty_limit(body.get("rate_limits")) if kind == RATE_LIMITS_UPDATED else None


def _failed_response(response: object) -> Incident | None:
    if not isinstance(response, Mapping) or response.get("status") != "failed":
        return None
    details = response.get("status_details")
    error = details.get("error") if isinstance(details, Mapping) else None
    if not isinstance(error, Mapping):
        return Incident(RESPONSE_DONE, OTHER)
    named = (
        value for value in (error.get("code"), error.get("type")) if isinstance(value, str) and value in ERROR_CODES
    )
    return Incident(RESPONSE_DONE, next(named, OTHER))


def _empty_limit(limits: object) -> Incident | None:
    for limit in limits if isinstance(limits, list) else ():
        remaining = limit.get("remaining") if isinstance(limit, Mapping) else None
        if isinstance(remaining, int | float) and remaining <= 0:
            name = limit.get("name")
            return Incident(RATE_LIMITS_UPDATED, name if name in RATE_LIMIT_NAMES else OTHER)
    return None
