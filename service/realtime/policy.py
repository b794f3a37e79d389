"""A policy: what the relay sets in a session of the Realtime API for its client, and what of it the client sees. Pure.

`policy_review.py` decides which events of the client may pass, `policy_scanner.py` lets none of them pass unread.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal

from service.realtime.events import parse_object

PolicyField = Literal["instructions", "voice", "tools", "max_output_tokens", "turn_detection"]
JsonObject = Mapping[str, object]

SESSION_CREATED: Final = "session.created"
SESSION_UPDATED: Final = "session.updated"
SESSION_EVENT_TYPES: Final = frozenset({SESSION_CREATED, SESSION_UPDATED, "response.created", "response.done"})
"""Server events that show the configuration of a session or a response. With a policy they are read whole."""
MAX_SERVER_EVENT_BYTES: Final = 4 << 20
"""Maximum bytes of such an event. The largest echoes the tools of a `session.update`, which is read up to 2 MiB."""

HIDDEN: Final = "[hidden: it quotes instructions that the operator of the relay has locked]"
_MIN_QUOTATION: Final = 12
_NO_TURN_DETECTION: Final = "none"
_NOTHING: Final[JsonObject] = MappingProxyType({})
_PARTS: Final = frozenset({"audio", "input", "output"})
"""Objects of a session that are no field of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the relay sets in the sessions of a client. None leaves a field to the client and the provider.

    A field in `locked` cannot be changed by the client; one that is locked and None stays what the provider makes it.
    """

    name: str
    instructions: str | None = None
    voice: str | JsonObject | None = None  # a name, or an object with the id of a custom voice
    tools: tuple[JsonObject, ...] | None = None
    max_output_tokens: int | Literal["inf"] | None = None
    turn_detection: JsonObject | Literal["none"] | None = None  # "none" is JSON's null: no turn detection
    locked: frozenset[PolicyField] = frozenset()

    @property
    def hides_instructions(self) -> bool:
        """Whether the client does not see the instructions."""
        return "instructions" in self.locked


def update_event(policy: Policy | None, settings: JsonObject = _NOTHING, kind: str = "realtime") -> bytes | None:
    """The `session.update` that applies a policy and the settings of a client secret; None if they set nothing.

    The settings precede what the policy sets and does not lock. `kind` is the type of the session.
    """
    session = _merged(policy_settings(policy), settings)
    return _encode({"type": "session.update", "session": {"type": kind, **session}}) if session else None


def policy_settings(policy: Policy | None) -> JsonObject:
    """What a policy sets, as fields of a session."""
    if policy is None:
        return _NOTHING
    session: dict[str, object] = {}
    audio: dict[str, object] = {}
    if policy.instructions is not None:
        session["instructions"] = policy.instructions
    if policy.tools is not None:
        session["tools"] = list(policy.tools)
    if policy.max_output_tokens is not None:
        session["max_output_tokens"] = policy.max_output_tokens
    if policy.turn_detection is not None:
        detection = None if policy.turn_detection == _NO_TURN_DETECTION else policy.turn_detection
        audio["input"] = {"turn_detection": detection}
    if policy.voice is not None:
        audio["output"] = {"voice": policy.voice}
    if audio:
        session["audio"] = audio
    return session


def sets(settings: JsonObject, path: str) -> bool:
    """Whether settings of a session contain the field with this path, such as `audio.output.voice`."""
    found: object = settings
    for name in path.split("."):
        if not isinstance(found, Mapping) or name not in found:
            return False
        found = found[name]
    return True


def _merged(below: JsonObject, above: JsonObject) -> JsonObject:
    """Both, with the fields of `above` where both have one. A field is replaced whole, except what `_PARTS` names."""
    merged = dict(below)
    for key, value in above.items():
        part = below.get(key)
        is_part = key in _PARTS and isinstance(part, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(part, value) if is_part else value  # type: ignore[arg-type] # both are mappings
    return merged


def created_as_updated(created: bytes, updated: bytes) -> bytes:
    """The `session.created` of a session that has its policy: with the session object of `session.updated`."""
    session = parse_object(updated).get("session")
    event = parse_object(created)
    return _encode({**event, "session": session}) if event and isinstance(session, Mapping) else created


def without_instructions(payload: bytes) -> bytes | None:
    """An event that may show a session without the instructions, as it is if it has none; None if it cannot be read."""
    event = parse_object(payload)
    if not event:
        return None
    shown = {key: _without(value) if key in {"session", "response"} else value for key, value in event.items()}
    return payload if shown == event else _encode(shown)


def without_quotation(payload: bytes, instructions: str) -> bytes:
    """An event that reports a failure without each text that quotes the instructions, or one half of them, word for word.

    A shorter quotation stays: an error also repeats what the client sent, so to hide less than a half would confirm guesses.
    """
    middle = len(instructions) // 2
    halves = [
        half for half in (instructions[:middle].strip(), instructions[middle:].strip()) if len(half) >= _MIN_QUOTATION
    ]
    quotations = halves or [instructions.strip()]
    event = parse_object(payload)
    shown = _without_quotation(event, quotations)
    return payload if shown == event else _encode(shown)


def _without_quotation(value: Any, quotations: Sequence[str]) -> Any:  # noqa: ANN401 - JSON from the wire
    match value:
        case str():
            return HIDDEN if any(quotation in value for quotation in quotations) else value
        case list():
            return [_without_quotation(item, quotations) for item in value]
        case dict():
            return {key: _without_quotation(item, quotations) for key, item in value.items()}
    return value


def _without(configuration: Any) -> Any:  # noqa: ANN401 - JSON from the wire
    if not isinstance(configuration, Mapping):
        return configuration
    return {key: value for key, value in configuration.items() if key != "instructions"}


def _encode(event: JsonObject) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode("ascii")
