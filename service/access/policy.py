"""The configuration of admission."""

from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

from service.access.clients import OPEN_ACCESS_CLIENT, Client, ClientDirectory, ClientLimits, ClientSet, digest_of
from service.access.tokens import ClientToken
from service.realtime.keys import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPolicy:
    """The rules that every client's request is checked against. Nothing has a default here: the settings declare them.

    `mode` is `open` (no credential needed) or `tokens`. An empty `allowed_origins` allows only pages served from loopback,
    an empty `allowed_models` allows every model. `max_sessions` is the limit of the whole relay and at least 1; 0 means no
    limit for `max_sessions_per_client` and for `max_reconnects_per_minute`.
    """

    mode: Literal["open", "tokens"]
    open_anywhere: bool  # open access behind a proxy is intended, so it is not worth a warning
    client_tokens: tuple[ClientToken, ...]
    allowed_origins: tuple[str, ...]
    allowed_models: tuple[str, ...]
    live: bool  # whether GPT-Live is served
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...]
    max_sessions: int
    max_sessions_per_client: int
    max_reconnects_per_minute: int
    safety_key: Secret  # of the hash that names users to the provider
    draining_event: bool  # whether clients get `relay.draining` unless their query sets it

    def directory(self, file: ClientSet | None = None) -> ClientDirectory:
        """The clients of these settings, and those of the clients file."""
        base = Client(
            name=OPEN_ACCESS_CLIENT,
            models=self.allowed_models,
            origins=self.allowed_origins,
            limits=ClientLimits(max_sessions=self.max_sessions_per_client or None),
        )
        if self.mode == "open":
            return ClientDirectory(open_client=base)
        fixed = (
            replace(base, name=token.name, credentials=frozenset({digest_of(token.secret.reveal())}))
            for token in self.client_tokens
        )
        return ClientDirectory(fixed, file)
