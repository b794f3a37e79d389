"""The event loop, and the garbage collector beside it. What was measured is in docs/decisions/0003."""

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

try:
    import uvloop
except ImportError:  # as on PyPy; asyncio's own loop does the same for twice the processor time
    new_event_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

NAME: Final = new_event_loop.__module__.partition(".")[0]
"""Of the library that the loop comes from."""

_YOUNG_OBJECTS: Final = 10_000
"""So many new objects before the youngest are looked at; a session is some 150, and the default is 700."""


_Result = TypeVar("_Result")


def run(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run `main` on the best loop there is; returns what it returns."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def freeze_garbage_collector() -> None:
    """To be called once all is loaded: what is there now lives as long as the process and is never looked at again.

    A full collection stops every session for as long as it takes, and the modules alone are forty thousand objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)
