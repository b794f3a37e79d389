"""What the store offers: `Store` for the packages that use it, `StoreBackend` for memory and Redis behind it.

Units: money is whole micro-USD, durations are whole milliseconds unless a name ends in `_seconds`, tokens are whole.
Periods are the calendar day and month in UTC. Every time is the clock of the store, never that of a pod: the backend reads
it once for each operation.

Every operation of a backend is atomic: all of it happens, or nothing. None is on the path of a frame.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

from service.realtime.keys import Secret

HEARTBEAT_SECONDS: Final = 5.0
"""How often a pod renews its leases, all of them with one call."""
LEASE_SECONDS: Final = 25.0
"""How long the leases of a pod outlive its last heartbeat: with the time of a heartbeat in flight below 30 seconds."""
SECRET_MEMORY_SECONDS: Final = 600
"""How long after its expiry a secret is distinguished from one that never existed."""
MAX_SECRET_PAYLOAD_BYTES: Final = 65_536


FailureMode = Literal["open", "closed"]
"""The values of RELAY_STORE_FAILURE."""

# -- what is limited --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scope:
    """What limits and spending belong to: a client, or one user of a client.

    `client` is a configured name. `user` is the `sub` of a token, any text: the store keeps only its hash.
    """

    client: str
    user: str | None = None

    @property
    def key(self) -> str:
        """The name of the scope in the store: `client`, or `client/` and 32 hex digits of the user's SHA-256."""
        if self.user is None:
            return self.client
        return f"{self.client}/{hashlib.sha256(self.user.encode()).hexdigest()[:32]}"


class Amounts(NamedTuple):
    """What a session has used. All are whole, and at least 0."""

    microusd: int = 0
    tokens: int = 0
    milliseconds: int = 0


class Totals(NamedTuple):
    """What a scope has used in the current day and in the current month (UTC)."""

    day: Amounts = Amounts()
    month: Amounts = Amounts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """The maximum of a period; None is no limit. A period is used up once a total has reached it: 0 admits nothing."""

    microusd: int | None = None
    tokens: int | None = None
    milliseconds: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one scope; None is no limit.

    `sessions` counts the open sessions of all pods. `starts_per_minute` counts granted acquires in a sliding window of 60
    seconds: never more in any 60 seconds. A refused acquire counts nothing.
    """

    scope: Scope
    sessions: int | None = None
    starts_per_minute: int | None = None
    day: Ceiling = Ceiling()
    month: Ceiling = Ceiling()


LimitName = Literal[
    "usd_per_month",
    "tokens_per_month",
    "minutes_per_month",
    "usd_per_day",
    "tokens_per_day",
    "minutes_per_day",
    "max_sessions",
    "starts_per_minute",
]
"""The names of the limits, in the order in which a scope's limits are checked: what holds longest first."""


class Refused(NamedTuple):
    """Why `acquire` granted no lease: the first limit that is used up, in the order of `LimitName`, scope by scope.

    `used` and `maximum` have the store's unit of the limit: micro-USD, tokens, milliseconds, sessions or starts.
    `retry_after_seconds` is exact for starts and for periods (their end in UTC); None for sessions.
    """

    scope: Scope
    limit: LimitName
    used: int
    maximum: int
    retry_after_seconds: float | None


class Spending(NamedTuple):
    """What one record has used so far, **from its beginning**: each report of a record holds at least what earlier ones held.

    The store keeps the highest amounts of each record, and adds to the totals of its scopes only what is new. So a report
    that is sent twice, late or out of order counts once, a lost one is made up for by the next, and a store that was
    restored from an old copy catches up. What is new counts in the day and month of the store's clock when it arrives.

    `record` is the id of the session's record, up to 64 characters, unique for ever. Its scopes never change. `is_final`: no
    further report follows. The store forgets a final record after two days, another after eight days.
    """

    record: str
    scopes: tuple[Scope, ...]
    amounts: Amounts
    is_final: bool = False


# -- what callers use -------------------------------------------------------------------------------------------------


class Lease(Protocol):
    """The place of one session, in each of its scopes."""

    @property
    def id(self) -> str:
        """32 hex digits, random."""

    @property
    def fence(self) -> int:
        """The fencing token: larger than those of all leases that lapsed before. 0 while the store has not granted it."""

    @property
    def is_local(self) -> bool:
        """Whether this pod granted it alone, because the store failed. It is registered when the store is back."""

    def release(self) -> None:
        """Free the place. Safe to call twice. Never waits, never fails: what cannot be sent goes with a later heartbeat."""


