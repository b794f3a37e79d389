"""What the relay reads in the few events that it looks into (`events.READ_TYPES`), with one parse for each. Pure.

Everything that comes out is a number or a member of a closed set, so that it may be counted.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.realtime.events import parse_object
from service.realtime.incidents import (
    OTHER,
    RATE_LIMIT_NAMES,
    RATE_LIMITS_UPDATED,
    RESPONSE_DONE,
    Incident,
    find_incident,
)
from service.realtime.usage import Usage, UsageInconsistent, parse_usage

RESPONSE_STATUSES: Final = ("completed", "cancelled", "failed", "incomplete", OTHER)
INTERRUPTION_REASONS: Final = ("turn_detected", "client_cancelled", OTHER)
"""Why a response was cancelled: the user began to speak, or the client sent `response.cancel`."""

_MOST_TOKENS: Final = 10_000_000
"""No response has so many: a hundred times the largest context. A counter is for ever, so nonsense must not reach it."""


@dataclass(frozen=True, slots=True)
class ResponseResult:
    """How a response ended. `usage` is None where the event has none, or one that contradicts itself."""

    status: str
    interruption: str | None
    usage: Usage | None


@dataclass(frozen=True, slots=True)
class ParsedEvent:
    """What one event tells: at most one thing that went wrong, the end of a response, what is left of the limits."""

    incident: Incident | None = None
    response: ResponseResult | None = None
    remaining_ratios: tuple[tuple[str, float], ...] = ()  # limit and the share of it that is left, 0 to 1


def parse_server_event(kind: str, payload: bytes) -> ParsedEvent:
    """Read an event of one of `events.READ_TYPES`; what is not JSON tells nothing."""
    body = parse_object(payload)
    return ParsedEvent(
        find_incident(kind, body),
        _response_end(body.get("response")) if kind == RESPONSE_DONE else None,
        _remaining_ratios(body.get("rate_limits")) if kind == RATE_LIMITS_UPDATED else (),
    )


def _response_end(response: Any) -> ResponseResult | None:  # noqa: ANN401 - JSON from the wire
    if not isinstance(response, Mapping):
        return None
    status = _member(response.get("status"), RESPONSE_STATUSES)
    details = response.get("status_details")
    reason = details.get("reason") if isinstance(details, Mapping) else None
    return ResponseResult(
        status, _member(reason, INTERRUPTION_REASONS) if status == "cancelled" else None, _usage(response.get("usage"))
    )


def _usage(counts: Any) -> Usage | None:  # noqa: ANN401 - JSON from the wire
    if not isinstance(counts, Mapping):
        return None
    try:
        usage = parse_usage(counts)
    except UsageInconsistent:
        return None
    return usage if usage.total <= _MOST_TOKENS else None


def _remaining_ratios(limits: Any) -> tuple[tuple[str, float], ...]:  # noqa: ANN401 - JSON from the wire
    found = []
    for limit in limits if isinstance(limits, list) else ():
        if not isinstance(limit, Mapping):
            continue
        most, left = _number(limit.get("limit")), _number(limit.get("remaining"))
        if most is not None and left is not None and most > 0:
            found.append((_member(limit.get("name"), RATE_LIMIT_NAMES), min(1.0, max(0.0, left / most))))
    return tuple(found)


def _number(value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        number = float(value) if is_number else math.nan  # type: ignore[arg-type]  # a number, as the line above says
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _member(value: object, known: tuple[str, ...]) -> str:
    return value if isinstance(value, str) and value in known else OTHER
