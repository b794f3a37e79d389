"""Event types, and the type of an event from its JSON text. Pure.

Of most messages the relay reads only the `type`. It parses messages of the types in `PARSED_EVENT_TYPES` as a whole, and
those whose first bytes do not show their type: a type that was not found is not a type that does not matter.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from service.realtime.intricacy import MAX_PARSED_SEPARATORS, is_intricate

HEAD_BYTES: Final = 512
"""Bytes of a message that are searched for its type before the whole message is read. Most servers and SDKs put it first."""

MAX_EVENT_ID: Final = 512
_SHORTEST_BYTES: Final = len('{"type":"x"}')


class Api(StrEnum):
    """The API of the provider that a session uses; also the `api` label of metrics."""

    REALTIME = "realtime"
    LIVE = "live"


class Direction(StrEnum):
    """The direction of a message; also the `direction` label of metrics."""

    CLIENT_TO_UPSTREAM = "client_to_upstream"
    UPSTREAM_TO_CLIENT = "upstream_to_client"


CLIENT_EVENT_TYPES: Final = frozenset(
    {
        "session.update",
        "session.close",
        "session.input_audio_buffer.append",
        "input_audio_buffer.append",
        "input_audio_buffer.commit",
        "input_audio_buffer.clear",
        "output_audio_buffer.clear",
        "conversation.item.create",
        "conversation.item.retrieve",
        "conversation.item.delete",
        "conversation.item.truncate",
        "response.create",
        "response.cancel",
    }
)

SERVER_EVENT_TYPES: Final = frozenset(
    {
        "error",
        "session.created",
        "session.updated",
        "session.closed",
        "session.input_transcript.delta",
        "session.output_transcript.delta",
        "session.output_audio.delta",
        "conversation.created",
        "conversation.item.added",
        "conversation.item.done",
        "conversation.item.retrieved",
        "conversation.item.deleted",
        "conversation.item.truncated",
        "conversation.item.input_audio_transcription.delta",
        "conversation.item.input_audio_transcription.completed",
        "conversation.item.input_audio_transcription.failed",
        "conversation.item.input_audio_transcription.segment",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "input_audio_buffer.cleared",
        "input_audio_buffer.timeout_triggered",
        "input_audio_buffer.dtmf_event_received",
        "output_audio_buffer.started",
        "output_audio_buffer.stopped",
        "output_audio_buffer.cleared",
        "response.created",
        "response.done",
        "response.output_item.added",
        "response.output_item.done",
        "response.content_part.added",
        "response.content_part.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.delta",
        "response.output_audio_transcript.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.mcp_call_arguments.delta",
        "response.mcp_call_arguments.done",
        "response.mcp_call.in_progress",
        "response.mcp_call.completed",
        "response.mcp_call.failed",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "mcp_list_tools.failed",
        "rate_limits.updated",
    }
)

PARSED_EVENT_TYPES: Final = frozenset(
    {"error", "response.done", "conversation.item.input_audio_transcription.failed", "rate_limits.updated"}
)
"""Server events that the relay parses, because they report failures, usage and limits. All others are only forwarded."""

ERROR_CODES: Final = frozenset(
    {
        "account_deactivated",
        "beta_api_shape_disabled",
        "billing_hard_limit_reached",
        "billing_not_active",
        "call_id_not_found",
        "cannot_update_voice",
        "context_injection_incomplete",
        "conversation_already_has_active_response",
        "credit_balance_exhausted",
        "forbidden",
        "function_call_outputs_required",
        "immutable_field_update",
        "incorrect_hostname",
        "inference_rate_limit_exceeded",
        "input_audio_buffer_commit_empty",
        "insufficient_permissions",
        "insufficient_quota",
        "integer_below_min_value",
        "invalid_api_key",
        "invalid_audio",
        "invalid_event",
        "invalid_intent",
        "invalid_json",
        "invalid_model",
        "invalid_parameter",
        "invalid_value",
        "invalid_voice",
        "ip_not_authorized",
        "item_create_duplicate_item_id",
        "item_retrieve_invalid_item_id",
        "mismatched_organization",
        "missing_authorization",
        "missing_model",
        "missing_required_parameter",
        "missing_scope",
        "model_not_found",
        "no_matching_rule",
        "no_organization",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "rate_limit_exceeded",
        "response_cancel_not_active",
        "response_input_buffer_full",
        "server_error",
        "session_expired",
        "session_id_not_found",
        "session_storage_failed",
        "unknown_parameter",
        "unsupported_country_region_territory",
    }
)
"""The provider's error codes, as published or observed. A closed set, so that a code may be a label or be forwarded."""

