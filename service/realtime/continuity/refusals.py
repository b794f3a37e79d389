"""Which of a client's events an `error` refuses that does not name the event. Pure."""

from typing import Final

from service.realtime.continuity.kept import (
    COMMIT,
    ITEM_CREATE,
    ITEM_DELETE,
    ITEM_RETRIEVE,
    ITEM_TRUNCATE,
    RESPONSE_CANCEL,
    RESPONSE_CREATE,
    SESSION_UPDATE,
)

_TYPE_OF_CODE: Final = {
    "conversation_already_has_active_response": RESPONSE_CREATE,
    "response_cancel_not_active": RESPONSE_CANCEL,
    "input_audio_buffer_commit_empty": COMMIT,
    "item_create_duplicate_item_id": ITEM_CREATE,
    "item_create_invalid_previous_item_id": ITEM_CREATE,
    "invalid_tool_call_id": ITEM_CREATE,
    "item_retrieve_invalid_item_id": ITEM_RETRIEVE,
    "item_delete_invalid_item_id": ITEM_DELETE,
    "item_truncate_invalid_item_id": ITEM_TRUNCATE,
    "unsupported_content_type": ITEM_TRUNCATE,
    "cannot_update_voice": SESSION_UPDATE,
    "immutable_field_update": SESSION_UPDATE,
}
_TYPE_OF_PARAM: Final = {
    "session": SESSION_UPDATE,
    "item": ITEM_CREATE,
    "previous_item_id": ITEM_CREATE,
    "response": RESPONSE_CREATE,
    "audio_end_ms": ITEM_TRUNCATE,
    "content_index": ITEM_TRUNCATE,
    "response_id": RESPONSE_CANCEL,
}


def refused_type(code: str, param: str) -> str | None:
    """The type of the refused event, by the error's code, or else by its parameter; None if neither shows it."""
    return _TYPE_OF_CODE.get(code) or _TYPE_OF_PARAM.get(param.partition(".")[0])
