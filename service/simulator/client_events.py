"""Parse a WebSocket message into a client event, for every kind of session.

Source: the errors are those seen on the wire in 2026-09. None of them ends a session.
"""

import json

from service.simulator.connection import Connection
from service.simulator.events import ApiError, JSONObject, invalid_type, require_string, too_long
from service.simulator.items import decode_audio

_MAX_APPEND_CHARACTERS = 15 * 1024 * 1024  # of base64; the limit that the API reference gives for one append
_MAX_EVENT_ID_CHARACTERS = 512


def parse_event(message: str | bytes) -> JSONObject:
    """Return the event of a message. Raises ApiError."""
    if isinstance(message, bytes):
        raise ApiError("invalid_event", "Expected a text WebSocket message; binary frames are not supported.")
    try:
        event = json.loads(message)
    except (ValueError, RecursionError) as error:
        text = "Invalid event: failed to parse JSON value."
        raise ApiError("invalid_json", f"{text} Please check the value to ensure it is valid JSON. ({error})") from None
    if not isinstance(event, dict):
        raise invalid_type("event", "an object", event)
    return event


def parse_type(event: JSONObject) -> str:
    """Return the type of an event. Raises ApiError, also if the event's identifier is invalid."""
    event_type = require_string(event, "type")
    if event.get("event_id") is not None:
        event_id = require_string(event, "event_id")
        if len(event_id) > _MAX_EVENT_ID_CHARACTERS:
            raise too_long("event_id", event_id, _MAX_EVENT_ID_CHARACTERS)
    return event_type


def client_event_id(event: JSONObject | None) -> str | None:
    """Return the client's ``event_id``; None if there is none."""
    event_id = (event or {}).get("event_id")
    return event_id if isinstance(event_id, str) else None


def appended_audio(event: JSONObject, connection: Connection) -> bytes:
    """Return the audio of an append event, decoded, and add it to the connection's record. Raises ApiError."""
    encoded = require_string(event, "audio")
    if len(encoded) > _MAX_APPEND_CHARACTERS:
        raise too_long("audio", encoded, _MAX_APPEND_CHARACTERS)
    audio = decode_audio(encoded, "audio")
    connection.record.add_received_audio(audio)
    return audio
