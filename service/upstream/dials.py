"""The dials that clients wait for."""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from service.failures import Failure

T = TypeVar("T")


class DialsInFlight:
    """Counts the dials of admitted clients and bounds them at the end of a drain, since each may become a session.

    A client's handler enters `track` when the client is admitted and leaves it when the session has started or the client has
    its refusal; in between it awaits its dial through `run`. Nothing here starts or owns a task.
    """

    def __init__(self) -> None:
        self._tracked = 0
        self._timeouts: set[asyncio.Timeout] = set()
        self._is_expired = False
        self._none_left = asyncio.Event()
        self._none_left.set()

    def __len__(self) -> int:
        return self._tracked

    @contextmanager
    def track(self) -> Iterator[None]:
        """Count a dial while the block runs."""
        self._tracked += 1
        self._none_left.clear()
        try:
            yield
        finally:
            self._tracked -= 1
            if not self._tracked:
                self._none_left.set()

    async def run(self, dial: Coroutine[Any, Any, T]) -> T:
        """Await a dial, or the start of a session after it.

        Raises what the dial raises; Failure with reason `relay_draining` once `expire` has been called. The dial is then
        cancelled and closes its socket, as it does if the caller is cancelled.
        """
        timeout = asyncio.timeout(None)
        self._timeouts.add(timeout)
        try:
            async with timeout:
                if self._is_expired:
                    timeout.reschedule(0)
                return await dial
        except TimeoutError:
            if timeout.expired():
                raise Failure("relay_draining") from None
            raise
        finally:
            self._timeouts.discard(timeout)

    def expire(self) -> None:
        """Cancel all dials, those that start later included. Calling it again has no effect."""
        if not self._is_expired:
            self._is_expired = True
            for timeout in self._timeouts:
                timeout.reschedule(0)

    async def wait_empty(self) -> None:
        """Wait until no dial is tracked."""
        await self._none_left.wait()
