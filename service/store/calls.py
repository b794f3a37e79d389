"""Calls to a backend: a time limit for each, metrics, and a circuit breaker."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from service.deadlines import Deadline
from service.failures import Failure
from service.store.interface import StoreError
from service.telemetry.shared_store import StoreMetrics

CALL_SECONDS: Final = 0.25
"""The time limit of a call, from when it is sent."""
FAILURES_TO_OPEN: Final = 3
MAX_CONCURRENT: Final = 16

_T = TypeVar("_T")


class StoreCalls:
    """Makes at most MAX_CONCURRENT calls at a time; further ones wait.

    After FAILURES_TO_OPEN failed calls in a row every call but a trial fails at once, until a call succeeds. `on_change` is
    called with the error when that begins, and with None when it ends.
    """

    def __init__(self, metrics: StoreMetrics, seconds: float, on_change: Callable[[StoreError | None], None]) -> None:
        self.seconds = seconds
        self._metrics = metrics
        self._on_change = on_change
        self._slots = asyncio.Semaphore(MAX_CONCURRENT)
        self._failures = 0
        self._error: str | None = None

    @property
    def is_up(self) -> bool:
        """Whether calls are made."""
        return self._error is None

    async def call(self, name: str, operation: Callable[[], Awaitable[_T]]) -> _T:
        """The result of an operation; raises StoreError. If it raises or is cancelled, the operation may have happened."""
        if self.is_up:
            async with self._slots:
                if self.is_up:  # while it waited, others can have failed
                    return await self.try_call(name, operation)
        self._metrics.calls.labels(name, "skipped").inc()
        raise StoreError(self._error or "the store failed")

    async def try_call(self, name: str, operation: Callable[[], Awaitable[_T]]) -> _T:
        """The same, also while calls fail: a trial."""
        started_at = time.perf_counter()
        try:
            async with Deadline(self.seconds):
                result = await operation()
        except TimeoutError:
            message = f"no answer within {self.seconds * 1000:g} ms"
            self._finished(name, "timeout", started_at, StoreError(message))
            raise StoreError(message) from None  # not in a local: its traceback refers to this frame
        except StoreError as error:
            self._finished(name, "error", started_at, error)
            raise
        self._finished(name, "ok", started_at, None)
        return result

    def _finished(self, name: str, result: str, started_at: float, error: StoreError | None) -> None:
        self._metrics.calls.labels(name, result).inc()
        self._metrics.duration.labels(name).observe(time.perf_counter() - started_at)
        was_up = self.is_up
        self._failures = 0 if error is None else self._failures + 1
        if error is None:
            self._error = None
        elif self._failures >= FAILURES_TO_OPEN:
            self._error = str(error)  # the exception itself would keep the frames of a request in memory
        if was_up != self.is_up:
            self._metrics.up.set(self.is_up)
            self._on_change(error)


def unavailable(error: StoreError) -> Failure:
    """The failure for a client whose request needs the store."""
    return Failure("store_unavailable", retry_after_seconds=1, evidence={"cause": str(error)})
