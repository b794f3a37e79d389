"""Reads a file outside the event loop, with a deadline. A read of a mount whose server does not answer can block for ever."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from service.deadlines import Deadline
from service.upstream.secret_file import SecretFileError

READ_SECONDS: Final = 10.0
"""Upper bound on one read of a file, which is a megabyte at most."""
_T = TypeVar("_T")


class PollTimer:
    """The time between two reads of a watched file, which a signal can cut short."""

    def __init__(self) -> None:
        self._requested = asyncio.Event()

    def request(self) -> None:
        """End the wait now; during a read: have another one follow it immediately."""
        self._requested.set()

    async def next_poll(self, seconds: float) -> bool:
        """Wait; returns whether the next read was requested."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._requested.wait()
        is_requested = self._requested.is_set()
        self._requested.clear()  # before the read: a request during it causes one more
        return is_requested


class FileReader:
    """Runs one blocking read at a time, in a daemon thread: asyncio's executor would keep the process from ending."""

    def __init__(self) -> None:
        self._is_reading = False

    async def read_in_thread(self, read: Callable[[], _T]) -> _T:
        """Return what `read` returns; raises what it raises, and SecretFileError where it does not return in time.

        While an earlier read is blocked no other one is started.
        """
        if self._is_reading:
            raise _not_answering()
        loop = asyncio.get_running_loop()
        result: asyncio.Future[_T] = loop.create_future()

        def finish(outcome: _T | Exception) -> None:
            self._is_reading = False  # not when the thread ends: the next read may start before that
            if result.done():  # too late
                return
            if isinstance(outcome, Exception):
                result.set_exception(outcome)
            else:
                result.set_result(outcome)

        def run() -> None:
            outcome: _T | Exception
            try:
                outcome = read()
            except Exception as exc:  # noqa: BLE001 - raised again in the event loop
                outcome = exc
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(finish, outcome)

        self._is_reading = True
        threading.Thread(target=run, name="read file", daemon=True).start()
        try:
            async with Deadline(READ_SECONDS):
                return await result
        except TimeoutError:
            raise _not_answering() from None


def _not_answering() -> SecretFileError:
    return SecretFileError(
        f"is not readable: a read did not return within {READ_SECONDS:.0f} s",
        "Check the mount of the file and the server behind it",
    )
