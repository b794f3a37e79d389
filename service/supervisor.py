"""Keeps background tasks running, and measures how late the event loop is."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from prometheus_client import Counter

RESTART_SECONDS: Final = 1.0
"""The pause before a task that has ended is started again."""
STOP_SECONDS: Final = 5.0
"""Longer than a health check takes to close its connection."""
LAG_SECONDS: Final = 0.5
"""The interval of the measurement of the event loop's lag."""
STALL_SECONDS: Final = 2.0
"""A lag above this is logged: no work of the relay takes that long, so the process did not run."""


class Supervisor:
    """Runs background tasks until `stop`.

    A task whose work raises is logged as `task.crashed`, counted, and started again. Nothing but `stop` ends a task, so
    that health checks cannot cease unnoticed.
    """

    def __init__(self, crashes: Counter) -> None:
        self._crashes = crashes
        self._tasks: list[asyncio.Task[None]] = []
        self._log = structlog.get_logger()

    def start(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run `work` in a task of its own, again and again."""
        self._tasks.append(asyncio.get_running_loop().create_task(self._keep_running(name, work), name=name))

    def is_alive(self) -> bool:
        """Whether every task that was started is still running."""
        return all(not task.done() for task in self._tasks)

    async def stop(self) -> None:
        """Cancel all tasks and wait for their end, at most STOP_SECONDS; safe to call twice."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)

    async def _keep_running(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception:  # noqa: BLE001 - any error: health and liveness must not end because of it
                self._log.exception(
                    "task.crashed",
                    message="A background task failed, and is started again.",
                    remedy="Report this line with its traceback.",
                    task=name,
                )
                self._crashes.inc()
            await asyncio.sleep(RESTART_SECONDS)


async def measure_lag(observe: Callable[[float], object]) -> None:
    """Pass on how late the event loop runs a timer, in seconds, every LAG_SECONDS until cancelled."""
    while True:
        due = time.perf_counter() + LAG_SECONDS  # not loop.time(): uvloop updates that once per event loop iteration
        await asyncio.sleep(LAG_SECONDS)
        late = max(0.0, time.perf_counter() - due)
        observe(late)
        if late > STALL_SECONDS:
            structlog.get_logger().warning(
                "process.stalled",
                message="The process did not run for a time: the machine was suspended, or its CPU was throttled or taken.",
                remedy="Check the CPU limit and throttling of the container, and suspension or migration of the machine.",
                seconds=round(late, 1),
            )
