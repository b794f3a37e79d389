"""The event types of GPT-Live, and which of them the relay parses. Pure.

Source: the types of openai-python 3.57 (`types/live`) and captured frames. The client speaks first, and audio flows in both
directions all the time, silence included.
"""

from collections.abc import Mapping
from typing import Final

DEFAULT_MODEL: Final = "gpt-live-1"
SESSION_START: Final = "session.start"
SESSION_UPDATE: Final = "session.update"
SESSION_CLOSE: Final = "session.close"
SESSION_STARTED: Final = "session.started"
SESSION_CLOSED: Final = "session.closed"
USAGE_UPDATED: Final = "session.usage.updated"
RESPONSE_EVENT: Final = "response.event"
DECISION_EVENT: Final = "decision.event"
INPUT_AUDIO: Final = "session.input_audio.append"
OUTPUT_AUDIO: Final = "session.output_audio.delta"
INPUT_TRANSCRIPT: Final = "session.input_transcript.delta"
OUTPUT_TRANSCRIPT: Final = "session.output_transcript.delta"

CLIENT_EVENT_TYPES: Final = frozenset(
    {
        SESSION_START,
        SESSION_UPDATE,
        SESSION_CLOSE,
        INPUT_AUDIO,
        "session.input_audio.mute",
        "session.input_audio.unmute",
        "session.output_audio.fixture.play",
        "session.instructions.append",
        "session.thinking.append",
        "session.commentary.append",
        "response.item.create",
        "response.create",
        "decision.create",
        "decision.item.create",
        "decision.item.delete",
        "transport.dtmf.send",
    }
)

SERVER_EVENT_TYPES: Final = frozenset(
    {
        "error",
        "info",
        SESSION_STARTED,
        "session.updated",
        SESSION_CLOSED,
        USAGE_UPDATED,
        OUTPUT_AUDIO,
        INPUT_TRANSCRIPT,
        OUTPUT_TRANSCRIPT,
        "session.input_audio.muted",
        "session.input_audio.unmuted",
        "session.instructions.appended",
        "session.thinking.appended",
        "session.commentary.appended",
        "session.delegation.created",
        RESPONSE_EVENT,
        DECISION_EVENT,
        "decision.item.created",
        "decision.item.deleted",
        "session.output_audio.fixture.playing",
        "session.output_audio.fixture.played",
        "session.paused",
        "session.resumed",
        INPUT_AUDIO,  # on a sideband, the caller's audio
        "transport.dtmf.received",
        "transport.dtmf.sent",
        "transport.ringing",
        "transport.answered",
        "transport.failed",
    }
)

PARSED_EVENT_TYPES: Final = frozenset(
    {
        "error",
        SESSION_STARTED,
        SESSION_CLOSED,
        USAGE_UPDATED,
        RESPONSE_EVENT,
        DECISION_EVENT,
        INPUT_TRANSCRIPT,
        OUTPUT_TRANSCRIPT,
    }
)
"""Server events that the relay parses: they report failures, usage, the end, and when speech was heard and answered."""

ENDING_BY_CLOSED_REASON: Final[Mapping[str, str]] = {
    "close_requested": "client_closed",
    "expired": "session_expired",
    "content": "content_filtered",
    "remote_hangup": "remote_hangup",
    "connection_lost": "upstream_lost",
}
"""The documented reasons of `session.closed`, and the ending of the catalogue that each one is."""

CLOSED_REASONS: Final = tuple(ENDING_BY_CLOSED_REASON)


def is_live_model(model: str) -> bool:
    """Whether a model's name is one of GPT-Live, whose models the Realtime API refuses; a deployment can have any name."""
    return model.rpartition("/")[2].lower().startswith("gpt-live")


def is_realtime_model(model: str) -> bool:
    """Whether a model's name is one of the Realtime API, whose models GPT-Live refuses."""
    return "realtime" in model.rpartition("/")[2].lower()
