"""Schemas of the session and response objects in client events.

Source: the API reference "Realtime client events". A schema maps each allowed key to a check or to a nested schema. A check
raises an ApiError that names the path of the key. Validation changes nothing, so that a refused update has no effect.
"""

from collections.abc import Callable, Mapping
from typing import TypeAlias, Union

from service.simulator.audio import FORMATS
from service.simulator.events import (
    JSON,
    JSONObject,
    invalid_type,
    invalid_value,
    out_of_range,
    require_string,
    unknown_parameter,
)

Check: TypeAlias = Callable[[str, JSON], None]
Schema: TypeAlias = Mapping[str, Union["Schema", Check]]

_MIN_RATE = 24_000
_MAX_METADATA_KEYS = 16


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


def _any_value(_param: str, _value: JSON) -> None:
    """Accept any value: the simulator does not use this key."""


def _string(param: str, value: JSON) -> None:
    if value is not None and not isinstance(value, str):
        raise invalid_type(param, "a string", value)


def _boolean(param: str, value: JSON) -> None:
    if not isinstance(value, bool):
        raise invalid_type(param, "a boolean", value)


def _number(minimum: float, maximum: float) -> Check:
    def check_number(param: str, value: JSON) -> None:
        if value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid_type(param, "a number", value)
        if not minimum <= value <= maximum:
            raise out_of_range(param, value, minimum=minimum, maximum=maximum)

    return check_number


def _one_of(*supported: str) -> Check:
    def check_choice(param: str, value: JSON) -> None:
        if value not in supported:
            raise invalid_value(param, value, supported)

    return check_choice


def _list_of(inner: Check) -> Check:
    def check_list(param: str, value: JSON) -> None:
        if value is None:
            return
        if not isinstance(value, list):
            raise invalid_type(param, "an array", value)
        for index, element in enumerate(value):
            inner(f"{param}[{index}]", element)

    return check_list


def _object(param: str, value: JSON) -> None:
    if not isinstance(value, dict):
        raise invalid_type(param, "an object", value)


def _tool(param: str, value: JSON) -> None:
    if not isinstance(value, dict):
        raise invalid_type(param, "an object", value)
    _one_of("function", "mcp")(f"{param}.type", value.get("type"))
    if value["type"] == "function":
        require_string(value, "name", path=f"{param}.")


def _format(param: str, value: JSON) -> None:
    if not isinstance(value, dict):
        raise invalid_type(param, "an object", value)
    rate = value.get("rate")
    for name in value:
        if name not in ("type", "rate"):
            raise unknown_parameter(f"{param}.{name}")
    _one_of(*FORMATS)(f"{param}.type", value.get("type"))
    if value["type"] == "audio/pcm" and rate is not None:
        _number(_MIN_RATE, _MIN_RATE)(f"{param}.rate", rate)


def _max_output_tokens(param: str, value: JSON) -> None:
    if value is not None and value != "inf":
        _number(1, 4096)(param, value)


def _string_or_object(param: str, value: JSON) -> None:
    if value is not None and not isinstance(value, str | dict):
        raise invalid_type(param, "a string or an object", value)


def _metadata(param: str, value: JSON) -> None:
    if value is None:
        return
    _object(param, value)
    if isinstance(value, dict):
        if len(value) > _MAX_METADATA_KEYS:
            raise out_of_range(param, len(value), maximum=_MAX_METADATA_KEYS)
        for name, inner in value.items():
            _string(f"{param}.{name}", inner)


_MODALITIES = _list_of(_one_of("text", "audio"))
_NOISE_REDUCTION: Schema = {"type": _one_of("near_field", "far_field"), "strength": _number(0, 1)}
_TRANSCRIPTION: Schema = {
    "model": _string,
    "language": _string,
    "prompt": _string,
    "delay": _any_value,
    "keywords": _list_of(_string),
    "languages": _list_of(_string),
}
_TURN_DETECTION: Schema = {
    "type": _one_of("server_vad", "semantic_vad"),
    "threshold": _number(0, 1),
    "prefix_padding_ms": _number(0, 5_000),
    "silence_duration_ms": _number(0, 30_000),
    "idle_timeout_ms": _number(5_000, 30_000),
    "eagerness": _one_of("low", "medium", "high", "auto"),
    "create_response": _boolean,
    "interrupt_response": _boolean,
}
_AUDIO_INPUT: Schema = {
    "format": _format,
    "noise_reduction": _NOISE_REDUCTION,
    "transcription": _TRANSCRIPTION,
    "turn_detection": _TURN_DETECTION,
}
_SHARED: Schema = {
    "instructions": _string,
    "output_modalities": _MODALITIES,
    "tools": _list_of(_tool),
    "tool_choice": _string_or_object,
    "parallel_tool_calls": _boolean,
    "max_output_tokens": _max_output_tokens,
    "reasoning": {"effort": _one_of("minimal", "low", "medium", "high", "xhigh")},
    "prompt": _string_or_object,
}

REALTIME_SESSION: Schema = {
    **_SHARED,
    "type": _one_of("realtime"),
    "model": _string,
    "tracing": _string_or_object,
    "truncation": _string_or_object,
    "include": _list_of(_string),
    "audio": {
        "input": _AUDIO_INPUT,
        "output": {"format": _format, "voice": _string_or_object, "speed": _number(0.25, 1.5)},
    },
}
TRANSCRIPTION_SESSION: Schema = {
    "type": _one_of("transcription"),
    "include": _list_of(_string),
    "audio": {"input": _AUDIO_INPUT},
}
TRANSLATION_SESSION: Schema = {
    "audio": {
        "input": {"transcription": {"model": _string}, "noise_reduction": _NOISE_REDUCTION},
        "output": {"language": _string},
    },
}
RESPONSE: Schema = {
    **_SHARED,
    "conversation": _one_of("auto", "none"),
    "input": _list_of(_object),
    "audio": {"output": {"format": _format, "voice": _string_or_object}},
    "metadata": _metadata,
}
