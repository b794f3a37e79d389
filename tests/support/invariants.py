"""What must hold after every test case."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.harness import eventually


def open_descriptors() -> int:
    """The number of descriptors that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@asynccontextmanager
async def assert_no_leaks() -> AsyncIterator[None]:
    """Assert that within two seconds after the block no more tasks and descriptors exist than before it."""
    # uvloop opens two descriptors permanently, with its first thread and its first listener.
    await asyncio.to_thread(gc.collect)
    (await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)).close()
    tasks, descriptors = len(asyncio.all_tasks()), open_descriptors()
    yield
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks, 2)
    await eventually(lambda: open_descriptors() <= descriptors, 2)
