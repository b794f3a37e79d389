"""Writes log lines from a thread of its own: whoever reads them may stall, and the sessions must not stall with it."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Final, TextIO

MAX_QUEUED_LINES: Final = 10_000
"""So many lines may wait, some three megabytes; what comes then is dropped, counted, and told of when there is room again."""
_BATCH: Final = 200


class LogWriter:
    """A text stream for loggers, one line in each write. Writing never waits; `close` waits for what is written already.

    `on_drop` is called for each line that is lost, `on_room` with their number once there is room again. Neither may log: a
    logger holds its lock while it writes.
    """

    def __init__(self, stream: TextIO, max_lines: int = MAX_QUEUED_LINES) -> None:
        self._is_terminal = stream.isatty()
        # Past Python's buffer: a thread that is stuck in it would hold its lock, and the interpreter could not end.
        self._descriptor = os.dup(stream.fileno())
        self._most_lines = max_lines
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._closed = False
        self._dropped = 0  # since the last line that told of it
        self.on_drop: Callable[[], None] = lambda: None
        self.on_room: Callable[[int], object] = lambda _dropped: None
        # A daemon: a reader that stalls for ever must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def write(self, line: str) -> int:
        """Take a line; it is written soon, or dropped if too many wait."""
        if self._closed:
            return 0
        if self._lines.qsize() >= self._most_lines:
            self._dropped += 1
            self.on_drop()
            return 0
        if self._dropped and self._lines.qsize() < self._most_lines // 2:
            dropped, self._dropped = self._dropped, 0
            self.on_room(dropped)
        self._lines.put(line)
        return len(line)

    def flush(self) -> None:
        """Nothing to do: the thread flushes."""

    def isatty(self) -> bool:
        """Whether a person reads."""
        return self._is_terminal

    def close(self, seconds: float = 1.0) -> None:
        """Take no more, and wait so long at most for what was taken to be written."""
        self._closed = True
        self._lines.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            lines = [self._lines.get()]
            while len(lines) < _BATCH and not self._lines.empty():
                lines.append(self._lines.get())
            self._put("".join(line for line in lines if line is not None))
            if None in lines:
                os.close(self._descriptor)
                return

    def _put(self, text: str) -> None:
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        with suppress(OSError):  # nobody reads any more, or the disk is full: there is nobody to tell
            while data:
                data = data[os.write(self._descriptor, data) :]
        for _ in range(bytes(data).count(b"\n")):
            self.on_drop()
