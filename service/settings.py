"""Every setting once: name, default, parser, secrecy, one sentence.

Rules of this file:

* `SETTINGS` is the declaration; `.env.example`, `docs/settings.md` and `python -m service settings` are printed from it.
* All mistakes are reported together, each with variable, value (never of a secret), what is accepted, an example.
* Problems of the provider's key are no mistakes here: the relay starts, keeps `/readyz` shut and says why.
* An unknown `RELAY_*` name warns, with the nearest known one, and never stops the start.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

from service import settings_parsers as parse
from service.envfiles import Layers, read_layers
from service.realtime.keys import Secret, redact
from service.settings_parsers import ClientToken, NotAccepted, Parser
from service.settings_proxy import NotAProxy, Proxy, choose_proxy
from service.settings_warnings import SettingWarning, find_warnings

__all__ = [
    "SETTINGS",
    "SETTING_NAMES",
    "ClientToken",
    "Secret",
    "Setting",
    "SettingWarning",
    "Settings",
    "SettingsRejected",
]


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
    Setting("RELAY_MODEL", "model", "gpt-realtime", parse.header_value, "a model's name", "gpt-realtime",
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
            "10.0.0.0/8", "Proxies whose X-Forwarded-For is believed for the client's address in logs."),
    Setting("RELAY_MAX_SESSIONS", "max_sessions", "1000", parse.integer(1, 1_000_000), "1 to 1000000", "1000",
            "Sessions at once; the limit on open files may set a lower one."),
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
    Setting("RELAY_IDLE_TIMEOUT_SECONDS", "idle_timeout_seconds", "900", parse.number(0, 86_400), "0 to 86400; 0 is off",
            "900", "Ends a session in which neither side has sent a message for so long."),
    Setting("RELAY_MAX_SESSION_SECONDS", "max_session_seconds", "3900", parse.number(0, 604_800),
            "0 to 604800; 0 is off", "3900",
            "The longest session; the default lets the provider's own limit of 60 minutes speak first."),
    Setting("RELAY_DRAIN_SECONDS", "drain_seconds", "30", parse.number(0, 86_400), "0 to 86400", "150",
            "After SIGTERM, how long live sessions may go on."),
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
_FIELDS: Final = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, in words that hold no secret."""

    variable: str
    value: str
    accepts: str
    example: str

    def __str__(self) -> str:
        return f"{self.variable}={self.value}: expected {self.accepts}; for example {self.variable}={self.example}"


