"""The ``error`` events of GPT-Live, and errors of its own."""

import uuid

from service.simulator.events import ApiError, JSONObject, server_event

_VOICE_ACCESS_DENIED = "Voice session access denied"


def live_error(error: ApiError, client_event_id: str | None = None) -> JSONObject:
    """Return the ``error`` event of a session that continues. Absent fields are omitted."""
    return server_event("error", error=_fields(error, client_event_id))


def start_error(error: ApiError) -> JSONObject:
    """Return the ``error`` event of a refused start: its ``event_id`` is a UUID, and it names no client event."""
    return {"type": "error", "event_id": f"event_{uuid.uuid4()}", "error": _fields(error, None)}


def forbidden() -> ApiError:
    """Return the error for a token or project without access, and for an unknown voice: the provider gives one for all."""
    return ApiError("forbidden", _VOICE_ACCESS_DENIED)


def invalid_event(message: str) -> ApiError:
    """Return the error for an event that the session does not accept in its state."""
    return ApiError("invalid_event", message)


def _fields(error: ApiError, client_event_id: str | None) -> JSONObject:
    fields: JSONObject = {"type": error.error_type, "code": error.code, "message": error.message}
    if error.param is not None:
        fields["param"] = error.param
    if client_event_id is not None:
        fields["client_event_id"] = client_event_id
    return fields
