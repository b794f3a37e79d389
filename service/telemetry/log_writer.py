"""Writes the log from a thread of its own, so that a reader that stalls does not stall the event loop."""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Final, TextIO

MAX_QUEUED_LINES: Final = 10_000
"""Lines that may wait, about three megabytes. Further lines are dropped and counted."""
_BATCH_LINES: Final = 200


class LogWriter:
    """A text stream for loggers. `write` takes one log event and never blocks; a thread writes it to `stream`.

    `on_drop` is called for each lost line. `on_recovery` is called with the number of lines dropped since the last call, once
    half the queue is free again. Both are called in the thread that calls `write`; `on_drop` also in the writer's own thread.
    Neither may log: a logger holds its lock while it writes.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        on_drop: Callable[[], object] = lambda: None,
        on_recovery: Callable[[int], object] = lambda _dropped: None,
        max_lines: int = MAX_QUEUED_LINES,
    ) -> None:
        self._is_terminal = stream.isatty()
        # Not through Python's buffer: a thread that blocks in it holds its lock, and the interpreter could not exit.
        self._descriptor = os.dup(stream.fileno())
        self._on_drop = on_drop
        self._on_recovery = on_recovery
        self._max_lines = max_lines
        self._lines: SimpleQueue[str | None] = SimpleQueue()  # None ends the thread
        self._closed = False
        self._dropped = 0  # since the last call of `on_recovery`
        # A daemon thread: a reader that stalls for good must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def write(self, line: str) -> int:
        """Queue a line; returns 0 if it was dropped because the queue is full or the writer is closed."""
        if self._closed:
            return 0
        if self._lines.qsize() >= self._max_lines:
            self._dropped += 1
            self._on_drop()
            return 0
        if self._dropped and self._lines.qsize() < self._max_lines // 2:
            dropped, self._dropped = self._dropped, 0
            self._on_recovery(dropped)
        self._lines.put(line)
        return len(line)

    def flush(self) -> None:
        """Do nothing: the thread writes without a buffer."""

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._is_terminal

    def close(self, seconds: float = 1.0) -> None:
        """Accept no more lines, and wait at most `seconds` until the queued ones are written."""
        self._closed = True
        self._lines.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            lines = [self._lines.get()]
            while len(lines) < _BATCH_LINES and not self._lines.empty():
                lines.append(self._lines.get())
            self._write_out("".join(line for line in lines if line is not None))
            if None in lines:
                os.close(self._descriptor)
                return

    def _write_out(self, text: str) -> None:
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        with suppress(OSError):  # the reader is closed or the disk is full, and there is no other place to report it
            while data:
                data = data[os.write(self._descriptor, data) :]
        for _ in range(bytes(data).count(b"\n")):
            self._on_drop()
