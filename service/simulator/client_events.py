"""Parse a WebSocket message into a client event, for every kind of session.

Source: the errors are those seen on the wire in 2026-09. None of them ends a session.
"""

import json

from service.simulator.connection import Connection
from service.simulator.conversation import decode_audio
from service.simulator.events import ApiError, JSONObject, invalid_type, missing_parameter, require_string

_MAX_APPEND_CHARACTERS = 15 * 1024 * 1024  # of base64; the limit that the API reference gives for one append


def parse_event(message: str | bytes) -> JSONObject:
    """Return the event of a message; its ``type`` is a string. Raises ApiError."""
    if isinstance(message, bytes):
        raise ApiError("invalid_event", "Expected a text WebSocket message; binary frames are not supported.")
    try:
        event = json.loads(message)
    except (ValueError, RecursionError) as error:
        text = "Invalid event: failed to parse JSON value."
        raise ApiError("invalid_json", f"{text} Please check the value to ensure it is valid JSON. ({error})") from None
    if not isinstance(event, dict):
        raise invalid_type("event", "an object", event)
    if event.get("type") is None:
        raise missing_parameter("type")
    require_string(event, "type")
    return event


def echoed_event_id(event: JSONObject | None, connection: Connection) -> str | None:
    """Return the client's ``event_id`` for an ``error`` event, if the provider would send it."""
    event_id = (event or {}).get("event_id")
    return event_id if connection.options.echo_event_id and isinstance(event_id, str) else None


def appended_audio(event: JSONObject, connection: Connection) -> bytes:
    """Return the audio of an append event, decoded, and add it to the connection's record. Raises ApiError."""
    encoded = require_string(event, "audio")
    if len(encoded) > _MAX_APPEND_CHARACTERS:
        message = (
            f"Invalid 'audio': string too long. Expected a string with maximum length {_MAX_APPEND_CHARACTERS}, "
            f"but got a string with length {len(encoded)} instead."
        )
        raise ApiError("string_above_max_length", message, param="audio")
    audio = decode_audio(encoded, "audio")
    connection.record.add_received_audio(audio)
    return audio
