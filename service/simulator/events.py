"""Server events, API errors, and the checks that read fields of client events.

Server events are compact JSON whose first keys are ``type`` and ``event_id``. Shapes and error messages are those of the
API reference "Realtime server events" and of the wire as seen in 2026-09. A client event that is invalid raises an
``ApiError``. The session sends it as an ``error`` event and continues: an ``error`` event alone closes nothing.
"""

import json
from typing import TypeAlias

from service.simulator.ids import new_id, random_base62

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
JSONObject: TypeAlias = dict[str, JSON]

_PADDING_BLOCK = 16  # text deltas are padded to a multiple of this, so that their size does not reveal the text


class ApiError(Exception):
    """An error of the API, with the fields of its ``error`` object."""

    def __init__(
        self, code: str | None, message: str, *, param: str | None = None, error_type: str = "invalid_request_error"
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.error_type = error_type

    def as_object(self, client_event_id: str | None = None) -> JSONObject:
        """Return the ``error`` object of an ``error`` event."""
        return {
            "type": self.error_type,
            "code": self.code,
            "message": self.message,
            "param": self.param,
            "event_id": client_event_id,
        }


def server_event(event_type: str, /, **fields: JSON) -> JSONObject:
    """Return a server event with a new ``event_id``; the fields keep their order."""
    return {"type": event_type, "event_id": new_id("event"), **fields}


def text_delta(event_type: str, delta: str, /, **fields: JSON) -> JSONObject:
    """Return a delta of text, transcript or arguments, padded with ``obfuscation``. Audio deltas have no padding."""
    padding = random_base62(_PADDING_BLOCK - len(delta) % _PADDING_BLOCK)
    return server_event(event_type, **fields, delta=delta, obfuscation=padding)


def error_event(error: ApiError, client_event_id: str | None = None) -> JSONObject:
    """Return the ``error`` event for an API error."""
    return server_event("error", error=error.as_object(client_event_id))


def encode(value: JSON) -> str:
    """Return compact JSON that can be encoded as UTF-8."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: valid in JSON as an escape sequence, invalid in UTF-8
        return json.dumps(value, separators=(",", ":"))
    return text


def unknown_parameter(param: str) -> ApiError:
    """Return the error for a key that the object does not have."""
    return ApiError("unknown_parameter", f"Unknown parameter: '{param}'.", param=param)


def missing_parameter(param: str) -> ApiError:
    """Return the error for a required key that is absent."""
    return ApiError("missing_required_parameter", f"Missing required parameter: '{param}'.", param=param)


def invalid_value(param: str, value: JSON, supported: tuple[str, ...]) -> ApiError:
    """Return the error for a value outside a closed set."""
    shown = value if isinstance(value, str) else encode(value)
    return ApiError(
        "invalid_value", f"Invalid value: '{shown}'. Supported values are: {_quoted_list(supported)}.", param=param
    )


def invalid_type(param: str, expected: str, value: JSON) -> ApiError:
    """Return the error for a value of the wrong JSON type."""
    message = f"Invalid type for '{param}': expected {expected}, but got {_json_type(value)} instead."
    return ApiError("invalid_type", message, param=param)


def out_of_range(param: str, value: float, *, minimum: float | None = None, maximum: float | None = None) -> ApiError:
    """Return the error for a number less than `minimum` or, otherwise, greater than `maximum`."""
    name = "integer" if isinstance(value, int) else "decimal"
    if minimum is not None and value < minimum:
        message = (
            f"Invalid '{param}': {name} below minimum value. Expected a value >= {minimum}, but got {value} instead."
        )
        return ApiError(f"{name}_below_min_value", message, param=param)
    message = f"Invalid '{param}': {name} above maximum value. Expected a value <= {maximum}, but got {value} instead."
    return ApiError(f"{name}_above_max_value", message, param=param)


def too_long(param: str, value: str, maximum: int) -> ApiError:
    """Return the error for a string with more than `maximum` characters."""
    message = (
        f"Invalid '{param}': string too long. Expected a string with maximum length {maximum}, "
        f"but got a string with length {len(value)} instead."
    )
    return ApiError("string_above_max_length", message, param=param)


def require_object(owner: JSONObject, name: str, *, path: str = "") -> JSONObject:
    """Return the object at `name`. Raises ApiError if it is absent or has another type."""
    param = f"{path}{name}"
    value = owner.get(name)
    if value is None:
        raise missing_parameter(param)
    if not isinstance(value, dict):
        raise invalid_type(param, "an object", value)
    return value


def require_string(owner: JSONObject, name: str, *, path: str = "") -> str:
    """Return the string at `name`. Raises ApiError if it is absent or has another type."""
    param = f"{path}{name}"
    value = owner.get(name)
    if value is None:
        raise missing_parameter(param)
    if not isinstance(value, str):
        raise invalid_type(param, "a string", value)
    return value


def require_integer(owner: JSONObject, name: str) -> int:
    """Return the integer at `name`. Raises ApiError if it is absent, negative or has another type."""
    value = owner.get(name)
    if value is None:
        raise missing_parameter(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid_type(name, "an integer", value)
    if value < 0:
        raise out_of_range(name, value, minimum=0)
    return value


def _quoted_list(names: tuple[str, ...]) -> str:
    quoted = [f"'{name}'" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])}, and {quoted[-1]}"


def _json_type(value: JSON) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string", list: "an array"}
    return "null" if value is None else names.get(type(value), "an object")
