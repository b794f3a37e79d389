"""Every setting, declared once: variable, parser with bounds, written default, unit, secrecy, example, one sentence.

The loader, the rules between settings, `python -m service settings`, `docs/settings.md`, `.env.example` and the Kubernetes
ConfigMap are all made from this declaration, which begins in `declared_access.py`. No default is written anywhere else.
"""

# ruff: noqa: RUF009 - setting() returns an immutable field, as dataclasses.field() does

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from service.access.reconnects import SHORT_ATTEMPT_SECONDS
from service.realtime.keys import Secret
from service.settings import parsers as parse
from service.settings.declared_access import AccessSettings
from service.settings.parsers import integer, number, one_of
from service.settings.setting import Setting, declared_by, setting, written
from service.settings.warnings import SettingWarning
from service.store.interface import FailureMode
from service.store.url import StoreUrl
from service.upstream.proxy import HttpProxy

ContinuityMode = Literal["off", "ask", "renew"]
FirstEvent = Literal["required", "optional"]
LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(AccessSettings):
    """All settings, parsed. `load_settings` makes one; `Settings()` holds the defaults."""

    # -- limits -------------------------------------------------------------------------------------------------------

    max_sessions: int = setting(
        "RELAY_MAX_SESSIONS",
        integer(1, 1_000_000),
        default="1000",
        unit="sessions",
        sentence="Maximum number of concurrent sessions; the limits on open files and on memory can lower it.",
    )
    max_sessions_per_client: int = setting(
        "RELAY_MAX_SESSIONS_PER_CLIENT",
        integer(0, 1_000_000, zero="is no limit"),
        default="0",
        unit="sessions",
        example="20",
        sentence="Maximum number of concurrent sessions for each client token; with open access, for each address. "
        "Without it, one client can take all of RELAY_MAX_SESSIONS.",
    )
    max_reconnects_per_minute: int = setting(
        "RELAY_MAX_RECONNECTS_PER_MINUTE",
        integer(0, 100_000, zero="is no limit"),
        default="300",
        unit="sessions",
        sentence=f"Maximum number of sessions shorter than {SHORT_ATTEMPT_SECONDS:g} seconds that one client at one "
        "address can open within a minute.",
    )
    max_dials: int = setting(
        "RELAY_MAX_DIALS",
        integer(1, 100_000),
        default="100",
        unit="dials",
        sentence="Maximum number of connections to the provider that are being established at the same time. One "
        "client holds at most half of them.",
    )
    dial_timeout_seconds: float = setting(
        "RELAY_DIAL_TIMEOUT_SECONDS",
        number(0.1, 120),
        default="8",
        sentence="Time from a client's request to the provider's first event; the official clients give up after 10 seconds.",
    )
    live_start_seconds: float = setting(
        "RELAY_LIVE_START_SECONDS",
        number(1, 600),
        default="60",
        sentence="Time that a GPT-Live client has for its first message, session.start; some frameworks send it late.",
    )
    first_event: FirstEvent = setting(
        "RELAY_FIRST_EVENT",
        one_of(FirstEvent),
        default="required",
        sentence="Whether a dial waits for the provider's first event; set optional for compatible servers that send none.",
    )
    max_message_bytes: int = setting(
        "RELAY_MAX_MESSAGE_BYTES",
        integer(65_536, 1 << 30),
        default="16777216",
        sentence="Maximum size of a message in either direction; the provider accepts up to 15 MiB.",
    )
    max_messages_per_second: int = setting(
        "RELAY_MAX_MESSAGES_PER_SECOND",
        integer(0, 1_000_000, zero="is off"),
        default="5000",
        unit="messages per second",
        example="500",
        sentence="Maximum message rate of a client in one session, averaged over 10 seconds; speech is 10 to 50 per second.",
    )
    max_bytes_per_second: int = setting(
        "RELAY_MAX_BYTES_PER_SECOND",
        integer(0, 1 << 40, zero="is off"),
        default="0",
        unit="bytes per second",
        example="1000000",
        sentence="Maximum byte rate of a client in one session, averaged over 10 seconds; speech is 64000 per second.",
    )
    idle_timeout_seconds: float = setting(
        "RELAY_IDLE_TIMEOUT_SECONDS",
        number(0, 86_400, zero="is off"),
        default="900",
        sentence="Time without a message in either direction after which a session is closed.",
    )
    max_session_seconds: float = setting(
        "RELAY_MAX_SESSION_SECONDS",
        number(0, 604_800, zero="is off"),
        default="3900",
        sentence="Maximum duration of a session; the provider's limit of 60 minutes is below the default and applies first.",
    )

    # -- continuity ---------------------------------------------------------------------------------------------------

    continuity: ContinuityMode = setting(
        "RELAY_CONTINUITY",
        one_of(ContinuityMode),
        default="ask",
        sentence="Whether a session of the Realtime API goes on when its connection to the provider ends: with ask for "
        "clients that send ?continuity=renew, with renew for all that do not send ?continuity=off.",
    )
    renew_after_seconds: float = setting(
        "RELAY_RENEW_AFTER_SECONDS",
        number(0, 86_400, zero="is never"),
        default="0",
        example="1500",
        sentence="Time after which the relay renews the connection of a session with continuity, if the provider states no "
        "expiry; OpenAI states one.",
    )
    recovery_seconds: float = setting(
        "RELAY_RECOVERY_SECONDS",
        number(1, 120),
        default="15",
        sentence="Time that the relay has to replace a lost connection of a session with continuity, before the session "
        "ends.",
    )
    continuity_bytes: int = setting(
        "RELAY_CONTINUITY_BYTES",
        integer(1_048_576, 1 << 40),
        default="268435456",
        sentence="Memory for the conversations of all sessions with continuity, at most a quarter of the container's memory "
        "limit. Beyond it new sessions have no continuity, and the open ones that keep the most lose it.",
    )
    continuity_audio_bytes: int = setting(
        "RELAY_CONTINUITY_AUDIO_BYTES",
        integer(65_536, 1 << 30),
        default="2097152",
        sentence="Memory of a session with continuity for speech that the provider has not transcribed; 2 MiB hold 32 "
        "seconds of PCM.",
    )
    continuity_max_seconds: float = setting(
        "RELAY_CONTINUITY_MAX_SECONDS",
        number(0, 604_800, zero="is off"),
        default="14400",
        sentence="Maximum duration of a session with continuity. RELAY_MAX_SESSION_SECONDS applies instead if you set it.",
    )

    # -- the store ----------------------------------------------------------------------------------------------------

    store_url: StoreUrl | None = setting(
        "RELAY_STORE_URL",
        parse.store_url,
        default="memory:",
        secret=True,
        example="redis://valkey.example.com:6379/0",
        sentence="Store of limits, spending and client secrets: memory: in this process, or a Redis or Valkey server that "
        "all instances share.",
    )
    store_failure: FailureMode = setting(
        "RELAY_STORE_FAILURE",
        one_of(FailureMode),
        default="open",
        example="closed",
        sentence="What happens while the server of RELAY_STORE_URL fails: with open, limits hold for each instance alone; "
        "with closed, new sessions are refused.",
    )

    # -- drain, health, logs ------------------------------------------------------------------------------------------

    drain_seconds: float = setting(
        "RELAY_DRAIN_SECONDS",
        number(0, 86_400),
        default="30",
        example="150",
        sentence="Time that open sessions have to finish after SIGTERM.",
    )
    close_spread_seconds: float = setting(
        "RELAY_CLOSE_SPREAD_SECONDS",
        number(0, 600),
        default="5",
        sentence="Sessions that outlast the drain close over at most this time, so that not all clients reconnect at once.",
    )
    draining_event: bool = setting(
        "RELAY_DRAINING_EVENT",
        parse.boolean,
        default="false",
        example="true",
        sentence="Whether clients receive the event relay.draining when a drain starts; ?draining_event=true or false in the "
        "URL overrides it.",
    )
    health_turns_per_day: int = setting(
        "RELAY_HEALTH_TURNS_PER_DAY",
        integer(0, 1440, zero="is off"),
        default="0",
        unit="responses per day",
        example="24",
        sentence="Minimal responses that the health checks request, the first at the start; each costs about 0.0007 USD.",
    )
    health_live: bool = setting(
        "RELAY_HEALTH_LIVE",
        parse.boolean,
        default="false",
        example="true",
        sentence="Whether the health checks also verify, without a session, that GPT-Live knows the key; it proves neither "
        "access nor credit.",
    )
    log_format: LogFormat = setting(
        "RELAY_LOG_FORMAT",
        one_of(LogFormat),
        default="auto",
        example="json",
        sentence="Format of the log; auto is console on a terminal and json elsewhere.",
    )
    log_level: LogLevel = setting(
        "RELAY_LOG_LEVEL",
        one_of(LogLevel),
        default="info",
        sentence="Lowest level that is logged.",
    )
    records: Literal["off", "stdout"] | Path = setting(
        "RELAY_RECORDS",
        parse.records,
        default="off",
        example="/var/log/realtime-relay/records.jsonl",
        sentence="Where each ended session leaves a line of JSON with its client, model, times, tokens and cost: a file, or "
        "stdout; never words of the conversation.",
    )
    environment: str | None = setting(
        "RELAY_ENV",
        parse.profile,
        example="staging",
        sentence="Adds .env.<name> to the files that are read; set it in the process environment, not in a file.",
    )

    # -- what loading adds --------------------------------------------------------------------------------------------

    proxy: HttpProxy | None = None
    """The proxy that RELAY_UPSTREAM_PROXY selects for the host of OPENAI_BASE_URL."""
    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each value that is set was read from, by variable."""
    openai_api_key_file: Path | None = field(default=None, repr=False)
    """Watched for a new key, also while it is missing. Not in the repr: it can be the key itself in the wrong variable."""
    openai_api_key_problem: str | None = None
    """Why there is no key although OPENAI_API_KEY_FILE is set."""
    warnings: tuple[SettingWarning, ...] = ()
    misplaced_secrets: tuple[Secret, ...] = ()
    """What looks like a key or token in a setting that is no secret; no message repeats it."""

    def summary(self) -> dict[str, object]:
        """The values that are set and not secret, by variable, for the log line of the start."""
        return {
            declaration.name: written(getattr(self, declaration.field))
            for declaration in SETTINGS
            if declaration.name in self.origins and not declaration.secret
        }


SETTINGS: Final = declared_by(Settings)
SETTING_NAMES: Final = frozenset(
    name for declaration in SETTINGS for name in (declaration.name, declaration.file_name) if name is not None
)


def declaration_of(name: str) -> Setting:
    """The declaration of a setting, by its variable."""
    return next(declaration for declaration in SETTINGS if declaration.name == name)
