"""Decides whether an event of a client passes the policy of its session. Pure.

Rules of this file:

* What passes is forwarded unchanged, so it must mean the same to every parser. An event is read strictly: repeated keys and
  what JSON does not allow are refused. Escaped letters in a key are read as the letters that they mean.
* Servers compare keys in different ways: Go's without case, JSON of protobuf also in camel case. Keys are compared here by
  their letters and digits only, without case, so a lock refuses each spelling that a server could accept.
* What is not known is refused: other event types may have fields that set what a policy locks.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from service.realtime.events import CLIENT_EVENT_TYPES, MAX_EVENT_ID
from service.realtime.policy import Policy, PolicyField
from service.realtime.strict_json import Unreadable, folded, parse_strictly

_PATHS: Final[Mapping[PolicyField, tuple[tuple[str, ...], ...]]] = {
    "instructions": (("instructions",),),
    "voice": (("audio", "output", "voice"), ("voice",)),
    "tools": (("tools",),),
    "max_output_tokens": (("max_output_tokens",), ("max_response_output_tokens",)),
    "turn_detection": (("audio", "input", "turn_detection"), ("turn_detection",)),
}
"""Where `session` and `response` have each field: as the API has it, and as its beta and servers compatible with that."""
_PROMPT: Final = ("prompt",)
"""A stored prompt, which can set every field."""
_COMPARED: Final = frozenset(
    folded(name)
    for path in (
        *chain.from_iterable(_PATHS.values()),
        _PROMPT,
        ("type", "session", "response", "item", "input", "role"),
    )
    for name in path
)
"""The keys that are looked for, as `folded`: a client may send thousands of others."""
_ROLES: Final = frozenset({"user", "assistant"})
"""Roles of items that a client may create while the instructions are locked: others are instructions to the model."""


class Refusal(NamedTuple):
    """Why an event does not pass: a reason of the catalogue, the field, a remedy, and the client's id of the event."""

    reason: str
    param: str | None = None
    hint: str | None = None
    event_id: str | None = None


def review(policy: Policy, payload: bytes) -> Refusal | None:
    """Return why a client's event must not pass; None if it may. Without locked fields every event may pass."""
    if not policy.locked:
        return None
    try:
        event = parse_strictly(payload, "each event")
    except Unreadable as unreadable:
        return Refusal("bad_request", hint=str(unreadable))
    event_id = event.get("event_id")
    is_id = isinstance(event_id, str) and len(event_id) <= MAX_EVENT_ID
    refusal = _review_event(policy, event)
    return refusal._replace(event_id=event_id if is_id else None) if refusal is not None else None


def locked_field(policy: Policy, configuration: Mapping[str, Any], name: str) -> Refusal | None:
    """Return the refusal of a session or response that sets a locked field; `name` is its own place, such as `session`."""
    return _locked_field(policy, _Fields(configuration), name)


class _Fields:
    """The values of an object by the letters and digits of their keys, without case: all spellings of a key are one."""

    def __init__(self, container: Mapping[str, Any]) -> None:
        self._values: defaultdict[str, list[Any]] = defaultdict(list)
        for key, value in container.items():
            name = folded(key)
            if name in _COMPARED:
                self._values[name].append(value)

    def of(self, name: str) -> Sequence[Any]:
        """The values of a key in all its spellings."""
        return self._values.get(folded(name), ())

    def place_of(self, path: Sequence[str]) -> str | None:
        """Where the object sets a path: the path, or the part of it that is no object: null would reset what is in it."""
        name, rest = path[0], path[1:]
        for value in self.of(name):
            if not rest or not isinstance(value, Mapping):
                return name
            found = _Fields(value).place_of(rest)
            if found is not None:
                return f"{name}.{found}"
        return None


def _locked_field(policy: Policy, fields: _Fields, name: str) -> Refusal | None:
    for field in _PATHS:  # in a fixed order
        if field in policy.locked:
            for path in _PATHS[field]:
                found = fields.place_of(path)
                if found is not None:
                    return _refusal(field, f"{name}.{found}")
    if fields.place_of(_PROMPT):
        return _refusal("instructions" if policy.hides_instructions else "prompt", f"{name}.prompt")
    return None


def _review_event(policy: Policy, event: Mapping[str, Any]) -> Refusal | None:
    kind, fields = event.get("type"), _Fields(event)
    is_known = isinstance(kind, str) and kind in CLIENT_EVENT_TYPES
    if not is_known or len(fields.of("type")) > 1:
        return Refusal("bad_request", "type", "Send an event of the Realtime API, with its type as the key type.")
    match kind:
        case "session.update":
            return _first(_review_session(policy, session) for session in fields.of("session"))
        case "response.create":
            return _first(_review_response(policy, response) for response in fields.of("response"))
        case "conversation.item.create" if policy.hides_instructions:
            return _first(_review_item(item, "item") for item in fields.of("item"))
    return None


def _review_session(policy: Policy, session: Any) -> Refusal | None:  # noqa: ANN401 - JSON from the wire
    if not isinstance(session, Mapping):
        return Refusal("bad_request", "session", "Send session as an object.")
    fields = _Fields(session)
    refusal = _locked_field(policy, fields, "session")
    if refusal is None and any(value != "realtime" for value in fields.of("type")):
        return _refusal("type", "session.type")
    return refusal


def _review_response(policy: Policy, response: Any) -> Refusal | None:  # noqa: ANN401 - JSON from the wire
    if response is None:
        return None
    if not isinstance(response, Mapping):
        return Refusal("bad_request", "response", "Send response as an object.")
    fields = _Fields(response)
    refusal = _locked_field(policy, fields, "response")
    if refusal is None and policy.hides_instructions:
        return _first(_review_input(items) for items in fields.of("input"))
    return refusal


def _review_input(items: Any) -> Refusal | None:  # noqa: ANN401 - JSON from the wire
    if items is None:
        return None
    if not isinstance(items, list):
        return Refusal("bad_request", "response.input", "Send response.input as an array of items.")
    return _first(_review_item(item, f"response.input[{index}]") for index, item in enumerate(items))


def _review_item(item: Any, name: str) -> Refusal | None:  # noqa: ANN401 - JSON from the wire
    """A message of the system or a developer is an instruction to the model."""
    if not isinstance(item, Mapping):
        return Refusal("bad_request", name, f"Send {name} as an object.")
    if all(isinstance(role, str) and role in _ROLES for role in _Fields(item).of("role")):
        return None
    return _refusal("instructions", f"{name}.role")


def _refusal(field: str, param: str) -> Refusal:
    reason = "instructions_locked" if field == "instructions" else "field_locked"
    return Refusal(reason, param, f"Send the event without {param}: {field} is locked in this session.")


def _first(refusals: Iterator[Refusal | None]) -> Refusal | None:
    return next((refusal for refusal in refusals if refusal is not None), None)
