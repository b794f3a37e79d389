"""Bounds the log lines that requests from outside can cause. Pure, but for the clock."""

import time
from typing import Final

_LINES: Final = 5
_INTERVAL_SECONDS: Final = 60.0


class LogLimit:
    """Allows 5 lines of each kind within 60 s. The kinds are a closed set: the memory is bounded."""

    def __init__(self) -> None:
        self._windows: dict[str, tuple[float, int]] = {}  # start of the interval, and lines in it
        self._omitted: dict[str, int] = {}

    def omitted_before(self, kind: str) -> int | None:
        """The number of lines omitted before the one that may be logged now; None if it is to be omitted, too."""
        now = time.monotonic()
        since, lines = self._windows.get(kind, (now, 0))
        if now - since >= _INTERVAL_SECONDS:
            since, lines = now, 0
        self._windows[kind] = (since, min(lines + 1, _LINES + 1))
        if lines < _LINES:
            return self._omitted.pop(kind, 0)
        self._omitted[kind] = self._omitted.get(kind, 0) + 1
        return None