class SettingsRejected(Exception):
    """The settings cannot be used; `problems` are all mistakes, not only the first."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, parsed. Quantities carry their unit in their name; 0 seconds means off where the setting says so."""

    openai_api_key: Secret | None = None
    openai_base_url: str = "https://api.openai.com/v1"
    openai_org_id: str | None = None
    openai_project_id: str | None = None
    upstream: Literal["openai", "simulator", "auto"] = "openai"
    upstream_proxy: Secret | None = None  # what was set; `proxy` is what follows from it
    proxy: Proxy | None = None
    model: str = "gpt-realtime"
    host: str = "127.0.0.1"
    port: int = 8080
    internal_host: str = "127.0.0.1"
    internal_port: int = 9464
    access: Literal["open", "tokens"] = "open"
    open_anywhere: bool = False
    client_tokens: tuple[ClientToken, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    allowed_models: tuple[str, ...] = ()
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    max_sessions: int = 1000
    max_sessions_per_client: int = 0
    max_reconnects_per_minute: int = 300
    max_dials: int = 100
    dial_timeout_seconds: float = 8.0
    first_event: Literal["required", "optional"] = "required"
    max_message_bytes: int = 16_777_216
    idle_timeout_seconds: float = 900.0
    max_session_seconds: float = 3900.0
    drain_seconds: float = 30.0
    health_turns_per_day: int = 0
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    environment: str | None = None
    # Where each value that was set came from, by variable; and why there is no key although one was meant.
    origins: Mapping[str, str] = field(default_factory=dict)
    # Watched for a new key, also while it is missing. Not shown: it may be the key itself, put into the wrong variable.
    openai_api_key_file: Path | None = field(default=None, repr=False)
    openai_api_key_problem: str | None = None
    warnings: tuple[SettingWarning, ...] = ()

    @classmethod
    def load(cls, environ: Mapping[str, str], directory: Path | None = None) -> Self:
        """Read the settings from a mapping and the `.env` files of a folder; raises SettingsRejected."""
        layers = read_layers(environ, directory)
        loader = _Loader(layers)
        values = loader.values()
        if "access" not in values and "access" not in loader.rejected:
            values["access"] = "open" if parse.is_loopback(str(values.get("host", "127.0.0.1"))) else "tokens"
        loader.problems += _cross_check(values, loader.rejected)
        try:
            values["proxy"] = _proxy(values, environ)
        except NotAProxy as exc:
            accepts = "a URL of a proxy, because RELAY_UPSTREAM_PROXY is auto"
            loader.problems.append(Problem(exc.variable, "(hidden)", accepts, "http://proxy.example.com:3128"))
        if loader.problems:
            raise SettingsRejected(loader.problems)
        warnings = [*find_warnings(layers, SETTING_NAMES, has_key="openai_api_key" in values), *loader.warnings]
        return cls(
            **values,
            origins=loader.origins,
            openai_api_key_file=loader.key_file,
            openai_api_key_problem=loader.key_problem,
            warnings=tuple(warnings),
        )

    def summary(self) -> dict[str, object]:
        """What is set and is no secret, by variable, for the line that tells of the start."""
        return {
            name: str(getattr(self, _FIELDS[name].field))
            for name in self.origins
            if name in _FIELDS and not _FIELDS[name].secret
        }


class _Loader:
    """Parses every setting, and gathers what is wrong instead of stopping at it."""

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self.problems: list[Problem] = []
        self.rejected: set[str] = set()  # fields whose value is unknown because it was wrong
        self.warnings: list[SettingWarning] = []
        self.origins: dict[str, str] = {}
        self.key_problem: str | None = None
        self.key_file: Path | None = None

    def values(self) -> dict[str, Any]:
        """Field names to parsed values, for what is set and right."""
        values: dict[str, Any] = {}
        for setting in SETTINGS:
            found = self._find(setting)
            if found is None:
                continue
            text, origin = found
            try:
                values[setting.field] = setting.parser(text)
            except NotAccepted as exc:
                shown = "(hidden)" if setting.secret else repr(_shown(text))
                accepts = f"{setting.accepts} ({exc})" if str(exc) else setting.accepts
                self._reject(setting, Problem(setting.name, shown, accepts, setting.example))
            else:
                self.origins[setting.name] = origin
        return values

    def _find(self, setting: Setting) -> tuple[str, str] | None:
        found = self._layers.find(setting.name)
        named_file = self._layers.find(setting.file_name) if setting.file_name else None
        if named_file is None:
            return found
        if found is not None and found[1] == named_file[1]:
            both = f"{setting.name} and {setting.name}_FILE"
            self._reject(setting, Problem(both, "(hidden)", "only one of the two", setting.example))
            return None
        if found is not None and self._stronger(found[1], named_file[1]):
            return found
        return self._read(setting, *named_file)

    def _reject(self, setting: Setting, problem: Problem) -> None:
        self.problems.append(problem)
        self.rejected.add(setting.field)

    def _stronger(self, one: str, other: str) -> bool:
        order = [layer.origin for layer in self._layers.layers]
        return order.index(one) < order.index(other)

    def _read(self, setting: Setting, path: str, origin: str) -> tuple[str, str] | None:
        path = path.strip()
        if setting.name == "OPENAI_API_KEY" and "\0" not in path:
            self.key_file = Path(path)
        shown = _shown_path(path)
        try:
            # newline="": a carriage return has to stay for the lint to see. Only the last line feed is the file's own.
            with Path(path).open(encoding="utf-8", newline="") as file:
                text = file.read(1 << 20).removesuffix("\n")
        except (OSError, UnicodeDecodeError, ValueError) as exc:
            why = f"{setting.name}_FILE: {shown} cannot be read ({getattr(exc, 'strerror', None) or 'not UTF-8 text'})"
        else:
            if text.strip():
                return text, f"file {path} ({origin})"
            why = f"{setting.name}_FILE: {shown} is empty"
        if setting.name == "OPENAI_API_KEY":
            self.key_problem = why  # never stops the start
            self.warnings.append(SettingWarning(f"{setting.name}_FILE", why))
        else:
            self._reject(
                setting, Problem(f"{setting.name}_FILE", shown, "a readable file that is not empty", "/run/secrets/x")
            )
        return None


def _shown(text: str) -> str:
    """The start of a value that is no secret by itself, without what could be one: a key, credentials or query of a URL."""
    text = re.sub(r"//.*@", "//(hidden)@", text, flags=re.DOTALL)
    return redact(re.sub(r"\?.*", "?(hidden)", text, flags=re.DOTALL))[:80]


def _shown_path(path: str) -> str:
    """The name of a file; whatever does not begin like one may be the secret itself, put into the wrong variable."""
    return (
        repr(redact(path[:200])) if path.startswith(("/", "./", "../")) else "(hidden, as it may be the secret itself)"
    )


def _proxy(values: Mapping[str, Any], environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for the provider's host; none for an upstream on this machine. Raises NotAProxy."""
    setting = values.get("upstream_proxy")
    host = urlsplit(str(values.get("openai_base_url", _FIELDS["OPENAI_BASE_URL"].default))).hostname or ""
    if setting is None or parse.is_loopback(host):
        return None
    return choose_proxy(setting.reveal(), host, environ)


def _cross_check(values: Mapping[str, Any], rejected: set[str]) -> list[Problem]:
    """Rules between settings; silent where one of them is wrong by itself."""
    problems = []
    defaults = {setting.field: setting.default for setting in SETTINGS}
    host, access = str(values.get("host", defaults["host"])), values.get("access")
    is_open_off_loopback = access == "open" and not parse.is_loopback(host)
    if is_open_off_loopback and not values.get("open_anywhere") and not rejected & {"host", "open_anywhere"}:
        problems.append(
            Problem(
                "RELAY_ACCESS", "'open'", f"tokens while RELAY_HOST is {host}, or RELAY_OPEN_ANYWHERE=true", "tokens"
            )
        )
    if access == "tokens" and not values.get("client_tokens") and not rejected & {"client_tokens", "host"}:
        why = "at least one token, because RELAY_ACCESS is tokens (the default off loopback)"
        problems.append(Problem("RELAY_CLIENT_TOKENS", "(unset)", why, _FIELDS["RELAY_CLIENT_TOKENS"].example))
    port, internal = values.get("port", 8080), values.get("internal_port", 9464)
    if port == internal != 0 and not rejected & {"port", "internal_port"}:
        problems.append(Problem("RELAY_INTERNAL_PORT", repr(str(internal)), "a port other than RELAY_PORT", "9464"))
    return problems
