"""Reaching the provider on behalf of callers: the key that holds, the breaker before a dial, one retry behind it.

The health checks go past the breaker, since they are paced by themselves; what they find out closes it.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from service.failures import Failure
from service.upstream.breaker import Breaker, BreakerPermit, RetryBudget
from service.upstream.dial import Connected, Dialler, DialProgress
from service.upstream.target import DialRequest, Target

RETRY_PAUSE_SECONDS: Final = (0.1, 0.5)
LEAST_SECONDS: Final = 1.0
"""A retry with less time than this left would only turn the cause into a timeout."""
# What may pass within half a second. Not what the provider asked us to wait for, nor what took the whole budget, nor an
# answer that was understood and says no.
_WORTH_A_RETRY: Final = frozenset({
    "upstream_error", "upstream_overloaded", "dropped_early", "connect_refused", "network_unreachable"
})  # fmt: skip


class Connector:
    """One provider as callers see it. `key_problem` says why there is no use in dialling, or is None."""

    def __init__(self, dialler: Dialler, key_problem: str | None) -> None:
        self.dialler = dialler
        self.key_problem = key_problem
        self.breaker = Breaker(asyncio.get_running_loop().time)
        self.on_retry: Callable[[], None] | None = None
        self._budget = RetryBudget()

    def use(self, target: Target, key_problem: str | None) -> None:
        """From now on dial this; what runs keeps what it has."""
        self.dialler.target = target
        self.key_problem = key_problem
        self.breaker.succeeded()

    def proves(self, route: DialRequest) -> bool:
        """Whether a dial that comes home has shown more than a 101, which a refused key gets, too."""
        return route.promises_first_event and self.dialler.first_event == "required"

    async def dial(self, route: DialRequest, progress: DialProgress) -> Connected:
        """Reach the provider; raises Failure. At most one retry, and only within the time of one dial."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.dialler.timeout_seconds
        with self.breaker.passage() as passage:
            self._budget.dialled()
            try:
                connected = await self.dialler.dial(route, progress)
            except Failure as failure:
                pause = random.uniform(*RETRY_PAUSE_SECONDS)  # noqa: S311 - jitter
                left = deadline - loop.time() - pause
                if passage.is_trial or left < LEAST_SECONDS or not self._is_worth_a_retry(failure):
                    self.breaker.failed(failure, passage)
                    raise
                connected = await self._again(route, progress, passage, pause, left)
        if self.proves(route):
            self.breaker.succeeded()
        return connected

    def _is_worth_a_retry(self, failure: Failure) -> bool:
        return failure.reason in _WORTH_A_RETRY and failure.retry_after_seconds is None and self._budget.take()

    async def _again(
        self, route: DialRequest, progress: DialProgress, passage: BreakerPermit, pause: float, left: float
    ) -> Connected:
        if self.on_retry is not None:
            self.on_retry()
        await asyncio.sleep(pause)
        try:
            return await self.dialler.dial(route, progress, seconds=left)
        except Failure as failure:
            self.breaker.failed(failure, passage)
            raise
