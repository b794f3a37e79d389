"""Client secrets: short-lived credentials of the relay that open one session each.

Rules of this file:

* A secret is random. The store knows its SHA-256 and what it is for; no log line, metric or error has a part of it.
* What a secret is for names the credential with which it was created. If that credential is withdrawn, or its client
  disabled, the secret is refused. All that the client may do is read from the clients as they are when it is used.
"""

import asyncio
import heapq
import json
import re
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from weakref import WeakValueDictionary

from service.access.clients import ClientDirectory, Identity, digest_of
from service.access.reconnects import ReconnectLimiter
from service.failures import Failure
from service.realtime.keys import Secret
from service.realtime.secret_request import BoundSession
from service.store.interface import SecretState, Store

PREFIX: Final = "ek_relay_"
"""Begins with `ek_`, which the SDKs require in a browser, and names its issuer: the provider does not know it."""
MAX_CREATED_PER_MINUTE: Final = 600
"""By one client, at one instance."""
MAX_CREATED_PER_MINUTE_BY_USER: Final = 30
"""By one user of a client who creates them with a JWT: one user must not keep out the others."""
MAX_BOUND_BYTES: Final = 64 << 20
"""Of the sessions to which unexpired secrets of this instance are bound; one client may have half of them."""
_USERS_SHARE: Final = 64
"""A user of a client may have this part of them."""

_TOO_LARGE: Final = "the sessions of unexpired client secrets take too much memory"
_SHAPE: Final = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_-]{43}")
_RANDOM_BYTES: Final = 32
_VERSION: Final = 1
_UNKNOWN_HINT: Final = (
    "Request a new client secret from the server of this app. Operator: the relay knows no such secret. It is older than ten "
    "minutes past its expiry, or was created at another instance, or before a restart: without RELAY_STORE_URL a secret "
    "opens a session only at the instance that created it."
)
_FOREIGN_HINT: Final = (
    "Create the client secret at the relay: POST /v1/realtime/client_secrets of the relay's address, with a client token of "
    "the relay. A client secret of the provider opens no session here."
)


def is_client_secret(token: str) -> bool:
    """Whether a token has the shape of the relay's client secrets."""
    return _SHAPE.fullmatch(token) is not None


def explain_foreign(failure: Failure, token: str | None) -> None:
    """State in the refusal of an unknown token that it is a client secret, but not the relay's."""
    if failure.reason == "token_invalid" and failure.hint is None and (token or "").startswith("ek_"):
        failure.hint = _FOREIGN_HINT


@dataclass(frozen=True, slots=True)
class Grant:
    """What a client secret is for: whose it is, and the session that it opens.

    `credential` is that of `Identity`. `safety_identifier` is the provider's name of the user, if the server of the
    app has sent it.
    """

    client: str
    credential: str = field(repr=False)
    user: str | None
    ends_at: float | None
    safety_identifier: str | None
    session: BoundSession = field(repr=False)

    def encode(self) -> bytes:
        """The payload for the store."""
        fields = {
            "version": _VERSION,
            "client": self.client,
            "credential": self.credential,
            "user": self.user,
            "ends_at": self.ends_at,
            "safety_identifier": self.safety_identifier,
            "session": self.session.configuration,
            "locked": sorted(self.session.locked),
        }
        # surrogatepass: JSON can escape half a character
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

    @classmethod
    def decode(cls, payload: bytes) -> "Grant | None":
        """The grant in a payload; None for one of another version, or that no relay has written."""
        try:
            fields: dict[str, Any] = json.loads(payload.decode("utf-8", "surrogatepass"))
            if fields.pop("version") != _VERSION:
                return None
            session = BoundSession({**fields.pop("session")}, frozenset(fields.pop("locked")))
            return cls(**fields, session=session)
        except (AttributeError, LookupError, TypeError, ValueError):
            return None


@dataclass(frozen=True, slots=True)
class PresentedSecret:
    """A client secret that a request presents, and that has not been used: whose it is and what it is for."""

    value: Secret
    identity: Identity
    grant: Grant


