"""The scenarios: every way in which the simulator can fail, by name.

A scenario is selected, in this order, by the query of an upgrade request (``simulate=<name>``, for one connection among
others that work), by the key (``sk-sim-<name>`` or ``sk-sim-<name>-anything``; the longest matching name wins), or by
the simulator's option. A key that names no scenario, or ``good``, uses the option; without an option the key is valid.
Scenarios are implemented where they take effect: before and at the upgrade in ``faults``, in the first event in
``refusals``, later in the sessions. Those of GPT-Live are in ``live``.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Self

KEY_PREFIX = "sk-sim-"
QUERY_PARAMETER = "simulate"
_REALTIME_WORKS = "the provider works"


class Scenario(Enum):
    """One behaviour of the simulator: its value is the name, `description` is its line in ``simulate --help``."""

    description: str
    on_live: str | None

    def __new__(cls, name: str, description: str, on_live: str | None = None) -> Self:
        """Set the value to the name and keep the descriptions; `on_live` is that of GPT-Live, if it differs."""
        member = object.__new__(cls)
        member._value_ = name
        member.description = description
        member.on_live = on_live
        return member

    @property
    def is_live_only(self) -> bool:
        """Whether the Realtime API works in this scenario."""
        return self.description == _REALTIME_WORKS and self.on_live is not None

    GOOD = "good", "the provider works"

    # Refused after the upgrade: 101, `error`, CLOSE.
    KEY_REJECTED = "key-rejected", "wrong key: 101, error invalid_api_key, close 3000", "401 invalid_api_key"
    KEY_MISSING = "key-missing", "no key in the request: 101, error, close 3000", "401 missing_authorization"
    KEY_FORBIDDEN = (
        "key-forbidden",
        "key without a scope: 101, error 'Missing scopes' without a code, close 3000",
        "the start fails: error forbidden, close 4000",
    )
    QUOTA_EXHAUSTED = (
        "quota-exhausted",
        "no credit: 101, error credit_balance_exhausted, close 1013",
        "the start fails: error credit_balance_exhausted, close 4000",
    )
    MODEL_NOT_FOUND = (
        "model-not-found",
        "model retired or not accessible: 101, error, close 4004",
        "the start fails: error invalid_model, close 4000",
    )
    INVALID_MODEL = (
        "invalid-model",
        "unknown model name: 101, error, close 4000",
        "the start fails: error invalid_model, close 4000",
    )
    BETA_SHAPE = "beta-shape", "request for the beta interface: 101, error, close 4000", "the provider works"
    RATE_LIMITED_INBAND = (
        "rate-limited-inband",
        "too many requests: 101, error rate_limit_exceeded, close 1013",
        "the start fails: error rate_limit_exceeded, close 4000 (the provider's form is unknown)",
    )
    OVERLOADED = "overloaded", "101, then close 1013 without an event or a reason", "close 1013 after session.start"
    CLOSE_ONLY = (
        "close-only",
        "wrong key: 101, then close 3000 with the reason but without the event",
        "close 4000 after session.start, with the reason but without the event",
    )

    # The connection fails during or just after the upgrade.
    DROP = "drop", "101, then FIN"
    RESET = "reset", "101, then RST"
    HANG = "hang", "101, then no response to anything"
    HANG_BEFORE_101 = "hang-before-101", "no response to the upgrade request"
    SLOW_FIRST_EVENT = "slow-first-event", "101, then session.created after a delay", "session.started after a delay"
    REDIRECT = "redirect", "302 to another host"
    NO_UPGRADE = "no-upgrade", "200 with an HTML page, as from a captive portal"
    WRONG_ACCEPT = "wrong-accept", "101 with a wrong Sec-WebSocket-Accept"

    # Refused with an HTTP status.
    HTTP_401 = "http-401", "401, wrong key"
    HTTP_403 = "http-403", "403 without a body"
    HTTP_403_GEO = "http-403-geo", "403, country not supported"
    HTTP_404 = "http-404", "404 without a body"
    HTTP_429 = "http-429", "429, too many requests, Retry-After: 7"
    HTTP_429_QUOTA = "http-429-quota", "429, quota exhausted"
    HTTP_500 = "http-500", "500, server error"
    HTTP_502 = "http-502", "502, bad gateway"
    HTTP_503 = "http-503", "503, overloaded, Retry-After: 30"
    HTTP_504 = "http-504", "504, gateway timeout"
    HTTP_520_HTML = "http-520-html", "520 with an HTML page from the provider's edge"

    # The session starts normally and fails later.
    MODEL_ACCESS_LATE = (
        "model-access-late",
        "the session starts; every response fails with model_not_found",
        "every response of the backend fails with model_not_found",
    )
    EXPIRE_SOON = (
        "expire-soon",
        "the session expires after one second: error session_expired, close 1001",
        "session.closed with the reason expired after one second",
    )
    EXPIRE_SILENT = (
        "expire-silent",
        "the session expires after one second: close 1001 without the event",
        "close 1001 without session.closed after one second",
    )
    SERVER_ERROR_MID = (
        "server-error-mid",
        "every response fails halfway with server_error",
        "every response of the backend fails with server_error",
    )
    RATE_LIMITED_MID = (
        "rate-limited-mid",
        "every response fails with rate_limit_exceeded",
        "every response of the backend fails with rate_limit_exceeded",
    )
    DROP_MID = "drop-mid", "FIN after three client events"
    RESET_MID = "reset-mid", "RST after three client events"
    GOING_AWAY_MID = "going-away-mid", "close 1001 after three client events, as during a deployment"
    INTERNAL_ERROR_MID = "internal-error-mid", "close 1011 after three client events"
    STALL_MID = "stall-mid", "no event, pong or close frame after three client events"

    # GPT-Live only; on the Realtime API the provider works.
    LIVE_DELEGATE = "live-delegate", _REALTIME_WORKS, "client delegation of everything that the user says"
    LIVE_CLOSE_SLOW = "live-close-slow", _REALTIME_WORKS, "session.closed follows session.close after 10 seconds"
    LIVE_CLOSE_NEVER = "live-close-never", _REALTIME_WORKS, "session.close has no answer"
    LIVE_CLOSE_SILENT = "live-close-silent", _REALTIME_WORKS, "session.close is answered by a close frame only"
    LIVE_CONNECTION_LOST = (
        "live-connection-lost",
        _REALTIME_WORKS,
        "session.closed with the reason connection_lost after three client events",
    )
    LIVE_CONTENT = "live-content", _REALTIME_WORKS, "session.closed with the reason content after three client events"
    LIVE_REMOTE_HANGUP = (
        "live-remote-hangup",
        _REALTIME_WORKS,
        "session.closed with the reason remote_hangup after three client events",
    )

    MODEL_REST_ONLY_401 = "model-rest-only-401", "REST answers 401 'Missing scopes'; WebSocket connections work"


_BY_NAME = {scenario.value: scenario for scenario in Scenario}
SCENARIO_NAMES = tuple(_BY_NAME)


def parse_scenario(name: str | None) -> Scenario:
    """Return the scenario of this name; None is `good`. Raises ValueError that lists the valid names."""
    if name is None:
        return Scenario.GOOD
    if name not in _BY_NAME:
        raise ValueError(f"unknown scenario {name!r}; valid names: {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def scenario_for_key(key: str | None, default: Scenario) -> Scenario:
    """Return the scenario that a key names, or `default` if it names none or `good`."""
    if key is None or not key.startswith(KEY_PREFIX):
        return default
    rest = key.removeprefix(KEY_PREFIX)
    matches = [name for name in _BY_NAME if rest == name or rest.startswith(f"{name}-")]
    scenario = _BY_NAME[max(matches, key=len)] if matches else Scenario.GOOD
    return default if scenario is Scenario.GOOD else scenario


def scenario_from_query(query: Mapping[str, str]) -> Scenario | None:
    """Return the scenario in the query of a request; None if there is none. Raises ValueError that lists the valid names."""
    return parse_scenario(query[QUERY_PARAMETER]) if QUERY_PARAMETER in query else None
