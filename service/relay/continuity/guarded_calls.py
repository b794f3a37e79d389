"""The callbacks and tasks of a session beside its pipes and its ticks: an exception in one of them ends the session."""

import asyncio
from collections.abc import Callable, Coroutine


class GuardedCalls:
    """Runs them until `stop`.

    `on_error` is called while an unexpected exception of one is handled. Without it the exception would go to the log of the
    event loop only, and the session would wait for what never comes.
    """

    def __init__(self, on_error: Callable[[], object]) -> None:
        self._on_error: Callable[[], object] | None = on_error
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()

    def run(self, call: Callable[..., object], *args: object) -> None:
        """Call `call` now."""
        try:
            call(*args)
        except Exception:
            if self._on_error is None:  # the session has ended: the event loop logs it
                raise
            self._on_error()

    def soon(self, call: Callable[[], object]) -> None:
        """Call `call` in the next turn of the event loop."""
        self._loop.call_soon(self.run, call)

    def at(self, when: float, call: Callable[[], object]) -> asyncio.TimerHandle:
        """Call `call` at a time of the event loop."""
        return self._loop.call_at(when, self.run, call)

    def spawn(self, work: Coroutine[object, object, object]) -> "asyncio.Task[object]":
        """Run a task; `stop` cancels it."""
        task: asyncio.Task[object] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def stop(self) -> None:
        """Cancel the tasks: the session ends."""
        self._on_error = None  # else it refers to the session, which would wait for the garbage collector
        for task in self._tasks:
            task.cancel()

    async def wait_stopped(self, seconds: float) -> None:
        """Wait for the tasks, after `stop`."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)

    def _done(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self.run(task.result)
