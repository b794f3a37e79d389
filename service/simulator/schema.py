"""Schemas of the session and response objects in client events.

Source: the API reference "Realtime client events". A schema maps each allowed key to a check or to a nested schema. A check
raises an ApiError that names the path of the key. Validation changes nothing, so that a refused update has no effect.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias, Union

from service.simulator.audio import FORMATS
from service.simulator.events import (
    JSON,
    ApiError,
    JSONObject,
    encode,
    invalid_type,
    invalid_value,
    out_of_range,
    require_string,
    too_long,
    unknown_parameter,
)

Check: TypeAlias = Callable[[str, JSON], None]
Schema: TypeAlias = Mapping[str, Union["Schema", Check]]

_MIN_RATE = 24_000
_MAX_METADATA_KEYS = 16
_MAX_METADATA_CHARACTERS = 512  # of a value
_FUNCTION_KEYS = ("type", "name", "description", "parameters")


def validate(schema: Schema, value: JSONObject, path: str) -> None:
    """Validate an object recursively; `path` is its own path. Raises the ApiError of the first invalid key."""
    for name, inner in value.items():
        param = f"{path}.{name}"
        expected = schema.get(name)
        if expected is None:
            raise unknown_parameter(param)
        if not isinstance(expected, Mapping):
            expected(param, inner)
        elif isinstance(inner, dict):
            validate(expected, inner, param)
        elif inner is not None:
            raise invalid_type(param, "an object", inner)


def any_value(_param: str, _value: JSON) -> None:
    """Accept any value: the simulator does not use this key."""


def string(param: str, value: JSON) -> None:
    """Accept a string or null."""
    if value is not None and not isinstance(value, str):
        raise invalid_type(param, "a string", value)


def boolean(param: str, value: JSON) -> None:
    """Accept true or false."""
    if not isinstance(value, bool):
        raise invalid_type(param, "a boolean", value)


def number(minimum: float, maximum: float) -> Check:
    """Return the check for a number in a range, or null."""

    def check_number(param: str, value: JSON) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid_type(param, "a number", value)
        if not minimum <= value <= maximum:
            raise out_of_range(param, value, minimum=minimum, maximum=maximum)

    return check_number


def one_of(*supported: str) -> Check:
    """Return the check for a value of a closed set."""

    def check_choice(param: str, value: JSON) -> None:
        if value not in supported:
            raise invalid_value(param, value, supported)

    return check_choice


def list_of(inner: Check) -> Check:
    """Return the check for an array whose elements pass `inner`, or null."""

    def check_list(param: str, value: JSON) -> None:
        if value is None:
            return
        if not isinstance(value, list):
            raise invalid_type(param, "an array", value)
        for index, element in enumerate(value):
            inner(f"{param}[{index}]", element)

    return check_list


def json_object(param: str, value: JSON) -> None:
    """Accept an object."""
    if not isinstance(value, dict):
        raise invalid_type(param, "an object", value)


def _tool(param: str, value: JSON) -> None:
    if not isinstance(value, dict):
        raise invalid_type(param, "an object", value)
    one_of("function", "mcp")(f"{param}.type", value.get("type"))
    if value["type"] == "mcp":
        require_string(value, "server_label", path=f"{param}.")
        return
    require_string(value, "name", path=f"{param}.")
    for name in value:
        if name not in _FUNCTION_KEYS:
            raise unknown_parameter(f"{param}.{name}")


def _format(param: str, value: JSON) -> None:
    if not isinstance(value, dict):
        raise invalid_type(param, "an object", value)
    rate = value.get("rate")
    for name in value:
        if name not in ("type", "rate"):
            raise unknown_parameter(f"{param}.{name}")
    one_of(*FORMATS)(f"{param}.type", value.get("type"))
    if value["type"] == "audio/pcm" and rate is not None:
        number(_MIN_RATE, _MIN_RATE)(f"{param}.rate", rate)


def _max_output_tokens(param: str, value: JSON) -> None:
    if value is not None and value != "inf":
        number(1, 4096)(param, value)


def string_or_object(param: str, value: JSON) -> None:
    """Accept a string, an object or null."""
    if value is not None and not isinstance(value, str | dict):
        raise invalid_type(param, "a string or an object", value)


def object_or_one_of(*supported: str) -> Check:
    """Return the check for an object, null or a string of a closed set."""

    def check_object_or_choice(param: str, value: JSON) -> None:
        string_or_object(param, value)
        if isinstance(value, str) and value not in supported:
            raise invalid_value(param, value, supported)

    return check_object_or_choice


def _modalities(param: str, value: JSON) -> None:
    list_of(one_of("text", "audio"))(param, value)
    if isinstance(value, list) and len(value) != 1:  # not both, which the beta interface required
        message = f"Invalid modalities: {encode(value)}. Supported combinations are: ['text'] and ['audio']."
        raise ApiError("invalid_value", message, param=param)


def _metadata(param: str, value: JSON) -> None:
    if value is None:
        return
    json_object(param, value)
    if isinstance(value, dict):
        if len(value) > _MAX_METADATA_KEYS:
            raise out_of_range(param, len(value), maximum=_MAX_METADATA_KEYS)
        for name, inner in value.items():
            if len(require_string(value, name, path=f"{param}.")) > _MAX_METADATA_CHARACTERS:
                raise too_long(f"{param}.{name}", str(inner), _MAX_METADATA_CHARACTERS)


_VOICES = (
    "alloy",
    "ash",
    "ballad",
    "coral",
    "echo",
    "sage",
    "shimmer",
    "verse",
    "marin",
    "cedar",
)  # 2026-11; or an object
_NOISE_REDUCTION: Schema = {"type": one_of("near_field", "far_field"), "strength": number(0, 1)}
_TRANSCRIPTION: Schema = {
    "model": string,
    "language": string,
    "prompt": string,
    "delay": any_value,
    "keywords": list_of(string),
    "languages": list_of(string),
}
_TURN_DETECTION: Schema = {
    "type": one_of("server_vad", "semantic_vad"),
    "threshold": number(0, 1),
    "prefix_padding_ms": number(0, 5_000),
    "silence_duration_ms": number(0, 30_000),
    "idle_timeout_ms": number(5_000, 30_000),
    "eagerness": one_of("low", "medium", "high", "auto"),
    "create_response": boolean,
    "interrupt_response": boolean,
}
_AUDIO_INPUT: Schema = {
    "format": _format,
    "noise_reduction": _NOISE_REDUCTION,
    "transcription": _TRANSCRIPTION,
    "turn_detection": _TURN_DETECTION,
}
_SHARED: Schema = {
    "instructions": string,
    "output_modalities": _modalities,
    "tools": list_of(_tool),
    "tool_choice": object_or_one_of("auto", "none", "required"),
    "parallel_tool_calls": boolean,
    "max_output_tokens": _max_output_tokens,
    "reasoning": {"effort": one_of("minimal", "low", "medium", "high", "xhigh")},
    "prompt": string_or_object,
}

REALTIME_SESSION: Schema = {
    **_SHARED,
    "type": one_of("realtime"),
    "model": string,
    "tracing": object_or_one_of("auto"),
    "truncation": object_or_one_of("auto", "disabled"),
    "include": list_of(string),
    "audio": {
        "input": _AUDIO_INPUT,
        "output": {"format": _format, "voice": object_or_one_of(*_VOICES), "speed": number(0.25, 1.5)},
    },
}
TRANSCRIPTION_SESSION: Schema = {
    "type": one_of("transcription"),
    "include": list_of(string),
    "audio": {"input": _AUDIO_INPUT},
}
TRANSLATION_SESSION: Schema = {
    "audio": {
        "input": {"transcription": {"model": string}, "noise_reduction": _NOISE_REDUCTION},
        "output": {"language": string},
    },
}
RESPONSE: Schema = {
    **_SHARED,
    "conversation": one_of("auto", "none"),
    "input": list_of(json_object),
    "audio": {"output": {"format": _format, "voice": object_or_one_of(*_VOICES)}},
    "metadata": _metadata,
}
