"""The settings of this process: read, parsed, held against each other. They are declared in `settings/declared.py`.

Rules of this file:

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

from service.access.tokens import ClientToken
from service.realtime.keys import Secret
from service.realtime.names import is_loopback
from service.realtime.redaction import redact
from service.settings.declared import SETTING_NAMES, SETTINGS, Setting
from service.settings.envfiles import Layers, read_layers
from service.settings.parsers import NotAccepted
from service.settings.warnings import SettingWarning, find_warnings
from service.upstream.proxy import InvalidProxy, Proxy, choose_proxy

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
    max_messages_per_second: int = 5000
    max_bytes_per_second: int = 0
    idle_timeout_seconds: float = 900.0
    max_session_seconds: float = 3900.0
    drain_seconds: float = 30.0
    close_spread_seconds: float = 5.0
    draining_event: bool = False
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
            values["access"] = "open" if is_loopback(str(values.get("host", "127.0.0.1"))) else "tokens"
        loader.problems += _cross_check(values, loader.rejected)
        try:
            values["proxy"] = _proxy(values, environ)
        except InvalidProxy as exc:
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
    if setting is None or is_loopback(host):
        return None
    return choose_proxy(setting.reveal(), host, environ)


def _cross_check(values: Mapping[str, Any], rejected: set[str]) -> list[Problem]:
    """Rules between settings; silent where one of them is wrong by itself."""
    problems = []
    defaults = {setting.field: setting.default for setting in SETTINGS}
    host, access = str(values.get("host", defaults["host"])), values.get("access")
    is_open_off_loopback = access == "open" and not is_loopback(host)
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
