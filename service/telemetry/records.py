"""One line of JSON for each ended session: what it was and what it cost, never what was said.

A thread of its own writes them, so that a disk that stalls does not stall the event loop. It opens the file at once, so that
the start reports a path that cannot be written. A file is opened again when it was renamed or removed, as `logrotate` does,
and after each failure; a record that cannot be written is counted.
"""

import errno
import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Literal

MAX_QUEUED: Final = 10_000
"""Records that may wait for the disk, about six megabytes. Further ones are lost, and counted."""
_BATCH: Final = 200
Target = Literal["stdout"] | Path


class RecordWriter:
    """Writes records to a file or to standard output.

    `on_result` is called for each record with whether it was written; `on_change` with the error when records cannot be
    written any more, and with None once they can. Both are called in any thread. `error` is None while they can be written.
    """

    def __init__(
        self,
        target: Target,
        *,
        on_result: Callable[[bool], object] = lambda _written: None,
        on_change: Callable[[OSError | None], object] = lambda _error: None,
        max_queued: int = MAX_QUEUED,
    ) -> None:
        self.error: OSError | None = None
        self.target = target
        self._on_result = on_result
        self._on_change = on_change
        self._max_queued = max_queued
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()  # None ends the thread
        self._descriptor: int | None = None
        self._is_torn = False  # the last write ended within a line
        self._is_closed = False
        # A daemon thread: a disk that hangs for good must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="record writer", daemon=True)
        self._thread.start()

    def write(self, record: Mapping[str, object]) -> None:
        """Queue a record. Never blocks, never fails."""
        if self._is_closed or self._lines.qsize() >= self._max_queued:
            self._on_result(False)  # noqa: FBT003 - the only argument
            return
        self._lines.put(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def close(self, seconds: float = 2.0) -> None:
        """Accept no more records, and wait at most `seconds` until the queued ones are written."""
        if not self._is_closed:
            self._is_closed = True
            self._lines.put(None)
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._open()
        except OSError as exc:
            self._report(exc)
        while True:
            lines = [self._lines.get()]
            while len(lines) < _BATCH and not self._lines.empty():
                lines.append(self._lines.get())
            for line in lines:
                if line is not None:
                    self._write(line)
            if None in lines:
                self._close_file()
                return

    def _write(self, line: bytes) -> None:
        error = None
        try:
            descriptor = self._open()
            data = b"\n" + line if self._is_torn else line
            while data:
                count = os.write(descriptor, data)
                data = data[count:]
                self._is_torn = bool(data)
        except OSError as exc:
            error = exc
            self._close_file()
        self._on_result(error is None)
        self._report(error)

    def _report(self, error: OSError | None) -> None:
        is_new = (error is None) != (self.error is None)
        self.error = error
        if is_new:
            self._on_change(error)

    def _open(self) -> int:
        if isinstance(self.target, str):
            if self._descriptor is None:
                if sys.stdout is None:  # the process was started without one
                    raise OSError(errno.EBADF, "standard output is closed")
                # Not through Python's buffer: a thread that blocks in it holds its lock, and the interpreter could not exit.
                self._descriptor = os.dup(sys.stdout.fileno())
            return self._descriptor
        if self._descriptor is not None and not self._is_current(self.target, self._descriptor):
            self._close_file()
        if self._descriptor is None:
            self._descriptor = _open_file(self.target)
            self._is_torn = _ends_within_a_line(self.target, self._descriptor)
        return self._descriptor

    @staticmethod
    def _is_current(path: Path, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.stat(path), os.fstat(descriptor))  # noqa: PTH116 - as of the descriptor
        except OSError:
            return False

    def _close_file(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


def check_writable(path: Path) -> None:
    """Raise the OSError with which this process could not write records to a file now. Creates nothing."""
    try:
        os.close(_open_file(path, create=False))
    except FileNotFoundError:
        folder = Path(os.path.realpath(path)).parent  # of the file that a link names
        if not folder.is_dir():
            raise
        if not os.access(folder, os.W_OK | os.X_OK):
            is_read_only = os.statvfs(folder).f_flag & os.ST_RDONLY
            raise OSError(errno.EROFS if is_read_only else errno.EACCES, "") from None


def _open_file(path: Path, *, create: bool = True) -> int:
    """Open a file to append; a pipe or device in its place is refused, since opening it could block for ever."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_CREAT if create else 0)
    descriptor = os.open(path, flags, 0o640)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))  # as of a pipe without a reader, and of a socket
    return descriptor


def _ends_within_a_line(path: Path, descriptor: int) -> bool:
    """Whether the last writer of the file left half a line."""
    size = os.fstat(descriptor).st_size
    if not size:
        return False
    with suppress(OSError), path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) != b"\n"
    return False
