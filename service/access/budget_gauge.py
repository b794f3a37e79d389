"""Shows how much of its budgets each client of the clients file has used, also while none of its sessions is open."""

import asyncio
from typing import Final

from prometheus_client import Gauge

from service.access.budgets import Budgets, budgets_of
from service.access.clients import ClientDirectory
from service.store.interface import Amounts, Ceiling, Store

INTERVAL_SECONDS: Final = 30.0


class BudgetGauge:
    """Keeps the used share of each client's day and month in a gauge, whose label is bounded by the file.

    Users of a client are not shown: their number has no bound.
    """

    def __init__(self, clients: ClientDirectory, store: Store, gauge: Gauge) -> None:
        self._clients = clients
        self._store = store
        self._gauge = gauge
        self._shown: frozenset[str] = frozenset()

    async def keep(self) -> None:
        """Read the totals of the store at intervals, until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(INTERVAL_SECONDS)

    async def read(self) -> None:
        """Read the totals of all clients with a budget of a day or a month, with one call."""
        budgets = {
            client.name: Budgets(Ceiling(), budgets_of(client, None).scopes) for client in self._clients.file.clients
        }
        budgets = {name: budget for name, budget in budgets.items() if not budget.is_empty}
        for name in self._shown - budgets.keys():
            self._gauge.remove(name)
        self._shown = frozenset(budgets)
        if not budgets:
            return
        totals = await self._store.totals([limits.scope for budget in budgets.values() for limits in budget.scopes])
        for name, budget in budgets.items():
            use = budget.most_used(Amounts(), totals)
            self._gauge.labels(name).set(use.ratio if use is not None else 0.0)
