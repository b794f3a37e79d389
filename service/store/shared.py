"""The store with its failure handling: what the other packages use."""

import asyncio
import hashlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import structlog

from service.failures import Failure
from service.realtime.keys import Secret
from service.store.calls import CALL_SECONDS, StoreCalls, unavailable
from service.store.interface import (
    HEARTBEAT_SECONDS,
    FailureMode,
    Lease,
    Limits,
    Refused,
    Scope,
    SecretState,
    Spending,
    StoreBackend,
    StoreError,
    Totals,
)
from service.store.membership import RETRY_SECONDS, Membership
from service.store.memory import MemoryBackend
from service.store.spending import SpendingReporter
from service.store.state import StoreState
from service.telemetry.shared_store import StoreMetrics

CLOSE_SECONDS: Final = 1.0
"""Upper bound on sending what is left at the end of the process."""
_EFFECTS: Final = {
    "open": "Limits hold for each process alone until it answers.",
    "closed": "New sessions are refused until it answers.",
}


class SharedStore:
    """Implements `Store`. Await `join`, keep `keep_leases` and `keep_sending` running in tasks, and `close` it at the end.

    `on_checked` is called after every heartbeat, with the failure if there was one, and its duration in seconds.
    """

    def __init__(
        self,
        backend: StoreBackend,
        metrics: StoreMetrics,
        *,
        mode: FailureMode = "open",
        on_checked: Callable[[Failure | None, float], None] = lambda _failure, _seconds: None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        call_seconds: float = CALL_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._backend = backend
        self._metrics = metrics
        self._mode = mode
        self._calls = StoreCalls(metrics, call_seconds, self._changed)
        local = StoreState(lease_seconds=math.inf) if self.is_shared else None
        self._spending = SpendingReporter(backend, self._calls, local, metrics, retry_seconds=retry_seconds)
        self._membership = Membership(
            backend,
            self._calls,
            local,
            metrics,
            mode=mode,
            on_checked=on_checked,
            on_epoch=self._note_epoch,
            heartbeat_seconds=heartbeat_seconds,
            retry_seconds=retry_seconds,
        )
        self._epoch: str | None = None
        self._log = structlog.get_logger()
        self.keep_leases = self._membership.keep_leases
        self.keep_sending = self._spending.keep_sending

    @property
    def is_shared(self) -> bool:
        """See `Store`."""
        return not isinstance(self._backend, MemoryBackend)

    @property
    def is_up(self) -> bool:
        """See `Store`."""
        return self._calls.is_up

    async def join(self) -> None:
        """Register this process at the store; if that fails, `keep_leases` tries again."""
        await self._membership.send_heartbeat()

    def refusal(self) -> Failure | None:
        """The failure with which every session is refused at present, because the store fails and the mode is closed."""
        if self._mode == "open" or (self.is_up and self._membership.has_joined):
            return None
        return Failure("store_unavailable", retry_after_seconds=1)

    async def acquire(
        self, limits: Sequence[Limits], *, on_over_limit: Callable[[], None] | None = None
    ) -> Lease | Refused:
        """See `Store`."""
        return await self._membership.acquire(limits, on_over_limit)

    def spend(self, spending: Spending) -> None:
        """See `Store`."""
        self._spending.spend(spending)

    async def spend_and_read(self, spending: Spending) -> Mapping[Scope, Totals]:
        """See `Store`."""
        return await self._spending.spend_and_read(spending)

    async def totals(self, scopes: Sequence[Scope]) -> Mapping[Scope, Totals]:
        """See `Store`."""
        return await self._spending.totals(scopes)

    async def put_secret(self, secret: Secret, payload: bytes, ttl_seconds: int) -> None:
        """See `Store`."""
        digest = _digest(secret)
        try:
            is_new = await self._calls.call(
                "put_secret", lambda: self._backend.put_secret(digest, payload, ttl_seconds)
            )
        except StoreError as error:
            raise unavailable(error) from None
        if not is_new:
            raise ValueError("the secret exists")

    async def read_secret(self, secret: Secret) -> SecretState | bytes:
        """See `Store`."""
        return await self._find_secret("read_secret", self._backend.read_secret, secret)

    async def take_secret(self, secret: Secret) -> SecretState | bytes:
        """See `Store`."""
        return await self._find_secret("take_secret", self._backend.take_secret, secret)

    async def _find_secret(
        self, name: str, find: Callable[[str], Awaitable[SecretState | bytes]], secret: Secret
    ) -> SecretState | bytes:
        digest = _digest(secret)
        try:
            return await self._calls.call(name, lambda: find(digest))
        except StoreError as error:
            raise unavailable(error) from None

    async def close(self) -> None:
        """Send what is left, free the places of this process, and close the connections."""
        with suppress(TimeoutError, StoreError):
            async with asyncio.timeout(CLOSE_SECONDS):
                while len(self._spending.journal) and await self._spending.send_journal():
                    pass
                await self._membership.leave()
        self._spending.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._backend.close()

    def _changed(self, error: StoreError | None) -> None:
        if error is None:
            self._log.info("store.recovered", message="The store answers again.", journal=len(self._spending.journal))
            return
        self._membership.store_failed()
        self._log.error(
            "store.failed",
            message=f"The store fails: {error}. {_EFFECTS[self._mode]}",
            remedy="Run 'python -m service doctor' where the relay runs: its step 'store' checks the store.",
            failure_mode=self._mode,
        )

    def _note_epoch(self, epoch: str) -> None:
        if self._epoch not in {None, epoch}:
            self._metrics.losses.labels("data").inc()
            self._log.error(
                "store.data_lost",
                message="The store has come back without its data. The spending of ended sessions in this day and month and "
                "unused client secrets are lost. Open sessions are registered again; their spending counts from their "
                "beginning.",
                remedy="Let the store keep its data over restarts: appendonly yes, a volume, maxmemory-policy noeviction.",
            )
        self._epoch = epoch


def _digest(secret: Secret) -> str:
    return hashlib.sha256(secret.reveal().encode("utf-8", "surrogatepass")).hexdigest()