class Store(Protocol):
    """Shared state with the failure handling of RELAY_STORE_FAILURE. A call returns within half a second of its turn.

    Sixteen calls at a time are made; further ones wait, since to decide without the store would exceed limits.

    `open`: while the store fails, limits hold for this pod alone. `closed`: `acquire` raises Failure("store_unavailable").
    Secrets need the store in both. Spending is never lost by a failure: a bounded journal keeps it until the store is back.
    """

    @property
    def is_shared(self) -> bool:
        """Whether other pods see this state; False for `memory:`."""

    @property
    def is_up(self) -> bool:
        """Whether the store answers: False after three failed calls in a row, until one succeeds."""

    async def acquire(
        self, limits: Sequence[Limits], *, on_over_limit: Callable[[], None] | None = None
    ) -> Lease | Refused:
        """Take a place in every scope, or in none: sessions, starts and the totals of all scopes are checked in one step.

        Each scope occurs once. Raises Failure("store_unavailable") if the store fails and RELAY_STORE_FAILURE is closed.
        Cancelling it leaves no place taken.

        `on_over_limit` is called at most once, with RELAY_STORE_FAILURE=closed: this pod was cut off from the store for more
        than LEASE_SECONDS, and other pods have taken the place meanwhile. The session has to end; release the lease as usual.
        """

    def spend(self, spending: Spending) -> None:
        """Report spending, in the background. Never waits, never fails."""

    async def spend_and_read(self, spending: Spending) -> Mapping[Scope, Totals]:
        """Report spending and return the totals of its scopes, with the spending of other pods. Never raises.

        While the store fails, the totals are what this pod knows: the last answer of the store, and its own spending since.
        """

    async def totals(self, scopes: Sequence[Scope]) -> Mapping[Scope, Totals]:
        """The totals of the scopes. Never raises; while the store fails, what this pod knows, as above."""

    async def put_secret(self, secret: Secret, payload: bytes, ttl_seconds: int) -> None:
        """Keep a payload for the one request that presents the secret within `ttl_seconds`.

        It has at most MAX_SECRET_PAYLOAD_BYTES, and is in clear. The store holds the SHA-256 of the secret, never the secret.
        Raises Failure("store_unavailable"), and ValueError if this secret exists.
        """

    async def read_secret(self, secret: Secret) -> "SecretState | bytes":
        """The payload, without using the secret up; else why there is none. Raises Failure("store_unavailable")."""

    async def take_secret(self, secret: Secret) -> "SecretState | bytes":
        """The payload, exactly once over all pods; else why there is none. Raises Failure("store_unavailable").

        If the answer of the store is lost, the secret may be used up all the same: the client needs a new one.
        """


SecretState = Literal["unknown", "used", "expired"]
"""`used` and `expired` until SECRET_MEMORY_SECONDS after the expiry, then `unknown`. A used secret does not expire."""


# -- what memory and Redis implement ----------------------------------------------------------------------------------


class StoreError(Exception):
    """The backend did not answer as expected. The text holds no password, no secret and no user."""


class Member(NamedTuple):
    """A pod in the store, from one registration to the lapse of its leases. `name` is `pod` and fence."""

    name: str
    fence: int


class Registration(NamedTuple):
    """The answer to `register`. `epoch` is the random id of the store's data: another one means that the data was lost."""

    member: Member
    epoch: str


class Held(NamedTuple):
    """A lease that a pod registers again: its id, and the scopes with their maximum of sessions."""

    lease: str
    places: tuple[tuple[Scope, int | None], ...]


class StoreBackend(Protocol):
    """The operations, without failure handling. Every call raises StoreError, or never if it is in memory."""

    async def register(self, pod: str) -> Registration:
        """Become a member with a new fence. Earlier memberships of the pod lapse in the same step, with their leases.

        The new one lapses LEASE_SECONDS after its last heartbeat. `pod` is unique to the process.
        """

    async def hold(self, member: Member, held: Sequence[Held]) -> tuple[str, ...] | None:
        """Hold leases whatever the limits, at most 500; those that are held already stay. None: the member has lapsed.

        Returns the leases, by id, for which there was no free place.
        """

    async def heartbeat(self, member: Member, released: Sequence[str]) -> str | None:
        """Renew all leases of the member, and release some by id; unknown ids are ignored. Returns the epoch.

        None: the member has lapsed, its places are free, and nothing was released. It has to register again.
        """

    async def acquire(self, member: Member, lease: str, limits: Sequence[Limits]) -> Refused | bool:
        """True: the lease is held. False: the member has lapsed. The same lease again: True, counted once."""

    async def leave(self, member: Member) -> None:
        """End the membership: its places are free at once."""

    async def spend(self, reports: Sequence[Spending]) -> Mapping[Scope, Totals]:
        """Add what is new in the reports, in their order, and return the totals of all their scopes."""

    async def totals(self, scopes: Sequence[Scope]) -> Mapping[Scope, Totals]:
        """The totals of the scopes."""

    async def put_secret(self, digest: str, payload: bytes, ttl_seconds: int) -> bool:
        """Keep a payload under the SHA-256 of a secret, in hex; False if it exists."""

    async def read_secret(self, digest: str) -> SecretState | bytes:
        """What `take_secret` would return; changes nothing."""

    async def take_secret(self, digest: str) -> SecretState | bytes:
        """The payload, exactly once; else why there is none."""

    async def close(self) -> None:
        """Release the connections."""
