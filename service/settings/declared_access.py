"""The first part of the declaration in `declared.py`: the provider, the listeners, and who may use the relay."""

# ruff: noqa: RUF009 - setting() returns an immutable field, as dataclasses.field() does

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal

from service.access.tokens import ClientToken
from service.realtime.keys import Secret
from service.realtime.names import is_loopback
from service.settings import parsers as parse
from service.settings.parsers import one_of
from service.settings.setting import setting

Upstream = Literal["openai", "simulator", "auto"]
Access = Literal["open", "tokens"]
OnOff = Literal["on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """What connects the relay to the provider and to its clients."""

    # -- the provider -------------------------------------------------------------------------------------------------

    openai_api_key: Secret | None = setting(
        "OPENAI_API_KEY",
        parse.secret,
        secret=True,
        example="sk-proj-...",
        sentence="The provider's API key; clients never see it.",
    )
    openai_base_url: str = setting(
        "OPENAI_BASE_URL",
        parse.base_url,
        default="https://api.openai.com/v1",
        sentence="Base URL of the provider's API, in the form that the OpenAI SDKs use.",
    )
    openai_org_id: str | None = setting(
        "OPENAI_ORG_ID",
        parse.header_value,
        example="org-abc123",
        sentence="Organization ID, sent to the provider in the header OpenAI-Organization.",
    )
    openai_project_id: str | None = setting(
        "OPENAI_PROJECT_ID",
        parse.header_value,
        example="proj_abc123",
        sentence="Project ID, sent to the provider in the header OpenAI-Project.",
    )
    upstream: Upstream = setting(
        "RELAY_UPSTREAM",
        one_of(Upstream),
        default="openai",
        sentence="Upstream: openai is the provider at OPENAI_BASE_URL, simulator the built-in simulator; auto is openai if a "
        "key is found, else simulator.",
    )
    upstream_proxy: Secret | None = setting(
        "RELAY_UPSTREAM_PROXY",
        parse.upstream_proxy,
        default="off",
        secret=True,
        example="http://proxy.example.com:3128",
        sentence="HTTP proxy for connections to the provider; auto reads HTTPS_PROXY and NO_PROXY.",
    )
    model: str = setting(
        "RELAY_MODEL",
        parse.model,
        default="gpt-realtime",
        sentence="Model that the health checks request; clients name their own in ?model=.",
    )

    # -- listeners ----------------------------------------------------------------------------------------------------

    host: str = setting(
        "RELAY_HOST",
        parse.host,
        default="127.0.0.1",
        example="192.0.2.10",
        sentence="Address on which the relay listens for clients.",
    )
    port: int = setting(
        "RELAY_PORT",
        parse.port,
        default="8080",
        sentence="Port on which the relay listens for clients.",
    )
    internal_host: str = setting(
        "RELAY_INTERNAL_HOST",
        parse.host,
        default="127.0.0.1",
        example="192.0.2.10",
        sentence="Address on which metrics, detailed health and the operator's page are served; keep it private.",
    )
    internal_port: int = setting(
        "RELAY_INTERNAL_PORT",
        parse.port,
        default="9464",
        sentence="Port on which metrics, detailed health and the operator's page are served.",
    )

    # -- access -------------------------------------------------------------------------------------------------------

    configured_access: Access | None = setting(
        "RELAY_ACCESS",
        one_of(Access),
        example="tokens",
        sentence="Whether clients need a token (tokens) or not (open); by default open on loopback and tokens elsewhere "
        "and with RELAY_CLIENTS_FILE.",
    )
    open_anywhere: bool = setting(
        "RELAY_OPEN_ANYWHERE",
        parse.boolean,
        default="false",
        example="true",
        sentence="Allows RELAY_ACCESS=open beyond loopback; any client that reaches the port can then spend your credit.",
    )
    client_tokens: tuple[ClientToken, ...] = setting(
        "RELAY_CLIENT_TOKENS",
        parse.client_tokens,
        default="",
        secret=True,
        example="web:3f9c1e6b7a2d4c58",
        sentence="Tokens with which clients authenticate; the name of a token appears in logs.",
    )
    clients_file: Path | None = setting(
        "RELAY_CLIENTS_FILE",
        parse.path,
        example="/etc/realtime-relay/clients.toml",
        sentence="TOML file of clients with tokens and limits, read again when it changes; see docs/clients-and-limits.md.",
    )
    allowed_origins: tuple[str, ...] = setting(
        "RELAY_ALLOWED_ORIGINS",
        parse.origins,
        default="",
        example="https://app.example.com",
        sentence="Origins of web pages and app shells that can connect; if empty, only pages served from loopback can.",
    )
    allowed_hosts: tuple[str, ...] = setting(
        "RELAY_ALLOWED_HOSTS",
        parse.hosts,
        default="",
        example="relay.example.com,*.example.net",
        sentence="Further host names to which requests to a port on loopback can be addressed; see docs/deployment.md.",
    )
    allowed_models: tuple[str, ...] = setting(
        "RELAY_ALLOWED_MODELS",
        parse.names,
        default="",
        example="gpt-realtime,gpt-realtime-mini",
        sentence="Models that clients can request, in ?model= and in the events of GPT-Live; if empty, any model.",
    )
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = setting(
        "RELAY_TRUSTED_PROXIES",
        parse.networks,
        default="",
        example="10.0.0.0/8",
        sentence="Proxies whose X-Forwarded-For header is trusted for the client's address in logs and limits.",
    )

    live: OnOff = setting(
        "RELAY_LIVE",
        one_of(OnOff),
        default="on",
        example="off",
        sentence="Whether the relay serves GPT-Live at /v1/live/sessions.",
    )
    configured_console: OnOff | None = setting(
        "RELAY_CONSOLE",
        one_of(OnOff),
        example="on",
        sentence="Whether the public port serves the talk page at /; by default on with open access on loopback and without "
        "trusted proxies, else off.",
    )
    operator_token: Secret | None = setting(
        "RELAY_OPERATOR_TOKEN",
        parse.operator_token,
        secret=True,
        example="5b1d0f6e8c3a4972",
        sentence="Token of the operator's page and of /api on the internal port; if that port is not on loopback, both are "
        "refused without it.",
    )

    safety_key: Secret | None = setting(
        "RELAY_SAFETY_KEY",
        parse.operator_token,
        secret=True,
        example="9c41f07be2d85a36",
        sentence="Key of the hash that names users to the provider in OpenAI-Safety-Identifier, equal at all instances; by "
        "default the key is OPENAI_API_KEY.",
    )

    @property
    def access(self) -> Access:
        """RELAY_ACCESS; if that is unset, tokens with a clients file, else open on loopback and tokens elsewhere."""
        if self.configured_access is not None:
            return self.configured_access
        if self.clients_file is not None:
            return "tokens"
        return "open" if is_loopback(self.host) else "tokens"

    @property
    def console(self) -> OnOff:
        """RELAY_CONSOLE; if that is unset, on where only this machine can connect, without a token."""
        if self.configured_console is not None:
            return self.configured_console
        is_own_machine = self.access == "open" and is_loopback(self.host) and not self.trusted_proxies
        return "on" if is_own_machine else "off"
