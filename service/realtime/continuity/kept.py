"""The events that a session keeps to be continued on another upstream, and how their JSON is read later. Pure."""

import json
from collections.abc import Mapping
from typing import Any, Final

from service.realtime.events import parse_object
from service.realtime.frames import Header, read_header, unmask

APPEND: Final = "input_audio_buffer.append"
COMMIT: Final = "input_audio_buffer.commit"
CLEAR: Final = "input_audio_buffer.clear"
SESSION_UPDATE: Final = "session.update"
ITEM_CREATE: Final = "conversation.item.create"
ITEM_DELETE: Final = "conversation.item.delete"
ITEM_TRUNCATE: Final = "conversation.item.truncate"
ITEM_RETRIEVE: Final = "conversation.item.retrieve"
RESPONSE_CREATE: Final = "response.create"
RESPONSE_CANCEL: Final = "response.cancel"

AUDIO_DELTA: Final = "response.output_audio.delta"
ERROR: Final = "error"
SESSION_CREATED: Final = "session.created"
SESSION_UPDATED: Final = "session.updated"
ITEM_ADDED: Final = "conversation.item.added"
ITEM_DONE: Final = "conversation.item.done"
ITEM_CREATED: Final = "conversation.item.created"
ITEM_DELETED: Final = "conversation.item.deleted"
ITEM_TRUNCATED: Final = "conversation.item.truncated"
ITEM_RETRIEVED: Final = "conversation.item.retrieved"
TRANSCRIBED: Final = "conversation.item.input_audio_transcription.completed"
NOT_TRANSCRIBED: Final = "conversation.item.input_audio_transcription.failed"
TRANSCRIPTION_DELTA: Final = "conversation.item.input_audio_transcription.delta"
TRANSCRIPTION_SEGMENT: Final = "conversation.item.input_audio_transcription.segment"
COMMITTED: Final = "input_audio_buffer.committed"
CLEARED: Final = "input_audio_buffer.cleared"
SPEECH_STARTED: Final = "input_audio_buffer.speech_started"
SPEECH_STOPPED: Final = "input_audio_buffer.speech_stopped"
IDLE_TIMEOUT: Final = "input_audio_buffer.timeout_triggered"
RESPONSE_CREATED: Final = "response.created"
RESPONSE_DONE: Final = "response.done"
OUTPUT_ADDED: Final = "response.output_item.added"
OUTPUT_DONE: Final = "response.output_item.done"
PART_ADDED: Final = "response.content_part.added"
ARGUMENTS_DONE: Final = "response.function_call_arguments.done"
MCP_CALL_TYPES: Final = frozenset({"mcp_call", "mcp_tool_call"})
"""The types of an item: the API reference has named it both ways, and so do clients."""
MCP_CALLED: Final = "response.mcp_call.completed"
MCP_NOT_CALLED: Final = "response.mcp_call.failed"
MCP_LISTING: Final = "mcp_list_tools.in_progress"
MCP_LISTED: Final = "mcp_list_tools.completed"
MCP_NOT_LISTED: Final = "mcp_list_tools.failed"
TRANSCRIPT_DELTA: Final = "response.output_audio_transcript.delta"
TEXT_DELTA: Final = "response.output_text.delta"

DELTAS: Final = frozenset({TRANSCRIPT_DELTA, TEXT_DELTA})
"""The words of an answer as they come. They are needed only if the answer is cut."""

TRANSCRIPTION_PARTS: Final = frozenset({TRANSCRIPTION_DELTA, TRANSCRIPTION_SEGMENT})
TRANSCRIPTION_ENDS: Final = frozenset({TRANSCRIBED, NOT_TRANSCRIBED})
TRANSCRIPTION_TYPES: Final = TRANSCRIPTION_PARTS | TRANSCRIPTION_ENDS

KEEP_FROM_UPSTREAM: Final = frozenset(
    {
        ERROR,
        SESSION_CREATED,
        SESSION_UPDATED,
        ITEM_ADDED,
        ITEM_DONE,
        ITEM_CREATED,
        ITEM_DELETED,
        ITEM_TRUNCATED,
        ITEM_RETRIEVED,
        *TRANSCRIPTION_TYPES,
        COMMITTED,
        CLEARED,
        SPEECH_STARTED,
        SPEECH_STOPPED,
        IDLE_TIMEOUT,
        RESPONSE_CREATED,
        RESPONSE_DONE,
        OUTPUT_ADDED,
        OUTPUT_DONE,
        PART_ADDED,
        ARGUMENTS_DONE,
        MCP_CALLED,
        MCP_NOT_CALLED,
        MCP_LISTING,
        MCP_LISTED,
        MCP_NOT_LISTED,
        TRANSCRIPT_DELTA,
        TEXT_DELTA,
    }
)
"""Of the audio of an answer only number and size count."""

KEEP_FROM_CLIENT: Final = frozenset(
    {
        APPEND,
        COMMIT,
        CLEAR,
        SESSION_UPDATE,
        ITEM_CREATE,
        ITEM_DELETE,
        ITEM_TRUNCATE,
        ITEM_RETRIEVE,
        RESPONSE_CREATE,
        RESPONSE_CANCEL,
    }
)

MAX_KEPT_BYTES: Final = 1_048_576
"""A larger message of a kept type is not kept, and its session is not renewable."""

BODILESS: Final = frozenset({ITEM_RETRIEVED})
"""Types of which only is kept that an event came: an item that is retrieved has all of its audio."""


def payload_of(raw: bytes, *, masked: bool) -> bytes:
    """Return the payload of one whole message from its frames; empty if they are none."""
    offset, parts = 0, []
    while offset < len(raw):
        header = read_header(raw, offset, masked=masked)
        if not isinstance(header, Header):
            return b""
        start = offset + header.size
        offset = start + header.length
        parts.append(unmask(raw[start:offset], header.key))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def body_of(raw: bytes, *, masked: bool) -> Mapping[str, Any]:
    """Return the JSON object in a message's frames; empty if there is none."""
    return parse_object(payload_of(raw, masked=masked))


def dumps(body: Mapping[str, Any]) -> bytes:
    """Return the compact JSON text of an event."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only hold escaped
        return json.dumps(body, separators=(",", ":")).encode()


def text(value: object) -> str:
    """The value if it is a string, else an empty one."""
    return value if isinstance(value, str) else ""
