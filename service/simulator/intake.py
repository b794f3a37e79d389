"""From a WebSocket message to an event: what every kind of session does before it looks at the type.

Source: the mistakes are those seen on the wire 2026-09; none of them ends a session.
"""

import json

from service.simulator.conversation import decode_audio
from service.simulator.events import JSONObject, Mistake, invalid_type, missing_parameter, need_text
from service.simulator.peer import Peer

_MOST_APPENDED = 15 * 1024 * 1024  # base64 characters; the limit that the API reference gives for one append


def parse_event(message: str | bytes) -> JSONObject:
    """Read a message. Raises a Mistake."""
    if isinstance(message, bytes):
        raise Mistake("invalid_event", "Expected a text WebSocket message; binary frames are not supported.")
    try:
        event = json.loads(message)
    except (ValueError, RecursionError) as fault:
        said = "Invalid event: failed to parse JSON value."
        raise Mistake("invalid_json", f"{said} Please check the value to ensure it is valid JSON. ({fault})") from None
    if not isinstance(event, dict):
        raise invalid_type("event", "an object", event)
    if event.get("type") is None:
        raise missing_parameter("type")
    need_text(event, "type")
    return event


def event_id_of(event: JSONObject | None, peer: Peer) -> str | None:
    """Name the client's event in an error, where the provider does so."""
    event_id = (event or {}).get("event_id")
    return event_id if peer.options.echo_event_id and isinstance(event_id, str) else None


def appended_audio(event: JSONObject, peer: Peer) -> bytes:
    """Take the audio out of an append. Raises a Mistake."""
    encoded = need_text(event, "audio")
    if len(encoded) > _MOST_APPENDED:
        message = (
            f"Invalid 'audio': string too long. Expected a string with maximum length {_MOST_APPENDED}, "
            f"but got a string with length {len(encoded)} instead."
        )
        raise Mistake("string_above_max_length", message, param="audio")
    audio = decode_audio(encoded, "audio")
    peer.record.note_audio_in(audio)
    return audio
