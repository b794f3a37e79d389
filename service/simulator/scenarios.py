"""The catalogue of scenarios: every way in which this upstream can misbehave, by name.

A scenario comes from the query of a request to upgrade (``simulate=<name>``, for one call that is to fail among others that
are well), else from the key (``sk-sim-<name>``, and ``sk-sim-<name>-anything``; the longest name wins), else from the
simulator's option. A key that names none follows the option, and is good without one. What a scenario does is decided
where it happens: before the upgrade in ``faults``, in the first event in ``refusals``, later in the sessions.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Self

KEY_PREFIX = "sk-sim-"
QUERY_PARAMETER = "simulate"


class Scenario(Enum):
    """One way to behave; its value is the name, its ``says`` the sentence for people."""

    says: str

    def __new__(cls, name: str, says: str) -> Self:
        """Take the name as the value and keep the sentence beside it."""
        member = object.__new__(cls)
        member._value_ = name
        member.says = says
        return member

    GOOD = "good", "nothing is wrong"

    # Refused inside the socket: 101, `error`, CLOSE.
    KEY_REJECTED = "key-rejected", "the key is wrong: 101, error invalid_api_key, close 3000"
    KEY_MISSING = "key-missing", "as if no key had come: 101, error, close 3000"
    KEY_FORBIDDEN = "key-forbidden", "the key lacks a scope: 101, error 'Missing scopes' without a code, close 3000"
    QUOTA_EXHAUSTED = "quota-exhausted", "no credit is left: 101, error credit_balance_exhausted, close 1013"
    MODEL_NOT_FOUND = "model-not-found", "the model is retired or out of reach: 101, error, close 4004"
    INVALID_MODEL = "invalid-model", "the model's name is unknown: 101, error, close 4000"
    BETA_SHAPE = "beta-shape", "as if the beta interface had been asked for: 101, error, close 4000"
    RATE_LIMITED_INBAND = "rate-limited-inband", "too many requests: 101, error rate_limit_exceeded, close 1013"
    OVERLOADED = "overloaded", "101, then close 1013 without an event or a reason"
    CLOSE_ONLY = "close-only", "the key is wrong: 101, then close 3000 with the reason, without the event"

    # The connection fails around the upgrade.
    DROP = "drop", "101, then FIN"
    RESET = "reset", "101, then RST"
    HANG = "hang", "101, then silence"
    HANG_BEFORE_101 = "hang-before-101", "the request is never answered"
    SLOW_FIRST_EVENT = "slow-first-event", "101, and session.created much later"
    REDIRECT = "redirect", "302 to another host"
    NO_UPGRADE = "no-upgrade", "200 and a page of HTML: a captive portal"
    WRONG_ACCEPT = "wrong-accept", "101 whose Sec-WebSocket-Accept is wrong"

    # Refused with an HTTP status.
    HTTP_401 = "http-401", "401, the key is wrong"
    HTTP_403 = "http-403", "403 without a body"
    HTTP_403_GEO = "http-403-geo", "403, the country is not supported"
    HTTP_404 = "http-404", "404 without a body"
    HTTP_429 = "http-429", "429, too many requests, Retry-After: 7"
    HTTP_429_QUOTA = "http-429-quota", "429, the quota is used up"
    HTTP_500 = "http-500", "500, a server's error"
    HTTP_502 = "http-502", "502, a bad gateway"
    HTTP_503 = "http-503", "503, overloaded, Retry-After: 30"
    HTTP_504 = "http-504", "504, a gateway's timeout"
    HTTP_520_HTML = "http-520-html", "520 and a page of HTML from the edge"

    # The session begins well.
    MODEL_ACCESS_LATE = "model-access-late", "all is well until the first response fails with model_not_found"
    EXPIRE_SOON = "expire-soon", "the session's cap is reached after a second: error session_expired, close 1001"
    EXPIRE_SILENT = "expire-silent", "the session's cap is reached after a second: close 1001 without the event"
    SERVER_ERROR_MID = "server-error-mid", "every response fails in the middle with server_error"
    RATE_LIMITED_MID = "rate-limited-mid", "every response fails with rate_limit_exceeded"
    DROP_MID = "drop-mid", "FIN after some of the client's events"
    RESET_MID = "reset-mid", "RST after some of the client's events"
    GOING_AWAY_MID = "going-away-mid", "close 1001 after some of the client's events, as in a deployment"
    INTERNAL_ERROR_MID = "internal-error-mid", "close 1011 after some of the client's events"
    STALL_MID = "stall-mid", "silence after some of the client's events: no event, no pong, no close"

    MODEL_REST_ONLY_401 = "model-rest-only-401", "REST says 401 'Missing scopes'; the socket works"


_NAMES = {scenario.value: scenario for scenario in Scenario}


def parse_scenario(name: str | None) -> Scenario:
    """Read a scenario's name; None is good. Raises ValueError with the names that exist."""
    if name is None:
        return Scenario.GOOD
    if name not in _NAMES:
        raise ValueError(f"no scenario is called {name!r}; there are: {', '.join(_NAMES)}")
    return _NAMES[name]


def scenario_for(key: str | None, default: Scenario) -> Scenario:
    """Choose what a key gets."""
    if key is None or not key.startswith(KEY_PREFIX):
        return default
    rest = key.removeprefix(KEY_PREFIX)
    named = [name for name in _NAMES if rest == name or rest.startswith(f"{name}-")]
    chosen = _NAMES[max(named, key=len)] if named else Scenario.GOOD
    return default if chosen is Scenario.GOOD else chosen


def scenario_in_query(query: Mapping[str, str]) -> Scenario | None:
    """Read the scenario that one request asks for; None if it asks for none. Raises ValueError with the names that exist."""
    return parse_scenario(query[QUERY_PARAMETER]) if QUERY_PARAMETER in query else None
