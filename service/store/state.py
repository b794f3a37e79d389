"""The state of a store, with the same rules as the scripts of `scripts.py`. Pure but for ids: the clock is a parameter."""

import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, get_args

from service.store import periods
from service.store.expiring import ExpiringDict
from service.store.interface import (
    LEASE_SECONDS,
    SECRET_MEMORY_SECONDS,
    Amounts,
    Ceiling,
    Held,
    LimitName,
    Limits,
    Member,
    Refused,
    Registration,
    Scope,
    SecretState,
    Spending,
    Totals,
)

WINDOW_MS: Final = 60_000
LIMIT_NAMES: Final[tuple[LimitName, ...]] = get_args(LimitName)
FINAL_RECORD_MS: Final = 2 * periods.DAY_MS
OPEN_RECORD_MS: Final = 8 * periods.DAY_MS
SPENT_MS: Final = 40 * periods.DAY_MS
MAX_USERS: Final = 50_000
"""Users whose spending is kept, in about 40 MB. Beyond it the spending that has changed least recently is forgotten."""
MEMORY_RECORD_MS: Final = 600_000
"""Here no answer is lost, so that no report is sent again much later."""


@dataclass(slots=True)
class _Spent:
    day: int
    month: int
    totals: Totals


@dataclass(slots=True)
class _Kept:
    expires: int
    state: SecretState | None = None  # None: not presented yet


@dataclass(slots=True)
class _Membership:
    deadline: float
    held: dict[str, tuple[str, ...]] = field(default_factory=dict)  # scopes by lease
    open: Counter[str] = field(default_factory=Counter)  # leases by scope

    def hold(self, lease: str, scopes: tuple[str, ...]) -> None:
        self.held[lease] = scopes
        self.open.update(scopes)

    def release(self, lease: str) -> None:
        for scope in self.held.pop(lease, ()):
            self.open[scope] -= 1
            if not self.open[scope]:
                del self.open[scope]


