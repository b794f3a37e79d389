"""Reports spending to the store, and keeps in a journal what the store does not have yet."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from service.store.calls import StoreCalls
from service.store.interface import Scope, Spending, StoreBackend, StoreError, Totals
from service.store.journal import Journal
from service.store.state import StoreState
from service.telemetry.shared_store import StoreMetrics

MAX_REPORTS: Final = 100
"""Reports in one call."""


class SpendingReporter:
    """`local` has the last answer of the store, and what this process has spent since; None if the store cannot fail."""

    def __init__(
        self,
        backend: StoreBackend,
        calls: StoreCalls,
        local: StoreState | None,
        metrics: StoreMetrics,
        *,
        retry_seconds: float,
        journal: Journal | None = None,
    ) -> None:
        self._backend = backend
        self._calls = calls
        self._local = local
        self._metrics = metrics
        self._retry_seconds = retry_seconds
        self.journal = journal or Journal()
        self._wake = asyncio.Event()
        self._is_full = False

    def spend(self, spending: Spending) -> None:
        """See `Store`."""
        self._enter(spending)
        self._wake.set()

    async def spend_and_read(self, spending: Spending) -> Mapping[Scope, Totals]:
        """See `Store`."""
        self._enter(spending)
        try:
            totals = await self._calls.call("spend", lambda: self._backend.spend([spending]))
        except StoreError:
            self._wake.set()
            return self._known(spending.scopes)
        except BaseException:
            self._wake.set()
            raise
        self._sent([spending], totals)
        return totals

    async def totals(self, scopes: Sequence[Scope]) -> Mapping[Scope, Totals]:
        """See `Store`."""
        try:
            totals = await self._calls.call("totals", lambda: self._backend.totals(scopes))
        except StoreError:
            return self._known(scopes)
        self._learn(totals)
        return totals

    async def keep_sending(self) -> None:
        """Send what is in the journal, until cancelled."""
        while True:
            await self._wake.wait()
            if not await self.send_journal():
                await asyncio.sleep(self._retry_seconds)

    async def send_journal(self) -> bool:
        """Send the oldest reports; False if the store failed."""
        dropped = self.journal.drop_old(asyncio.get_running_loop().time())
        if dropped:
            self._report_loss(dropped, "the store has failed for two days")
        reports = self.journal.first(MAX_REPORTS)
        if reports:
            try:
                totals = await self._calls.call("spend", lambda: self._backend.spend(reports))
            except StoreError:
                return False
            self._sent(reports, totals)
        if not len(self.journal):
            self._wake.clear()
        return True

    def stop(self) -> None:
        """Report what will never be sent."""
        if len(self.journal):
            self._report_loss(len(self.journal), "the process stops while the store fails")

    def _enter(self, spending: Spending) -> None:
        if self._local is not None:
            self._local.spend([spending])
        is_kept = self.journal.add(spending, asyncio.get_running_loop().time())
        self._metrics.journal.set(len(self.journal))
        if not is_kept and not self._is_full:
            self._report_loss(1, f"the journal is full, with {len(self.journal)} records")
        elif not is_kept:
            self._metrics.losses.labels("spending").inc()
        self._is_full = not is_kept

    def _sent(self, reports: Sequence[Spending], totals: Mapping[Scope, Totals]) -> None:
        self.journal.sent(reports)
        self._metrics.journal.set(len(self.journal))
        self._learn(totals)

    def _learn(self, totals: Mapping[Scope, Totals]) -> None:
        if self._local is not None:
            self._local.learn(totals)

    def _known(self, scopes: Sequence[Scope]) -> Mapping[Scope, Totals]:
        assert self._local is not None  # noqa: S101 - the store in memory does not fail
        return self._local.totals(scopes)

    def _report_loss(self, records: int, why: str) -> None:
        self._metrics.losses.labels("spending").inc(records)
        structlog.get_logger().error(
            "store.spending_lost",
            message=f"The spending of {records} records does not reach the store: {why}. Budgets count too little.",
            remedy="Find the cause by the log line store.failed before this one.",
            records=records,
        )