class ClientSecrets:
    """Creates and redeems client secrets. `read` uses none up: a request that is refused for another reason can be repeated.

    `wall_clock` is in seconds since 1970.
    """

    def __init__(
        self, store: Store, directory: ClientDirectory, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._directory = directory
        self._wall_clock = wall_clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by the hash of a secret

    @property
    def are_shared(self) -> bool:
        """Whether other instances accept the secrets."""
        return self._store.is_shared

    async def create(self, grant: Grant, seconds: int) -> tuple[Secret, int]:
        """A new secret, and its expiry in seconds since 1970; raises Failure with store_unavailable."""
        secret = Secret(PREFIX + secrets.token_urlsafe(_RANDOM_BYTES))
        await self._store.put_secret(secret, grant.encode(), seconds)
        return secret, int(self._wall_clock()) + seconds

    @asynccontextmanager
    async def turn(self, token: str) -> AsyncIterator[None]:
        """Let requests of this instance with the same secret wait for each other: only one of them can use it up.

        The others would take places and count starts of the client, with which one holder of a secret could keep out its
        other users.
        """
        async with self._turns.setdefault(digest_of(token), asyncio.Lock()):
            yield

    async def read(self, token: str) -> PresentedSecret:
        """Find out what a secret is for. Raises Failure, with the reason why it opens no session."""
        secret = Secret(token)
        found = await self._store.read_secret(secret)
        grant = Grant.decode(found) if isinstance(found, bytes) else None
        if grant is None:
            raise _refusal("unknown" if isinstance(found, bytes) else found)
        client = self._directory.find(grant.credential, grant.client)
        if client is None or not client.is_enabled:
            raise Failure("client_disabled", detail=f"the client secret belongs to {grant.client}")
        if grant.ends_at is not None and grant.ends_at <= self._wall_clock():
            raise Failure("token_expired", detail="the JWT with which the client secret was created")
        return PresentedSecret(secret, Identity(client, grant.credential, grant.user, grant.ends_at), grant)

    async def redeem(self, presented: PresentedSecret) -> None:
        """Use a secret up; raises Failure if another request has done so meanwhile, or with store_unavailable."""
        found = await self._store.take_secret(presented.value)
        if not isinstance(found, bytes):
            raise _refusal(found)


def _refusal(state: SecretState | Literal["unknown"]) -> Failure:
    if state == "unknown":
        return Failure("token_invalid", detail="an unknown client secret", hint=_UNKNOWN_HINT)
    return Failure("secret_used" if state == "used" else "secret_expired")


class CreationLimit:
    """Limits how many secrets a client creates, and what their sessions take of the store. The clock is in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._rate = ReconnectLimiter(MAX_CREATED_PER_MINUTE, clock)
        self._user_rate = ReconnectLimiter(MAX_CREATED_PER_MINUTE_BY_USER, clock)
        self._held: Counter[tuple[str, str]] = Counter()  # bytes by client, and by client and user
        self._total = 0
        self._ends: list[tuple[float, tuple[tuple[str, str], ...], int]] = []

    def count(self, client: str, user: str | None, size: int, seconds: int) -> None:
        """Count a secret with a session of this size; raises Failure with too_many_secrets if there may be no other one.

        `user` has created it with a credential of their own; None for the client.
        """
        now = self._clock()
        self._expire(now)
        creators = [((client, ""), self._rate, MAX_CREATED_PER_MINUTE, 2)]
        if user is not None:
            creators.append(((client, user), self._user_rate, MAX_CREATED_PER_MINUTE_BY_USER, _USERS_SHARE))
        for creator, rate, maximum, share in creators:
            try:
                rate.admit(creator)
            except Failure as flood:
                raise _too_many(f"{maximum} client secrets in 60 s", flood.retry_after_seconds) from None
            if self._held[creator] + size > MAX_BOUND_BYTES // share:
                raise _too_many(_TOO_LARGE, None)
        if self._total + size > MAX_BOUND_BYTES:
            raise _too_many(_TOO_LARGE, None)
        self._total += size
        for creator, rate, _, _ in creators:
            rate.record_end(creator, 0)
            self._held[creator] += size
        heapq.heappush(self._ends, (now + seconds, tuple(creator for creator, *_ in creators), size))

    def _expire(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, creators, freed = heapq.heappop(self._ends)
            self._total -= freed
            for creator in creators:
                self._held[creator] -= freed
                if not self._held[creator]:
                    del self._held[creator]


def _too_many(detail: str, retry_after_seconds: int | None) -> Failure:
    return Failure("too_many_secrets", detail=detail, retry_after_seconds=retry_after_seconds)
