"""The body of a request for a client secret, as the Realtime API has it. Pure.

What of the session is checked is what the relay uses. The provider checks the rest when the session starts: it
knows fields that this version of the relay does not.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, get_args

from service.realtime.names import MODEL_NAME
from service.realtime.policy import JsonObject, PolicyField
from service.realtime.strict_json import Unreadable, folded, parse_strictly

MAX_BODY_BYTES: Final = 49_152
"""The store keeps at most 64 KiB."""
MIN_SECONDS: Final = 10
MAX_SECONDS: Final = 600
DEFAULT_SECONDS: Final = 600
MAX_DEPTH: Final = 64
"""Arrays and objects within each other in a session. Without a bound, what was parsed here might not be written there."""

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class InvalidBody(Exception):
    """A body that is refused: the field, and a remedy."""

    def __init__(self, param: str | None, remedy: str) -> None:
        super().__init__(remedy)
        self.param = param
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class BoundSession:
    """The session that a client secret is bound to: OpenAI's session object, as the body has it, with its type."""

    configuration: JsonObject
    locked: frozenset[PolicyField] = frozenset()  # what the client cannot change, as in a policy

    @property
    def is_transcription(self) -> bool:
        """Whether it is a transcription session, whose model is in its configuration."""
        return self.configuration["type"] == "transcription"

    @property
    def model(self) -> str | None:
        """The model of a conversation; None if the client chooses it."""
        model = self.configuration.get("model")
        return str(model) if model is not None else None

    @property
    def settings(self) -> JsonObject:
        """What a `session.update` sets: all but the model, which is part of the URL, and the type."""
        return {key: value for key, value in self.configuration.items() if key not in {"model", "type"}}


@dataclass(frozen=True, slots=True)
class SecretRequest:
    """What a client secret is requested for, and for how long."""

    session: BoundSession
    seconds: int


def parse_request(payload: bytes) -> SecretRequest:
    """Read a body, which can be empty; raises InvalidBody."""
    try:
        body = parse_strictly(payload, "the body") if payload.strip() else {}
    except Unreadable as unreadable:
        raise InvalidBody(None, str(unreadable)) from None
    _check_keys(body, {"expires_after", "session", "locked"}, "")
    session = _session(body.get("session"))
    if body.get("locked") is not None:
        session = replace(session, locked=_locked(body["locked"], session))
    return SecretRequest(session, _seconds(body.get("expires_after")))


def _locked(names: Any, session: BoundSession) -> frozenset[PolicyField]:  # noqa: ANN401 - JSON from the wire
    known: tuple[PolicyField, ...] = get_args(PolicyField)
    if not isinstance(names, list) or not all(name in known for name in names):
        raise InvalidBody("locked", f"Send locked as an array of {', '.join(known)}.")
    if session.is_transcription and names:
        raise InvalidBody("locked", "Leave locked out: the relay locks no fields of a transcription session.")
    return frozenset(names)


def _seconds(expires_after: Any) -> int:  # noqa: ANN401 - JSON from the wire
    if expires_after is None:
        return DEFAULT_SECONDS
    if not isinstance(expires_after, Mapping):
        raise InvalidBody("expires_after", "Send expires_after as an object with anchor and seconds.")
    _check_keys(expires_after, {"anchor", "seconds"}, "expires_after.")
    if expires_after.get("anchor", "created_at") != "created_at":
        raise InvalidBody("expires_after.anchor", "Send expires_after.anchor as created_at, or leave it out.")
    seconds = expires_after.get("seconds", DEFAULT_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int) or not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise InvalidBody(
            "expires_after.seconds",
            f"Send expires_after.seconds as a whole number from {MIN_SECONDS} to {MAX_SECONDS}.",
        )
    return seconds


def _session(session: Any) -> BoundSession:  # noqa: ANN401 - JSON from the wire
    if session is None:
        session = {}
    if not isinstance(session, Mapping):
        raise InvalidBody("session", "Send session as an object.")
    for key in session:
        if folded(key) in {"type", "model"} and key not in {"type", "model"}:
            raise InvalidBody("session", "Write the keys type and model of session in lower case.")
    kind = session.get("type", "realtime")
    if kind not in ("realtime", "transcription"):
        raise InvalidBody("session.type", "Send session.type as realtime or transcription.")
    model = session.get("model")
    if model is not None and kind == "transcription":
        raise InvalidBody(
            "session.model",
            "Leave session.model out: a transcription session has its model in session.audio.input.transcription.model.",
        )
    if model is not None and not (isinstance(model, str) and MODEL_NAME.fullmatch(model)):
        raise InvalidBody("session.model", "Send session.model as up to 128 letters, digits and . _ : / @ + -")
    if _is_deeper(session, MAX_DEPTH):
        raise InvalidBody("session", f"Send session with at most {MAX_DEPTH} arrays and objects within each other.")
    if _has_infinity(session):
        raise InvalidBody("session", "Send numbers in session that are not above 1.8e308.")
    return BoundSession({**session, "type": kind})


def _is_deeper(value: Any, depth: int) -> bool:  # noqa: ANN401 - JSON from the wire
    if not isinstance(value, Mapping | list):
        return False
    parts = value.values() if isinstance(value, Mapping) else value
    return depth == 0 or any(_is_deeper(part, depth - 1) for part in parts)


def _has_infinity(value: Any) -> bool:  # noqa: ANN401 - JSON from the wire
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return True
    return False


def _check_keys(found: Mapping[str, Any], known: set[str], place: str) -> None:
    unknown = next((key for key in found if key not in known), None)
    if unknown is None:
        return
    name = f"{place}{unknown}" if _NAME.fullmatch(unknown) else (place.rstrip(".") or None)
    listed = " and ".join(f"{place}{key}" for key in sorted(known))
    raise InvalidBody(name, f"Send nothing but {listed}.")