class StoreState:
    """The operations of `StoreBackend`. `clock` returns wall-clock milliseconds."""

    def __init__(
        self,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        *,
        lease_seconds: float = LEASE_SECONDS,
        final_record_ms: int = MEMORY_RECORD_MS,
    ) -> None:
        self._clock = clock
        self._lease_ms = lease_seconds * 1000
        self._final_record_ms = final_record_ms
        self._epoch = secrets.token_hex(8)
        self._fence = 0
        self._members: dict[str, _Membership] = {}
        self._starts: ExpiringDict[deque[int]] = ExpiringDict()
        self._spent: ExpiringDict[_Spent] = ExpiringDict()  # of clients, whose number the clients file bounds
        self._spent_by_user: ExpiringDict[_Spent] = ExpiringDict()
        self._records: ExpiringDict[Amounts] = ExpiringDict()
        self._secrets: ExpiringDict[_Kept] = ExpiringDict()
        self._payloads: ExpiringDict[bytes] = ExpiringDict()  # of secrets that are neither used nor expired

    # -- leases -------------------------------------------------------------------------------------------------------

    def register(self, pod: str) -> Registration:
        """See `StoreBackend`."""
        now = self._now()
        for name in [name for name in self._members if name.rpartition("#")[0] == pod]:
            del self._members[name]
        self._fence = max(self._fence + 1, now)
        member = Member(f"{pod}#{self._fence}", self._fence)
        self._members[member.name] = _Membership(now + self._lease_ms)
        return Registration(member, self._epoch)

    def hold(self, member: Member, held: Sequence[Held]) -> tuple[str, ...] | None:
        """See `StoreBackend`."""
        now = self._now()
        if not self._is_alive(member.name, now):
            return None
        own = self._members[member.name]
        over = []
        for lease, places in held:
            if lease in own.held:
                continue
            if any(limit is not None and self._open(scope.key, now) >= limit for scope, limit in places):
                over.append(lease)
            own.hold(lease, tuple(scope.key for scope, _ in places))
        return tuple(over)

    def heartbeat(self, member: Member, released: Sequence[str]) -> str | None:
        """See `StoreBackend`."""
        now = self._now()
        if not self._is_alive(member.name, now):
            return None
        own = self._members[member.name]
        own.deadline = now + self._lease_ms
        for lease in released:
            own.release(lease)
        for name in [name for name in self._members if not self._is_alive(name, now)]:
            del self._members[name]
        return self._epoch

    def acquire(self, member: Member, lease: str, limits: Sequence[Limits]) -> Refused | bool:
        """See `StoreBackend`."""
        now = self._now()
        if not self._is_alive(member.name, now):
            return False
        own = self._members[member.name]
        if lease in own.held:
            return True
        refused = next(filter(None, (self._check(limit, now) for limit in limits)), None)
        if refused is not None:
            return refused
        own.hold(lease, tuple(limit.scope.key for limit in limits))
        self.note_starts(limits)
        return True

    def release(self, member: Member, lease: str) -> None:
        """Free a place without a heartbeat."""
        if member.name in self._members:
            self._members[member.name].release(lease)

    def note_starts(self, limits: Sequence[Limits]) -> None:
        """Count a start that was granted elsewhere."""
        now = self._now()
        for limit in limits:
            if limit.starts_per_minute:
                starts = deque(self._starts.get(limit.scope.key) or (), maxlen=limit.starts_per_minute)
                starts.append(now)
                self._starts.put(limit.scope.key, starts, now + WINDOW_MS)

    def leave(self, member: Member) -> None:
        """See `StoreBackend`."""
        self._members.pop(member.name, None)

    def _is_alive(self, name: str, now: int) -> bool:
        own = self._members.get(name)
        if own is None:
            return False
        own.deadline = min(own.deadline, now + self._lease_ms)  # the clock can have been set back
        return now < own.deadline

    def _open(self, scope: str, now: int) -> int:
        return sum(member.open[scope] for name, member in self._members.items() if self._is_alive(name, now))

    def _check(self, limits: Limits, now: int) -> Refused | None:
        totals = self._totals(limits.scope, now)
        ends = (periods.seconds_to_next_month, periods.seconds_to_next_day)
        ceilings = (*_ceilings(limits.month, totals.month), *_ceilings(limits.day, totals.day))
        for name, end, (maximum, used) in zip(LIMIT_NAMES, (ends[0],) * 3 + (ends[1],) * 3, ceilings, strict=False):
            if maximum is not None and used >= maximum:
                return Refused(limits.scope, name, used, maximum, end(now))
        if limits.sessions is not None:
            used = self._open(limits.scope.key, now)
            if used >= limits.sessions:
                return Refused(limits.scope, "max_sessions", used, limits.sessions, None)
        return None if limits.starts_per_minute is None else self._check_starts(limits, limits.starts_per_minute, now)

    def _check_starts(self, limits: Limits, maximum: int, now: int) -> Refused | None:
        starts = self._starts.get(limits.scope.key) or deque()
        if maximum == 0:
            return Refused(limits.scope, "starts_per_minute", 0, 0, WINDOW_MS / 1000)
        if len(starts) < maximum:
            return None
        age = now - starts[-maximum]
        if not 0 <= age < WINDOW_MS:
            return None
        return Refused(limits.scope, "starts_per_minute", maximum, maximum, (WINDOW_MS - age) / 1000)

    # -- spending -----------------------------------------------------------------------------------------------------

    def spend(self, reports: Sequence[Spending]) -> Mapping[Scope, Totals]:
        """See `StoreBackend`."""
        now = self._now()
        for report in reports:
            before = self._records.get(report.record) or Amounts()
            new = Amounts(*(max(0, amount - known) for amount, known in zip(report.amounts, before, strict=True)))
            after = Amounts(*map(max, report.amounts, before))
            keep = self._final_record_ms if report.is_final else OPEN_RECORD_MS
            self._records.put(report.record, after, now + keep)
            for scope in report.scopes:
                totals = self._totals(scope, now)
                self._put_totals(scope, now, Totals(_plus(totals.day, new), _plus(totals.month, new)))
        return self.totals([scope for report in reports for scope in report.scopes])

    def totals(self, scopes: Sequence[Scope]) -> Mapping[Scope, Totals]:
        """See `StoreBackend`."""
        now = self._now()
        return {scope: self._totals(scope, now) for scope in scopes}

    def learn(self, totals: Mapping[Scope, Totals]) -> None:
        """Replace the totals of scopes by those of the shared store."""
        now = self._now()
        for scope, shared in totals.items():
            self._put_totals(scope, now, shared)

    def _spending_of(self, scope: Scope) -> ExpiringDict[_Spent]:
        return self._spent if scope.user is None else self._spent_by_user

    def _totals(self, scope: Scope, now: int) -> Totals:
        spent = self._spending_of(scope).get(scope.key)
        if spent is None:
            return Totals()
        day = periods.current_day(now, spent.day)
        return Totals(
            spent.totals.day if spent.day == day else Amounts(),
            spent.totals.month if spent.month == periods.month_of(day) else Amounts(),
        )

    def _put_totals(self, scope: Scope, now: int, totals: Totals) -> None:
        kept, name = self._spending_of(scope), scope.key
        stored = kept.get(name)
        day = periods.current_day(now, stored.day if stored is not None else 0)
        kept.put(name, _Spent(day, periods.month_of(day), totals), now + SPENT_MS)
        if len(self._spent_by_user) > MAX_USERS:
            self._spent_by_user.drop_first()

    # -- secrets ------------------------------------------------------------------------------------------------------

    def put_secret(self, digest: str, payload: bytes, ttl_seconds: int) -> bool:
        """See `StoreBackend`."""
        now = self._now()
        if self._secrets.get(digest) is not None:
            return False
        expires = now + ttl_seconds * 1000
        self._secrets.put(digest, _Kept(expires), expires + SECRET_MEMORY_SECONDS * 1000)
        self._payloads.put(digest, payload, expires)
        return True

    def take_secret(self, digest: str) -> SecretState | bytes:
        """See `StoreBackend`."""
        now = self._now()
        found = self._find_secret(digest, now)
        kept = self._secrets.get(digest)
        if kept is not None and kept.state is None:
            kept.state = "expired" if found == "expired" else "used"
            self._payloads.put(digest, b"", kept.expires)
        return found

    def read_secret(self, digest: str) -> SecretState | bytes:
        """See `StoreBackend`."""
        return self._find_secret(digest, self._now())

    def _find_secret(self, digest: str, now: int) -> SecretState | bytes:
        kept = self._secrets.get(digest)
        if kept is None:
            return "unknown"
        if kept.state is not None:
            return kept.state
        payload = self._payloads.get(digest)
        return "expired" if payload is None or now >= kept.expires else payload

    def _now(self) -> int:
        now = self._clock()
        for kept in (
            self._starts,
            self._spent,
            self._spent_by_user,
            self._records,
            self._secrets,
            self._payloads,
        ):
            kept.purge(now)
        return now


def _ceilings(ceiling: Ceiling, used: Amounts) -> Iterator[tuple[int | None, int]]:
    yield ceiling.microusd, used.microusd
    yield ceiling.tokens, used.tokens
    yield ceiling.milliseconds, used.milliseconds


def _plus(total: Amounts, new: Amounts) -> Amounts:
    return Amounts(*(a + b for a, b in zip(total, new, strict=True)))
