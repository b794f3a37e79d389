"""The clients of the relay: what each may do, and which client a credential belongs to.

Rules of this file:

* A session keeps the `Client` with which it was admitted; a reload changes what later requests get.
* Credentials are known by their SHA-256 only. The table of them is a dict: its lookup takes the same time for one client and
  for a thousand, and compares a digest only after the keyed hash of all its bytes matched, so timing reveals no part of it.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from service.access.origins import LOOPBACK
from service.failures import Failure
from service.realtime.policy import Policy

OPEN_ACCESS_CLIENT: Final = "anybody"
"""The name of every client while access is open, where no credential identifies a client."""

ApiName = Literal["realtime", "translation", "live"]
"""An API as the clients file names it: `live` includes the sideband of a GPT-Live session."""
_MAX_WITHDRAWN: Final = 10_000
"""Credentials that are no longer accepted, whose sessions may be open; beyond this the oldest are forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """The limits of a client, or of each of its users; None is no limit. Money is in micro-USD; days and months are UTC."""

    max_sessions: int | None = None
    max_session_seconds: float | None = None
    starts_per_minute: int | None = None
    minutes_per_day: int | None = None
    minutes_per_month: int | None = None
    tokens_per_session: int | None = None
    tokens_per_day: int | None = None
    tokens_per_month: int | None = None
    microusd_per_session: int | None = None
    microusd_per_day: int | None = None
    microusd_per_month: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtIssuer:
    """An OpenID provider whose tokens are credentials of `client`. The `sub` of a token is the user."""

    name: str
    issuer: str
    audiences: tuple[str, ...]
    jwks_url: str
    algorithms: tuple[str, ...]
    client: str
    clock_skew_seconds: int = 60
    end_at_expiry: bool = False  # whether a session ends when its token expires

    @property
    def credential(self) -> str:
        """What its tokens have in place of a hash. It changes with what makes them belong to the client."""
        return f"jwt:{self.name} {self.issuer} {self.client}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """What one client may do. All values are effective: those of the file, of its [defaults], or of the settings.

    Empty `models` allow every model. `origins` are as `OriginPolicy` takes them: empty for loopback only, `*` for all.
    """

    name: str
    credentials: frozenset[str] = field(default=frozenset(), repr=False)  # SHA-256 of each token, in hex
    models: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    apis: frozenset[ApiName] = frozenset({"realtime", "translation", "live"})
    limits: ClientLimits = ClientLimits()
    has_default_duration: bool = False  # `limits.max_session_seconds` is the default of RELAY_MAX_SESSION_SECONDS
    per_user: ClientLimits = ClientLimits()
    unpriced_microusd_per_million_tokens: int | None = None  # what counts for a model without a known price
    unpriced_microusd_per_minute: int | None = None
    policy: Policy | None = None
    is_enabled: bool = True
    end_sessions: bool = False  # whether open sessions end when their credential is removed or the client disabled
    is_from_file: bool = False


class ClientSet(NamedTuple):
    """What a clients file declares, complete and without contradiction. Its clients are in the order of the file."""

    clients: tuple[Client, ...] = ()
    policies: tuple[Policy, ...] = ()
    issuers: tuple[JwtIssuer, ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose request it is. `credential` is the SHA-256 of the token in hex; empty with open access.

    For a JWT it is that of the issuer, `user` is the `sub` of the token, `expires_at` its expiry in seconds since 1970, and
    `ends_at` the same if its session ends with it, else None.
    """

    client: Client
    credential: str = field(default="", repr=False)
    user: str | None = None
    ends_at: float | None = None
    expires_at: float | None = None


UNIDENTIFIED: Final = Identity(Client(name="unknown"))
"""Before the credential has been checked."""


class Reload(NamedTuple):
    """What a reload changed, by the names of clients."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]


def digest_of(token: str) -> str:
    """The SHA-256 of a token in hex."""
    # surrogatepass encodes every string, and no two alike; a header that is not UTF-8 arrives with lone surrogates.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class ClientDirectory:
    """Finds the client of a credential. `replace` exchanges the clients of the file, all in one step.

    `fixed` are the clients of RELAY_CLIENT_TOKENS. With `open_client` no credential is needed, and every request is its.
    """

    def __init__(
        self, fixed: Iterable[Client] = (), file: ClientSet | None = None, *, open_client: Client | None = None
    ) -> None:
        self._fixed = tuple(fixed)
        self._open_client = open_client
        self._file = ClientSet()
        self._clients: dict[str, Client] = {}
        self._by_credential: dict[str, Client] = {}
        self._withdrawn: dict[tuple[str, str], Client] = {}  # by credential and name
        self._origins: frozenset[str] = frozenset()
        self.replace(file or ClientSet())

    @property
    def is_open(self) -> bool:
        """Whether no credential is needed."""
        return self._open_client is not None

    @property
    def file(self) -> ClientSet:
        """What the clients file declares: the last good one."""
        return self._file

    @property
    def clients(self) -> Mapping[str, Client]:
        """All clients by name, disabled ones included."""
        return self._clients

    @property
    def callers(self) -> Iterable[Client]:
        """Whose requests can be admitted: all clients, or the one of open access."""
        return self._clients.values() if self._open_client is None else (self._open_client,)

    @property
    def origins(self) -> frozenset[str]:
        """The origins that any client allows: all that can be checked before it is known which client it is."""
        return self._origins

    def authenticate(self, token: str | None) -> Identity:
        """Return whose token it is; raises Failure with token_missing, token_invalid or client_disabled."""
        if self._open_client is not None:
            return Identity(self._open_client)
        if not token:
            raise Failure("token_missing")
        credential = digest_of(token)
        client = self._by_credential.get(credential)
        if client is None:
            raise Failure("token_invalid")
        if not client.is_enabled:
            raise Failure("client_disabled", detail=f"client {client.name} has enabled = false")
        return Identity(client, credential)

    def find(self, credential: str, name: str) -> Client | None:
        """The client with this name, if a credential that was accepted before is still its own."""
        client = self._open_client or self._by_credential.get(credential)
        return client if client is not None and client.name == name else None

    def replace(self, file: ClientSet) -> Reload:
        """Use these clients of the file from now on, in place of the present ones."""
        before = self._clients
        withdrawn = self._withdrawn | {(key, client.name): client for key, client in self._by_credential.items()}
        clients = {client.name: client for client in (*self._fixed, *file.clients)}
        by_credential = {credential: client for client in clients.values() for credential in client.credentials}
        by_credential |= {issuer.credential: clients[issuer.client] for issuer in file.issuers}
        for credential, client in by_credential.items():
            if client.is_enabled:
                withdrawn.pop((credential, client.name), None)
        for pair in [*withdrawn][:-_MAX_WITHDRAWN]:
            del withdrawn[pair]
        self._file, self._clients, self._by_credential, self._withdrawn = file, clients, by_credential, withdrawn
        self._origins = frozenset(origin for client in self.callers for origin in client.origins or (LOOPBACK,))
        return Reload(
            added=tuple(name for name in clients if name not in before),
            removed=tuple(name for name in before if name not in clients),
            changed=tuple(name for name, client in clients.items() if name in before and client != before[name]),
        )

    def must_end(self, credential: str, name: str) -> bool:
        """Whether open sessions of a client with a credential end: it was removed from the client, or the client disabled.

        What counts is `end_sessions` of the client as it is now, and of the last one that the file had if there is none.
        """
        last = self._withdrawn.get((credential, name))
        return last is not None and self._clients.get(last.name, last).end_sessions
