"""Reads what the relay has to know of a client's `session.start` and `session.update`: the models that they request. Pure.

The provider charges for what these messages request, so they are read strictly: parsers disagree about a key that is
repeated, and a key written with escapes looks different from what it means.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from service.realtime.live import SESSION_START
from service.realtime.names import MODEL_NAME

_CHECKED_KEYS: Final = ("type", "session", "model", "delegation", "responses", "decisions", "triggers")


def _spelled(key: str) -> bytes:
    """A pattern for a key in any spelling; hexadecimal digits have a case."""
    return b"".join(rb"(?:%b|\\u(?i:%04x))" % (letter.encode(), ord(letter)) for letter in key)


_CHECKED_KEY: Final = re.compile(rb'"(%b)"[ \t\r\n]*+:' % b"|".join(map(_spelled, _CHECKED_KEYS)))


@dataclass(slots=True)
class InvalidStart(Exception):
    """A message that cannot be a `session.start`. `problem` and `remedy` are static sentences without a full stop."""

    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class RequestedModels:
    """The models of a session: `model` speaks, None if the message names none; `backends` answer what it delegates.

    `names_user`: whether it also gives the provider a name of the user.
    """

    model: str | None
    backends: tuple[str, ...] = ()
    names_user: bool = False

    @property
    def all(self) -> tuple[str, ...]:
        """Every model that the provider would charge for."""
        return self.backends if self.model is None else (self.model, *self.backends)


def parse_start(payload: bytes, *, is_text: bool) -> RequestedModels:
    """Return the models that a client's first message requests; raises InvalidStart if it is no valid `session.start`."""
    if not is_text:
        raise InvalidStart("The first message is binary", "Send session.start as a text message with a JSON object")
    body = _parse_strictly(payload)
    if body.get("type") != SESSION_START:
        raise InvalidStart(
            "The first message is not session.start",
            'Send {"type":"session.start","session":{"model":"gpt-live-1"}} first: in GPT-Live the client speaks first. For '
            "the Realtime API connect to /v1/realtime",
        )
    session = body.get("session")
    if not isinstance(session, Mapping):
        raise InvalidStart(
            "session.start has no object 'session'", 'Send "session":{"model":"gpt-live-1"} in session.start'
        )
    requested = _models_of(session)
    if requested.model is not None and not MODEL_NAME.fullmatch(requested.model):
        raise InvalidStart(
            "session.model is not a model name", "Send session.model as up to 128 letters, digits and . _ : / @ + -"
        )
    return requested


def parse_update(payload: bytes) -> RequestedModels:
    """Return the models that a `session.update` requests; raises InvalidStart if it cannot be read without doubt."""
    session = _parse_strictly(payload).get("session")
    return _models_of(session) if isinstance(session, Mapping) else RequestedModels(None)


def _parse_strictly(payload: bytes) -> Mapping[str, Any]:
    try:
        body = json.loads(
            payload.decode("utf-8"), object_pairs_hook=_object_without_repeats, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError):
        raise InvalidStart(
            "The message is not valid JSON", "Send a JSON object in UTF-8 without a byte order mark"
        ) from None
    if not isinstance(body, Mapping):
        raise InvalidStart("The message is not a JSON object", "Send a JSON object with 'type' and 'session'")
    if _has_escaped_key(payload):
        raise InvalidStart(
            "A key of the message is written with escapes",
            "Write the keys type, session, model and delegation in plain letters",
        )
    return body


def _object_without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidStart("A key of the message is repeated", "Send each key of an object once")
    return found


def _refuse_constant(_: str) -> None:
    raise ValueError("NaN and Infinity are not JSON")


def _has_escaped_key(payload: bytes) -> bool:
    """Whether a key with a meaning for the relay is written with escapes. The payload is valid JSON."""
    if b"\\u" not in payload:
        return False
    # Without escaped quotation marks, of which it may have a million: each that is left begins or ends a string.
    plain = payload.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    return any(b"\\u" in key for key in _CHECKED_KEY.findall(plain))


def _models_of(session: Mapping[str, Any]) -> RequestedModels:
    delegation = session.get("delegation")
    configurations = [delegation, *_list(session.get("triggers"))]
    backends = [
        backend
        for configuration in configurations
        if isinstance(configuration, Mapping)
        for name in ("responses", "decisions")
        if isinstance(backend := configuration.get(name), Mapping)
    ]
    # A tool may have a model of its own, as that for pictures has.
    named = [user for backend in backends for user in (backend, *_list(backend.get("tools")))]
    models = [user["model"] for user in named if isinstance(user, Mapping) and isinstance(user.get("model"), str)]
    model = session.get("model")
    return RequestedModels(
        model if isinstance(model, str) and model else None,
        tuple(models),
        names_user=session.get("safety_identifier") is not None,
    )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
