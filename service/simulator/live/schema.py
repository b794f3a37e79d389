"""Schemas of the client events of GPT-Live and of its session object.

Source: the types of openai-python 3.57 (``types/live``). Unknown keys are refused (seen on the wire in 2026-09), except in
tools, input items and questions, which belong to other APIs.
"""

from service.simulator.events import (
    JSON,
    ApiError,
    JSONObject,
    invalid_type,
    invalid_value,
    missing_parameter,
    require_string,
    unknown_parameter,
)
from service.simulator.schema import (
    Schema,
    any_value,
    boolean,
    json_object,
    list_of,
    number,
    one_of,
    string,
    string_or_object,
    validate,
)

_DELEGATIONS = ("client", "responses", "decisions")
_RATES = {"audio/pcm": (24_000, 16_000), "audio/pcmu": (8_000,), "audio/pcma": (8_000,)}
_TIERS = ("auto", "default", "fast_tier_temp_pilot", "flex", "priority", "ultrafast")
_CONTENT_TYPES = {"developer": ("input_text",), "user": ("input_text",), "assistant": ("text", "output_text")}

# The keys of each client event besides `type` and `event_id`; those with True are required, null included.
_APPEND = {"delegation_id": True, "content": True}
CLIENT_EVENTS: dict[str, dict[str, bool]] = {
    "session.start": {"session": True},
    "session.update": {"session": True},
    "session.input_audio.append": {"audio": True},
    "session.input_audio.mute": {},
    "session.input_audio.unmute": {},
    "session.output_audio.fixture.play": {"audio": True},
    "session.instructions.append": _APPEND,
    "session.thinking.append": _APPEND,
    "session.commentary.append": _APPEND,
    "response.item.create": {"item": True},
    "response.create": {},
    "decision.create": {},
    "decision.item.create": {"item": True},
    "decision.item.delete": {"item_id": True},
    "session.close": {},
    "transport.dtmf.send": {"event": True},
}


def validate_event(event: JSONObject) -> str:
    """Check the keys of a client event; return its type. Raises ApiError."""
    event_type = require_string(event, "type")
    keys = CLIENT_EVENTS.get(event_type)
    if keys is None:
        raise invalid_value("type", event_type, tuple(CLIENT_EVENTS))
    for name in event:
        if name not in keys and name not in ("type", "event_id"):
            raise unknown_parameter(name)
    if event.get("event_id") is not None:
        require_string(event, "event_id")
    for name, required in keys.items():
        if required and name not in event:
            raise missing_parameter(name)
    return event_type


def validate_start(session: JSONObject) -> None:
    """Check the session object of ``session.start``. Raises ApiError."""
    validate(_SESSION, session, "session")
    require_string(session, "model", path="session.")
    _check_delegation(session.get("delegation"), at_start=True)


def validate_update(session: JSONObject) -> None:
    """Check the session object of ``session.update``. Raises ApiError."""
    validate(_UPDATE, session, "session")
    _check_delegation(session.get("delegation"), at_start=False)


def _check_delegation(delegation: JSON, *, at_start: bool) -> None:
    if not isinstance(delegation, dict):
        return
    kind = require_string(delegation, "type", path="session.delegation.")
    for other in ("responses", "decisions"):
        if other in delegation and other != kind:
            raise unknown_parameter(f"session.delegation.{other}")
    if kind == "client" or not at_start:
        return
    settings = delegation.get(kind)
    if not isinstance(settings, dict):
        raise missing_parameter(f"session.delegation.{kind}")
    require_string(settings, "model", path=f"session.delegation.{kind}.")


def _audio_format(param: str, value: JSON) -> None:
    if not isinstance(value, dict):
        raise invalid_type(param, "an object", value)
    for name in value:
        if name not in ("type", "rate"):
            raise unknown_parameter(f"{param}.{name}")
    one_of(*_RATES)(f"{param}.type", value.get("type"))
    rates = _RATES[str(value["type"])]
    if "rate" in value and value["rate"] not in rates:
        raise invalid_value(f"{param}.rate", value["rate"], tuple(map(str, rates)))


def _history(param: str, value: JSON) -> None:
    list_of(_message)(param, value)
    if isinstance(value, list) and len(value) > _MAX_MESSAGES:
        raise ApiError(
            "invalid_value", f"Invalid '{param}': at most {_MAX_MESSAGES} messages are supported.", param=param
        )


def _trigger(param: str, value: JSON) -> None:
    if not isinstance(value, dict):
        raise invalid_type(param, "an object", value)
    one_of("decisions")(f"{param}.type", value.get("type"))
    one_of(*_TRANSCRIPTS)(f"{param}.event_type", value.get("event_type"))
    settings = value.get("decisions")
    if not isinstance(settings, dict) or not isinstance(settings.get("questions"), list):
        raise missing_parameter(f"{param}.decisions.questions")


def _message(param: str, value: JSON) -> None:
    if not isinstance(value, dict):
        raise invalid_type(param, "an object", value)
    one_of(*_CONTENT_TYPES)(f"{param}.role", value.get("role"))
    content = value.get("content")
    if not isinstance(content, list) or len(content) != 1 or not isinstance(content[0], dict):
        raise ApiError("invalid_value", f"Invalid '{param}.content': expected one text part.", param=f"{param}.content")
    supported = _CONTENT_TYPES[str(value["role"])]
    one_of(*supported)(f"{param}.content[0].type", content[0].get("type", supported[0]))
    require_string(content[0], "text", path=f"{param}.content[0].")


_TRANSCRIPTS = ("session.input_transcript.delta", "session.output_transcript.delta")
_MAX_MESSAGES = 128
_DELEGATION: Schema = {
    "type": one_of(*_DELEGATIONS),
    "acknowledgement_delay_ms": number(0, 60_000),
    "responses": {
        "model": string,
        "instructions": string,
        "tools": list_of(json_object),
        "tool_choice": string_or_object,
        "parallel_tool_calls": boolean,
        "max_output_tokens": number(1, 1_000_000),
        "reasoning": json_object,
        "text": json_object,
        "service_tier": one_of(*_TIERS),
    },
    "decisions": {"model": string, "questions": list_of(json_object)},
}
_SESSION: Schema = {
    "model": string,
    "instructions": string,
    "input": _history,
    "audio": {"format": _audio_format, "output": {"voice": string_or_object}},
    "delegation": _DELEGATION,
    "triggers": list_of(_trigger),
    "client": {"data_channel": any_value},
    "safety_identifier": string,
    "store": boolean,
}
_UPDATE: Schema = {"delegation": _DELEGATION, "triggers": list_of(_trigger)}
