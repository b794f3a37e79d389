"""The leases of this process, and its membership of the store.

* One task, `keep_leases`, registers the process, renews its leases and frees what is released. Everything else only notes
  what it has to do and wakes it.
* A lease that the store does not hold, since it was granted without the store or lost its place by a race with a new
  registration, is in `_unheld` until the store holds it. A lease that the store may hold, and the process does not, is in
  `_released` until the store has freed it.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Final

import structlog

from service.deadlines import Deadline
from service.failures import Failure
from service.store.calls import StoreCalls, unavailable
from service.store.interface import (
    HEARTBEAT_SECONDS,
    FailureMode,
    Held,
    Lease,
    Limits,
    Member,
    Refused,
    StoreBackend,
    StoreError,
)
from service.store.state import StoreState
from service.telemetry.shared_store import StoreMetrics

RETRY_SECONDS: Final = 1.0
"""The pause between trials while the store fails."""
MAX_BATCH: Final = 500
"""Leases in one call: a script blocks the store, 500 leases for up to 20 ms."""
MAX_RELEASED: Final = 10_000
"""Releases that wait for a store that fails."""
MAX_LAPSES: Final = 3
"""How often one `acquire` waits for another registration."""
_FORGETFUL: Final = "it forgets at once that this process has registered: its address may lead to several servers"
_NO_MEMBER: Final = Member("", 0)


class OwnLease:
    """Implements `Lease`."""

    def __init__(self, limits: Sequence[Limits], on_over_limit: Callable[[], None] | None) -> None:
        self.id = secrets.token_hex(16)
        self.fence = 0
        self.held = Held(self.id, tuple((limit.scope, limit.sessions) for limit in limits))
        self.on_over_limit = on_over_limit
        self.on_release: Callable[[OwnLease], None] | None = None

    @property
    def is_local(self) -> bool:
        """See `Lease`."""
        return self.fence == 0

    def release(self) -> None:
        """See `Lease`."""
        on_release, self.on_release = self.on_release, None
        if on_release is not None:
            on_release(self)


class Membership:
    """Acquires and releases leases. `local` is the state that decides while the store fails; None if the store cannot fail.

    `on_checked` is called after every heartbeat, with the failure if there was one, and its duration in seconds; `on_epoch`
    with the epoch that the store states.
    """

    def __init__(
        self,
        backend: StoreBackend,
        calls: StoreCalls,
        local: StoreState | None,
        metrics: StoreMetrics,
        *,
        mode: FailureMode,
        on_checked: Callable[[Failure | None, float], None],
        on_epoch: Callable[[str], None],
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._backend = backend
        self._calls = calls
        self._local = local
        self._local_member = local.register("").member if local is not None else _NO_MEMBER
        self._metrics = metrics
        self._mode = mode
        self._on_checked = on_checked
        self._on_epoch = on_epoch
        self._heartbeat_seconds = heartbeat_seconds
        self._retry_seconds = retry_seconds
        self._pod = secrets.token_hex(8)
        self._member: Member | None = None
        self.has_joined = False  # ever
        self._joined = asyncio.Event()
        self._wake = asyncio.Event()
        self._leases: dict[str, OwnLease] = {}
        self._unheld: dict[str, OwnLease] = {}
        self._released: dict[str, None] = {}  # an ordered set

    # -- leases -------------------------------------------------------------------------------------------------------

    async def acquire(self, limits: Sequence[Limits], on_over_limit: Callable[[], None] | None) -> Lease | Refused:
        """See `Store`."""
        lease = OwnLease(limits, on_over_limit)
        try:
            member = await self._ask_store(lease, limits)
        except StoreError as error:
            return self._decide_alone(lease, limits, error)
        except BaseException:
            self._free_later(lease.id)
            raise
        if isinstance(member, Refused):
            return member
        lease.fence = member.fence
        if self._local is not None:
            self._local.hold(self._local_member, [lease.held])
            self._local.note_starts(limits)
        self._keep(lease, is_held=member is self._member)
        return lease

    async def _ask_store(self, lease: OwnLease, limits: Sequence[Limits]) -> Member | Refused:
        for _ in range(MAX_LAPSES):
            if self._calls.is_up:
                await self._wait_for_membership()
            member = self._member or _NO_MEMBER
            result = await self._calls.call("acquire", lambda: self._backend.acquire(member, lease.id, limits))  # noqa: B023 - awaited here
            if isinstance(result, Refused):
                return result
            if result:
                return member
            self._lapsed(member)
        raise StoreError(_FORGETFUL)

    async def _wait_for_membership(self) -> None:
        try:
            async with Deadline(self._calls.seconds):
                await self._joined.wait()
        except TimeoutError:
            raise StoreError("this process could not register in time") from None

    def _decide_alone(self, lease: OwnLease, limits: Sequence[Limits], error: StoreError) -> Lease | Refused:
        """Grant a lease without the store, or not. What the store may have granted is then held for good, or freed."""
        if self._mode == "closed" or self._local is None:
            self._free_later(lease.id)
            raise unavailable(error) from None
        result = self._local.acquire(self._local_member, lease.id, limits)
        if isinstance(result, Refused):
            self._free_later(lease.id)
            return result
        self._keep(lease, is_held=False)
        return lease

    def _keep(self, lease: OwnLease, *, is_held: bool) -> None:
        lease.on_release = self._release
        self._leases[lease.id] = lease
        if not is_held:
            self._unheld[lease.id] = lease
            self._wake.set()

    def _release(self, lease: OwnLease) -> None:
        del self._leases[lease.id]
        self._unheld.pop(lease.id, None)
        if self._local is not None:
            self._local.release(self._local_member, lease.id)
        self._free_later(lease.id)

    def _free_later(self, lease: str) -> None:
        if len(self._released) >= MAX_RELEASED and not self._calls.is_up:
            # The next registration frees all that the store has for this process.
            self._released.clear()
            self._leave_membership()
        self._released[lease] = None
        self._wake.set()

    def _freed(self, leases: Iterable[str]) -> None:
        for lease in leases:
            self._released.pop(lease, None)

    # -- membership ---------------------------------------------------------------------------------------------------

    async def keep_leases(self) -> None:
        """Renew the leases, until cancelled."""
        failure: Failure | None = None
        while True:
            is_settled = self._joined.is_set() and not self._unheld
            if self._calls.is_up and failure is None:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._heartbeat_seconds if is_settled else self._retry_seconds):
                        await self._wake.wait()
            else:
                await asyncio.sleep(self._retry_seconds)
            self._wake.clear()
            failure = await self.send_heartbeat()

    async def send_heartbeat(self) -> Failure | None:
        """One heartbeat, with the registration if that is needed; returns how it failed."""
        loop = asyncio.get_running_loop()
        started_at, failure = loop.time(), None
        try:
            await self._renew()
        except StoreError as error:
            failure = unavailable(error)
        self._on_checked(failure, loop.time() - started_at)
        return failure

    async def leave(self) -> None:
        """Free all places of this process; raises StoreError."""
        member = self._member
        self._leave_membership()
        if member is not None:
            await self._calls.call("leave", lambda: self._backend.leave(member))

    def store_failed(self) -> None:
        """Let `acquire` wait for the next heartbeat once the store answers again."""
        self._joined.clear()

    async def _renew(self) -> None:
        if self._member is not None:
            await self._call_heartbeat(self._member)
        if self._member is None:
            # Whatever the store held for this process is freed by the registration.
            released = list(self._released)
            registration = await self._calls.try_call("register", lambda: self._backend.register(self._pod))
            self._freed(released)
            self._unheld.update(self._leases)
            self._member = registration.member
            self._on_epoch(registration.epoch)
        await self._hold(self._member)
        if self._member is None:
            raise StoreError(_FORGETFUL)
        self.has_joined = True
        self._joined.set()
        if self._released:
            self._wake.set()

    async def _call_heartbeat(self, member: Member) -> None:
        released = list(islice(self._released, MAX_BATCH))
        epoch = await self._calls.try_call("heartbeat", lambda: self._backend.heartbeat(member, released))
        if epoch is None:
            self._lapsed(member)
        else:
            self._freed(released)
            self._on_epoch(epoch)

    async def _hold(self, member: Member) -> None:
        over: list[OwnLease] = []
        while self._unheld and self._member is member:
            leases = list(islice(self._unheld.values(), MAX_BATCH))
            held = [lease.held for lease in leases]
            result = await self._calls.try_call("hold", lambda: self._backend.hold(member, held))  # noqa: B023 - awaited here
            if result is None:
                self._lapsed(member)
                break
            for lease in leases:
                lease.fence = member.fence
                self._unheld.pop(lease.id, None)
            over += [self._leases[lease] for lease in result if lease in self._leases]
        if over:
            self._report_over_limit(over)

    def _report_over_limit(self, over: Sequence[OwnLease]) -> None:
        self._metrics.over_limit.inc(len(over))
        structlog.get_logger().warning(
            "store.sessions_over_limit",
            message=f"{len(over)} sessions of this process have no free place at the store: others took them while this "
            "process or the store was cut off.",
            remedy="If this repeats, check the network between the relay and the store.",
            sessions=len(over),
            are_ended=self._mode == "closed",
        )
        for lease in over if self._mode == "closed" else ():
            on_over_limit, lease.on_over_limit = lease.on_over_limit, None
            if on_over_limit is not None:
                on_over_limit()

    def _lapsed(self, member: Member) -> None:
        if self._member is member:
            self._leave_membership()
        self._wake.set()

    def _leave_membership(self) -> None:
        self._member = None
        self._joined.clear()
