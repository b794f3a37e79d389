"""Every setting once: name, default, parser, secrecy, one sentence.

`.env.example`, `docs/settings.md` and `python -m service settings` are printed from `SETTINGS`.
"""

from dataclasses import dataclass
from typing import Final

from service.settings import parsers as parse
from service.settings.parsers import Parser


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `default` is in the form in which it would be written; None means unset."""

    name: str
    field: str
    default: str | None
    parser: Parser
    accepts: str
    example: str
    sentence: str
    secret: bool = False

    @property
    def file_name(self) -> str | None:
        """The variable that names a file with the value, for secrets."""
        return f"{self.name}_FILE" if self.secret else None


SETTINGS: Final = (
    Setting("OPENAI_API_KEY", "openai_api_key", None, parse.secret, "the key as the provider shows it", "sk-proj-...",
            "The provider's key; only the relay holds it.", secret=True),
    Setting("OPENAI_BASE_URL", "openai_base_url", "https://api.openai.com/v1", parse.base_url,
            "an https:// URL without query; http:// only to loopback", "https://api.openai.com/v1",
            "Where the provider is, as the SDKs take it."),
    Setting("OPENAI_ORG_ID", "openai_org_id", None, parse.header_value, "one word", "org-abc123",
            "Sent as OpenAI-Organization."),
    Setting("OPENAI_PROJECT_ID", "openai_project_id", None, parse.header_value, "one word", "proj_abc123",
            "Sent as OpenAI-Project."),
    Setting("RELAY_UPSTREAM", "upstream", "openai", parse.one_of("openai", "simulator", "auto"),
            "openai, simulator or auto", "openai",
            "Whom to connect to; auto is the built-in simulator if no key is found, and says so."),
    Setting("RELAY_UPSTREAM_PROXY", "upstream_proxy", "off", parse.upstream_proxy,
            "off, auto, or a URL http://[user:password@]host:port", "http://proxy.example.com:3128",
            "The proxy through which the provider is reached; auto takes it from HTTPS_PROXY and heeds NO_PROXY.",
            secret=True),
    Setting("RELAY_MODEL", "model", "gpt-realtime", parse.model, "a model's name", "gpt-realtime",
            "The model that the health checks ask for; callers name their own."),
    Setting("RELAY_HOST", "host", "127.0.0.1", parse.host, "an address or host name of this machine", "192.0.2.10",
            "Where callers connect."),
    Setting("RELAY_PORT", "port", "8080", parse.port, "0 to 65535; 0 takes any free port", "8080",
            "The callers' port."),
    Setting("RELAY_INTERNAL_HOST", "internal_host", "127.0.0.1", parse.host, "an address or host name of this machine",
            "192.0.2.10", "Where metrics and detailed health are served; keep it private."),
    Setting("RELAY_INTERNAL_PORT", "internal_port", "9464", parse.port, "0 to 65535; 0 takes any free port", "9464",
            "The port of metrics and detailed health."),
    Setting("RELAY_ACCESS", "access", None, parse.one_of("open", "tokens"), "open or tokens", "tokens",
            "Who may come in: anybody, or holders of a client token; by default open on loopback, tokens elsewhere."),
    Setting("RELAY_OPEN_ANYWHERE", "open_anywhere", "false", parse.boolean, "true or false", "true",
            "Allows RELAY_ACCESS=open off loopback: whoever reaches the port then spends your credit."),
    Setting("RELAY_CLIENT_TOKENS", "client_tokens", None, parse.client_tokens,
            "comma-separated tokens, each 'token' or 'name:token', of letters, digits and !#$%&'*+-.^_`|~",
            "web:3f9c1e6b7a2d4c58", "What clients show to come in; the name appears in logs.", secret=True),
    Setting("RELAY_ALLOWED_ORIGINS", "allowed_origins", "", parse.origins,
            "comma-separated origins (scheme://host[:port]), or *", "https://app.example.com",
            "Web pages that may connect; when empty, only pages on this machine's loopback may."),
    Setting("RELAY_ALLOWED_MODELS", "allowed_models", "", parse.names, "comma-separated model names",
            "gpt-realtime,gpt-realtime-mini", "Models that callers may ask for in ?model=; when empty, any."),
    Setting("RELAY_TRUSTED_PROXIES", "trusted_proxies", "", parse.networks, "comma-separated addresses or networks",
            "10.0.0.0/8", "Proxies whose X-Forwarded-For is believed for a client's address, in logs and limits."),
    Setting("RELAY_MAX_SESSIONS", "max_sessions", "1000", parse.integer(1, 1_000_000), "1 to 1000000", "1000",
            "Sessions at once; the limits on open files and on memory may set a lower one."),
    Setting("RELAY_MAX_SESSIONS_PER_CLIENT", "max_sessions_per_client", "0", parse.integer(0, 1_000_000),
            "0 to 1000000; 0 is no limit", "20",
            "Sessions at once for each client token; with open access, for each address."),
    Setting("RELAY_MAX_RECONNECTS_PER_MINUTE", "max_reconnects_per_minute", "300", parse.integer(0, 100_000),
            "0 to 100000; 0 is no limit", "300",
            "Sessions shorter than 5 seconds that one client at one address may open within a minute."),
    Setting("RELAY_MAX_DIALS", "max_dials", "100", parse.integer(1, 100_000), "1 to 100000", "100",
            "Connections to the provider being made at once."),
    Setting("RELAY_DIAL_TIMEOUT_SECONDS", "dial_timeout_seconds", "8", parse.number(0.1, 120), "0.1 to 120", "8",
            "From a caller's request to the provider's first event; official clients give up after 10."),
    Setting("RELAY_FIRST_EVENT", "first_event", "required", parse.one_of("required", "optional"),
            "required or optional", "required",
            "Whether the provider must send an event by itself; optional for compatible servers that send none."),
    Setting("RELAY_MAX_MESSAGE_BYTES", "max_message_bytes", "16777216", parse.integer(65_536, 1 << 30),
            "65536 to 1073741824", "16777216", "The largest message, either way; the provider takes up to 15 MiB."),
    Setting("RELAY_MAX_MESSAGES_PER_SECOND", "max_messages_per_second", "5000", parse.integer(0, 1_000_000),
            "0 to 1000000; 0 is off", "500",
            "Messages that a client may send in one session, averaged over 10 seconds; speech is 10 to 50 a second."),
    Setting("RELAY_MAX_BYTES_PER_SECOND", "max_bytes_per_second", "0", parse.integer(0, 1 << 40),
            "0 to 1099511627776; 0 is off", "1000000",
            "Bytes that a client may send in one session, averaged over 10 seconds; speech is 64000 a second."),
    Setting("RELAY_IDLE_TIMEOUT_SECONDS", "idle_timeout_seconds", "900", parse.number(0, 86_400), "0 to 86400; 0 is off",
            "900", "Ends a session in which neither side has sent a message for so long."),
    Setting("RELAY_MAX_SESSION_SECONDS", "max_session_seconds", "3900", parse.number(0, 604_800),
            "0 to 604800; 0 is off", "3900",
            "The longest session; the default lets the provider's own limit of 60 minutes speak first."),
    Setting("RELAY_DRAIN_SECONDS", "drain_seconds", "30", parse.number(0, 86_400), "0 to 86400", "150",
            "After SIGTERM, how long live sessions may go on."),
    Setting("RELAY_CLOSE_SPREAD_SECONDS", "close_spread_seconds", "5", parse.number(0, 600), "0 to 600", "5",
            "Over how long the sessions that are left after the drain are closed, so that not all come back at once."),
    Setting("RELAY_DRAINING_EVENT", "draining_event", "false", parse.boolean, "true or false", "true",
            "Whether clients are told of a drain by an event relay.draining; ?draining_event=true or false chooses for one."),
    Setting("RELAY_HEALTH_TURNS_PER_DAY", "health_turns_per_day", "0", parse.integer(0, 1440), "0 to 1440; 0 is off", "24",
            "Health also asks for a minimal text response so often, and once at the start; each costs about 0.0007 USD."),
    Setting("RELAY_LOG_FORMAT", "log_format", "auto", parse.one_of("auto", "json", "console"), "auto, json or console",
            "json", "auto is console on a terminal, else JSON."),
    Setting("RELAY_LOG_LEVEL", "log_level", "info", parse.one_of("debug", "info", "warning", "error"),
            "debug, info, warning or error", "info", "The least level that is logged."),
    Setting("RELAY_ENV", "environment", None, parse.profile, "a word", "staging",
            "Adds .env.<name> to the files that are read; taken from the environment only."),
)  # fmt: skip

SETTING_NAMES: Final = frozenset(
    name for setting in SETTINGS for name in (setting.name, setting.file_name) if name is not None
)
