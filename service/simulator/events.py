"""Events as they are written: compact JSON whose keys begin ``type``, ``event_id``; and the mistakes told about them.

Shapes and sentences are those of the API reference "Realtime server events" and of the wire as seen 2026-09.
A ``Mistake`` is raised wherever a client's event cannot be followed; the session turns it into an ``error`` event and
goes on, because ``error`` alone ends nothing.
"""

import json
from typing import TypeAlias

from service.simulator.ids import new_id, random_letters

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
JSONObject: TypeAlias = dict[str, JSON]

_PADDED_TO = 16  # text deltas are filled up to a multiple of this, so that their size says nothing about the words


class Mistake(Exception):
    """What the peer did wrong, as the ``error`` object says it."""

    def __init__(
        self, code: str | None, message: str, *, param: str | None = None, kind: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.kind = kind

    def as_object(self, client_event_id: str | None = None) -> JSONObject:
        """Write the ``error`` object of an event."""
        return {
            "type": self.kind,
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "event_id": client_event_id,
        }


def event(kind: str, /, **fields: JSON) -> JSONObject:
    """Build an event; its keys stay in the order given."""
    return {"type": kind, "event_id": new_id("event"), **fields}


def text_delta(kind: str, delta: str, /, **fields: JSON) -> JSONObject:
    """Build a delta of text, transcript or arguments, padded with ``obfuscation``. Audio deltas carry none."""
    return event(kind, **fields, delta=delta, obfuscation=random_letters(_PADDED_TO - len(delta) % _PADDED_TO))


def error_event(mistake: Mistake, client_event_id: str | None = None) -> JSONObject:
    """Build the ``error`` event that tells of a mistake."""
    return event("error", error=mistake.as_object(client_event_id))


def encode(value: JSON) -> str:
    """Write compact JSON."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which a client may escape and no one may send as it is
        return json.dumps(value, separators=(",", ":"))
    return text


def unknown_parameter(param: str) -> Mistake:
    """A key that no event of this kind has."""
    return Mistake("unknown_parameter", f"Unknown parameter: '{param}'.", param=param)


def missing_parameter(param: str) -> Mistake:
    """A key that is needed and is not there."""
    return Mistake("missing_required_parameter", f"Missing required parameter: '{param}'.", param=param)


def invalid_value(param: str, value: JSON, supported: tuple[str, ...]) -> Mistake:
    """A value outside a closed list."""
    shown = value if isinstance(value, str) else encode(value)
    return Mistake(
        "invalid_value", f"Invalid value: '{shown}'. Supported values are: {_listed(supported)}.", param=param
    )


def invalid_type(param: str, expected: str, value: JSON) -> Mistake:
    """A value of the wrong JSON type."""
    message = f"Invalid type for '{param}': expected {expected}, but got {_kind_of(value)} instead."
    return Mistake("invalid_type", message, param=param)


def out_of_range(param: str, value: float, *, least: float | None = None, most: float | None = None) -> Mistake:
    """A number below its least or above its most."""
    kind = "integer" if isinstance(value, int) else "decimal"
    if least is not None and value < least:
        message = (
            f"Invalid '{param}': {kind} below minimum value. Expected a value >= {least}, but got {value} instead."
        )
        return Mistake(f"{kind}_below_min_value", message, param=param)
    message = f"Invalid '{param}': {kind} above maximum value. Expected a value <= {most}, but got {value} instead."
    return Mistake(f"{kind}_above_max_value", message, param=param)


def need_object(owner: JSONObject, name: str, *, path: str = "") -> JSONObject:
    """Take an object out of an event; a Mistake if it is missing or something else."""
    param = f"{path}{name}"
    value = owner.get(name)
    if value is None:
        raise missing_parameter(param)
    if not isinstance(value, dict):
        raise invalid_type(param, "an object", value)
    return value


def need_text(owner: JSONObject, name: str, *, path: str = "") -> str:
    """Take a string out of an event; a Mistake if it is missing or something else."""
    param = f"{path}{name}"
    value = owner.get(name)
    if value is None:
        raise missing_parameter(param)
    if not isinstance(value, str):
        raise invalid_type(param, "a string", value)
    return value


def need_count(owner: JSONObject, name: str) -> int:
    """Take a number from zero up out of an event; a Mistake if it is missing or something else."""
    value = owner.get(name)
    if value is None:
        raise missing_parameter(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid_type(name, "an integer", value)
    if value < 0:
        raise out_of_range(name, value, least=0)
    return value


def _listed(names: tuple[str, ...]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])}, and {quoted[-1]}"


def _kind_of(value: JSON) -> str:
    kinds = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array"}
    return "null" if value is None else kinds.get(type(value), "an object")
