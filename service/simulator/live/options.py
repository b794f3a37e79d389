"""How the simulator's GPT-Live behaves, and the model names that it accepts.

The defaults are values seen on the wire from 2026-09 to 2026-11. Unknown at the provider, and therefore options here: the
close codes after a refused start and after ``session.closed``, and whether ``session.closed`` contains the session.
"""

from dataclasses import dataclass

LIVE_MODELS = frozenset({"gpt-live-1", "gpt-live-1.1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOptions:
    """The part of the simulator's options that concerns GPT-Live. Raises ValueError."""

    models: frozenset[str] = LIVE_MODELS  # not checked at an Azure path, where the model is a deployment
    start_seconds: float = 0.4  # from session.start to session.started, or to the error of a refused start
    abort_seconds: float = 2.0  # from the error of a refused start to the end of the connection
    refused_close_code: int | None = 4000  # with the reason `<type>.<code>`; None: FIN without a close frame
    session_seconds: float = 7200
    no_audio_seconds: float = 30.975  # until a session that has received no audio expires
    usage_interval_seconds: float = 15.0
    azure_usage_interval_seconds: float = 60.0
    close_seconds: float = 0.6  # from session.close to session.closed
    slow_close_seconds: float = 10.0  # the same with unfinished work, and in the scenario live-close-slow
    closed_close_code: int | None = None  # after session.closed; None: a close frame without a code
    closed_contains_session: bool = False
    response_seconds: float = 0.2  # duration of a response of the backend model

    def __post_init__(self) -> None:
        intervals = (self.usage_interval_seconds, self.azure_usage_interval_seconds)
        if min(self.session_seconds, self.no_audio_seconds, *intervals) <= 0:
            raise ValueError(
                "session_seconds, no_audio_seconds and the usage intervals of GPT-Live must be greater than 0"
            )
