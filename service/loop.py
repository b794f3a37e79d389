"""The event loop: which one runs, how the garbage collector is tuned for it, and what happens to unhandled exceptions.

The measurements behind the choices are in docs/decisions/0003-event-loop.md.
"""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import structlog

try:
    import uvloop
except ImportError:  # for example on PyPy; asyncio's own loop does the same at twice the processor time
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

NAME: Final = new_event_loop.__module__.partition(".")[0]
"""The library that provides the event loop: uvloop or asyncio."""

_YOUNG_OBJECTS: Final = 10_000
"""Allocations before the youngest generation is collected; Python's default is 700, and a session is about 150 objects."""


_LOST_CONNECTION: Final = "the handler is closed"
"""How uvloop reports that it was about to write to a TLS connection that had just been lost. asyncio reports no such loss."""

_Result = TypeVar("_Result")


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `main` on uvloop where it is installed, else on asyncio's own loop; returns its result."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


async def start_threads() -> None:
    """Start the threads of libuv's pool, which live as long as the process, with the signals that this thread blocks."""
    await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 0)


def freeze_garbage_collector() -> None:
    """Exempt all objects that exist now from garbage collection. Call it when everything is loaded.

    A full collection stops every session while it runs, and the modules alone are forty thousand objects that live as long
    as the process.
    """
    gc.collect()
    gc.freeze()
    gc.enable()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)


def log_unhandled_exceptions() -> None:
    """Log exceptions that no task or callback handles. asyncio's default prints reprs, which can hold request headers."""
    asyncio.get_running_loop().set_exception_handler(_log_exception)


def _log_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    exc = context.get("exception")
    if isinstance(exc, RuntimeError) and str(exc).endswith(_LOST_CONNECTION):
        return
    # For a network error the traceback adds nothing to the type.
    has_traceback = isinstance(exc, BaseException) and not isinstance(exc, OSError)
    with suppress(Exception):
        structlog.get_logger().error(
            "loop.exception_caught",
            message=str(context.get("message")),
            exc_type=type(exc).__name__ if exc else None,
            exc_info=exc if has_traceback else None,
        )