_STRING = rb'"(?:[^"\\]|\\.)*"'
_SCALAR = rb"(?:" + _STRING + rb"|true|false|null|-?[0-9][0-9.eE+-]*)"
_BOM = rb"(?:\xef\xbb\xbf)?"
# Top-level keys with scalar values may precede "type"; a nested value ends the search.
_TYPE = re.compile(
    _BOM + rb"\s*\{\s*(?:" + _STRING.replace(b'"(?:', b'"(?!type")(?:', 1) + rb"\s*:\s*" + _SCALAR + rb"\s*,\s*)*"
    rb'"type"\s*:\s*"([A-Za-z0-9_.]{1,80})"'
)
# A `type` that may be an event's: not that of a nested object, such as "message" or "audio/pcm", which has no dot.
_SECOND_TYPE = re.compile(rb'"type"(?!\s*:\s*"(?!error")[A-Za-z0-9_/-]*")')
_ESCAPED_TYPE = re.compile(rb'"(?!type")(?:t|\\u0074)(?:y|\\u0079)(?:p|\\u0070)(?:e|\\u0065)"')
_MAX_SEARCHED_MARKS: Final = 65_536  # quotation marks: with more, a parser takes less time than the search
_OBJECT_START = re.compile(_BOM + rb'\s*(?:\{\s*(?:["}]|\Z)|\Z)')


def event_type(payload: bytes) -> str | None:
    """Return the `type` of an event, or None if the payload is not a JSON object whose `type` is a string.

    The result is that of a JSON parser, wherever and however the type is written; the last of several types counts. A payload
    that is incomplete, or invalid after its type, has the type that its first `HEAD_BYTES` show.
    """
    if len(payload) < _SHORTEST_BYTES:  # a flood of the smallest messages costs half as much
        return None
    found = _TYPE.match(payload, 0, HEAD_BYTES)
    if found and not may_repeat_type(payload, found.end()):
        return found.group(1).decode("ascii")
    body = parse_object(payload)
    if body:
        return _text(body.get("type")) or None
    return found.group(1).decode("ascii") if found else None


def event_id(payload: bytes) -> str | None:
    """Return the id that a client gave an event, for an error about it; None without one, or if it is long."""
    found = parse_object(payload).get("event_id")
    return found if isinstance(found, str) and len(found) <= MAX_EVENT_ID else None


def type_in_head(head: bytes) -> str | None:
    """Return the `type` that the first bytes of an event show, or None: a later one may be after them."""
    found = _TYPE.match(head)
    return found.group(1).decode("ascii") if found else None


def may_repeat_type(payload: bytes, start: int) -> bool:
    """Whether the bytes from `start` on, after the first type, may hold another one. False is certain for types of events.

    It runs for each event. Most are audio in one long last string, which is no key and needs no search.
    """
    last_string = payload.rfind(b'"', start, -2) + 1
    position = payload.find(b'"type"', start, last_string)
    if position >= 0 and _SECOND_TYPE.search(payload, position):
        return True
    if payload.find(b"\\", start, last_string) < 0 or payload.find(b"\\u00", start) < 0:  # no escaped letter
        return False
    return payload.count(b'"', start) > _MAX_SEARCHED_MARKS or _ESCAPED_TYPE.search(payload, start) is not None


def may_be_object(head: bytes) -> bool:
    """Whether a payload that begins with these bytes may be a JSON object."""
    return len(head) <= len("\ufeff".encode()) or _OBJECT_START.match(head) is not None


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """The error in an `error` event or HTTP body. `message` may hold parts of a key and is never logged or forwarded."""

    type: str
    code: str | None
    message: str

    @property
    def label(self) -> str:
        """The code or the type if it is in `ERROR_CODES`, else `other`."""
        return self.code if self.code in ERROR_CODES else self.type if self.type in ERROR_CODES else "other"


def parse_object(payload: bytes | str) -> Mapping[str, Any]:
    """Return the JSON object in a payload, or an empty mapping if there is none, or one too intricate to be parsed."""
    try:
        if not isinstance(payload, str):  # invalid UTF-8 must not hide an error
            if is_intricate(payload, MAX_PARSED_SEPARATORS):
                return {}
            payload = payload.decode(json.detect_encoding(payload), "replace")
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, Mapping) else {}


def parse_error(payload: bytes | str) -> ErrorEvent | None:
    """Return the error in an `error` event or in the JSON body of a refused request, or None."""
    return find_error(parse_object(payload))


def find_error(body: Mapping[str, Any]) -> ErrorEvent | None:
    """Return the error in a parsed event or body, or None."""
    error = body.get("error")
    if not isinstance(error, Mapping):
        return None
    return ErrorEvent(_text(error.get("type")), _text(error.get("code")) or None, _text(error.get("message")))


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
