"""A delay line: each thing put into it comes out a fixed time later, in order, as on a long path."""

import asyncio
from typing import Generic, TypeVar

_T = TypeVar("_T")


class DelayLine(Generic[_T]):
    """An unbounded queue with a delay."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._queue: asyncio.Queue[tuple[float, _T]] = asyncio.Queue()

    def put(self, value: _T) -> None:
        """Put a value into the line."""
        self._queue.put_nowait((asyncio.get_running_loop().time() + self._seconds, value))

    async def get(self) -> _T:
        """Wait for the next value and its time."""
        due, value = await self._queue.get()
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        return value
