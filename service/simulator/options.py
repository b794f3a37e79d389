"""The options of a simulator, and the model names that it accepts."""

from dataclasses import dataclass, field

from service.simulator.behaviour import Behaviour
from service.simulator.live.options import LiveOptions
from service.simulator.scenarios import parse_scenario

DEFAULT_MODEL = "gpt-realtime"  # for requests that name no model
TRANSLATION_MODEL = "gpt-realtime-translate"

# The names on the provider's model pages in 2026-11. The simulator refuses every other name as unknown.
CURRENT_MODELS = frozenset(
    {
        DEFAULT_MODEL,
        "gpt-realtime-2025-08-28",
        "gpt-realtime-1.5",
        "gpt-realtime-2",
        "gpt-realtime-2.1",
        "gpt-realtime-2.1-mini",
        "gpt-realtime-mini",
        "gpt-realtime-mini-2025-10-06",
        "gpt-realtime-mini-2025-12-15",
        TRANSLATION_MODEL,
    }
)

# Transcription models: refused as the model of a conversation, accepted in `audio.input.transcription.model`.
TRANSCRIPTION_MODELS = frozenset(
    {
        "gpt-realtime-whisper",
        "gpt-live-transcribe",
        "gpt-transcribe",
        "gpt-4o-transcribe",
        "gpt-4o-mini-transcribe",
        "gpt-4o-transcribe-diarize",
        "whisper-1",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """How a simulator behaves. The defaults behave like the provider with a valid key. Raises ValueError."""

    scenario: str | None = None  # for connections that select none by key or query
    session_seconds: float = 3600  # the provider's limit is 60 minutes
    ping_interval_seconds: float = 20.26  # as measured on the wire in 2026-09
    drop_without_pong: bool = False  # abort if a ping is unanswered; what the provider does is unknown
    pace: float = 4.0  # speed of sent audio relative to real time; 0: no pacing
    models: frozenset[str] = CURRENT_MODELS
    call_ids: frozenset[str] = frozenset()  # calls that accept a sideband connection
    echo_event_id: bool = True  # set `error.event_id` to the client's `event_id`, as both providers do
    kept_audio_bytes: int = 512 * 1024  # of one session, for `conversation.item.retrieve`; the oldest is deleted first
    type_last: bool = False  # write `type` as the last key of events, as serialisers that sort keys or maps do
    rate_limits_delay_seconds: float = 0.043  # after response.done, as measured in 2026-09
    slow_first_event_seconds: float = 2.0  # of the scenario slow-first-event
    expire_after_seconds: float = 1.0  # of the scenarios expire-soon and expire-silent
    fault_after_messages: int = 3  # client messages before the fault of a *-mid scenario
    close_reply_seconds: float = 2.0  # bound on the client's reply to a close frame; then the connection is aborted
    live: LiveOptions = field(default_factory=LiveOptions)  # of GPT-Live
    default: Behaviour = field(default_factory=Behaviour)  # of dials without one of their own (`Simulator.set_dials`)
    keep_conversations: bool = False  # record turns, items and answers: words stay in memory
    numbered_answers: bool = False  # answers are numbered samples instead of the user's audio
    control: bool = False  # serve `/simulator/` to programs on this machine
    max_records: int = 4096  # of upgrade requests, and of REST calls; the oldest are deleted

    def __post_init__(self) -> None:
        parse_scenario(self.scenario)
        if self.pace < 0:
            raise ValueError(f"pace is {self.pace}; it must be 0 (no pacing) or more")
        if min(self.session_seconds, self.ping_interval_seconds) <= 0:
            raise ValueError("session_seconds and ping_interval_seconds must be greater than 0")
