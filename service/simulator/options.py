"""What a simulator can be told: its scenario, its speed, its limits, the names that it knows."""

from dataclasses import dataclass

from service.simulator.scenarios import parse_scenario

TRANSLATION_MODEL = "gpt-realtime-translate"

# The names that the provider's model pages list in 2026-11; everything else is an unknown model.
CURRENT_MODELS = frozenset(
    {
        "gpt-realtime",
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

# Models that hear but do not answer: refused as the model of a conversation, right in a transcription session.
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
    """How a simulator behaves. Without any, like the provider with a good key."""

    scenario: str | None = None  # for keys that name none of their own
    session_seconds: float = 3600  # the provider's cap; sessions of 60 minutes can be had in one second
    ping_interval_seconds: float = 20.26  # as measured on the wire 2026-09
    drop_without_pong: bool = False  # whether an unanswered ping costs the session; unknown of the provider
    pace: float = 4.0  # audio goes out this many times faster than it plays; 0 is as fast as possible
    models: frozenset[str] = CURRENT_MODELS
    call_ids: frozenset[str] = frozenset()  # calls that a sideband can join
    echo_event_id: bool = False  # Azure names the client's event in an error, OpenAI does not
    rate_limits_delay_seconds: float = 0.043  # from response.done to rate_limits.updated, as measured 2026-09
    slow_first_event_seconds: float = 2.0  # for the scenario slow-first-event
    expire_after_seconds: float = 1.0  # for the scenarios expire-soon and expire-silent
    mid_after_events: int = 3  # for the scenarios that strike a session after so many of its client's events
    close_reply_seconds: float = 2.0  # how long a peer may take to answer our CLOSE
    max_records: int = 4096  # of sockets and of REST calls; the oldest are forgotten

    def __post_init__(self) -> None:
        parse_scenario(self.scenario)
        if self.pace < 0:
            raise ValueError(f"pace is {self.pace}; 0 (as fast as possible) or more is needed")
        if min(self.session_seconds, self.ping_interval_seconds) <= 0:
            raise ValueError("session_seconds and ping_interval_seconds are more than 0")
