"""Event types, and the type of an event from its first bytes. Pure.

Of most messages the relay reads only the `type`. It parses messages of the types in `PARSED_EVENT_TYPES` as a whole.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

HEAD_BYTES: Final = 512
"""Bytes of a message that are searched for its type. Servers put `type` first, SDKs within the first two keys."""


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
        "conversation_already_has_active_response",
        "credit_balance_exhausted",
        "incorrect_hostname",
        "inference_rate_limit_exceeded",
        "input_audio_buffer_commit_empty",
        "insufficient_permissions",
        "insufficient_quota",
        "integer_below_min_value",
        "invalid_api_key",
        "invalid_event",
        "invalid_intent",
        "invalid_json",
        "invalid_model",
        "invalid_value",
        "ip_not_authorized",
        "item_create_duplicate_item_id",
        "item_retrieve_invalid_item_id",
        "mismatched_organization",
        "missing_model",
        "missing_required_parameter",
        "model_not_found",
        "no_matching_rule",
        "no_organization",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "rate_limit_exceeded",
        "response_cancel_not_active",
        "server_error",
        "session_expired",
        "unknown_parameter",
        "unsupported_country_region_territory",
    }
)
"""The provider's error codes, as published or observed. A closed set, so that a code may be a label or be forwarded."""

_STRING = rb'"(?:[^"\\]|\\.)*"'
_SCALAR = rb"(?:" + _STRING + rb"|true|false|null|-?[0-9][0-9.eE+-]*)"
# Top-level keys with scalar values may precede "type"; a nested value ends the search.
_TYPE = re.compile(
    rb"\s*\{\s*(?:" + _STRING.replace(b'"(?:', b'"(?!type")(?:', 1) + rb"\s*:\s*" + _SCALAR + rb"\s*,\s*)*"
    rb'"type"\s*:\s*"([A-Za-z0-9_.]{1,80})"'
)


def event_type(head: bytes) -> str | None:
    """Return the `type` of an event from the first bytes of its JSON text, or None if they do not show it.

    Not a JSON parser: it skips scalar values only, which is enough for every SDK and provider that was examined.
    """
    found = _TYPE.match(head)
    return found.group(1).decode("ascii") if found else None


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
    """Return the JSON object in a payload, or an empty mapping if there is none."""
    try:
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
