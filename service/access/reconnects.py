"""Detects and limits clients that reconnect in a loop: a retry without backoff, a start that fires twice, a token guesser.

Only attempts that end within `SHORT_ATTEMPT_SECONDS` count, however they end. A call centre that opens a hundred calls
concurrently is no loop; a page that opens and drops its socket every second is one. The clock is a parameter, in seconds.
Memory is bounded: beyond `MAX_CLIENTS` the client whose last short attempt is oldest is forgotten.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from service.failures import Failure

SHORT_ATTEMPT_SECONDS: Final = 5.0
WINDOW_SECONDS: Final = 60.0
LOOP_THRESHOLD: Final = 10
"""From this many short attempts within the window on, the operator gets a log line and the client a response header."""
MAX_CLIENTS: Final = 2048
_CLOCK_TOLERANCE: Final = 1e-6  # a client that waits exactly for Retry-After must be admitted despite rounding


@dataclass(slots=True)
class _History:
    ends: deque[float] = field(default_factory=deque)  # of short attempts, oldest first
    is_reported: bool = False


class ReconnectLimiter:
    """Counts the short attempts of each client within the last minute.

    A client with `limit` short attempts in the last minute is refused; 0 is no limit. Loops are detected in either case.
    """

    def __init__(self, limit: int, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._clock = clock
        self._clients: OrderedDict[tuple[str, str], _History] = OrderedDict()

    def admit(self, client: tuple[str, str]) -> bool:
        """Return whether the client is in a loop; raises Failure with too_many_connects at the limit."""
        history = self._clients.get(client)
        if history is None:
            return False
        now = self._expire(history)
        if self._limit and len(history.ends) >= self._limit:
            oldest = history.ends[-self._limit]
            raise Failure("too_many_connects", retry_after_seconds=max(1, math.ceil(oldest + WINDOW_SECONDS - now)))
        return len(history.ends) >= LOOP_THRESHOLD

    def record_end(self, client: tuple[str, str], duration_seconds: float) -> int | None:
        """Record that an attempt ended. Return the number of short attempts when a loop is detected, once per loop."""
        if duration_seconds >= SHORT_ATTEMPT_SECONDS:
            return None
        history = self._clients.pop(client, None) or _History()
        self._clients[client] = history
        if len(self._clients) > MAX_CLIENTS:
            self._clients.popitem(last=False)
        history.ends.append(self._expire(history))
        if len(history.ends) > max(self._limit, LOOP_THRESHOLD):
            history.ends.popleft()
        if len(history.ends) < LOOP_THRESHOLD:
            history.is_reported = False
            return None
        if history.is_reported:
            return None
        history.is_reported = True
        return len(history.ends)

    def _expire(self, history: _History) -> float:
        """Forget the attempts that ended before the window; return the current time."""
        now = self._clock()
        while history.ends and now - history.ends[0] > WINDOW_SECONDS - _CLOCK_TOLERANCE:
            history.ends.popleft()
        return now
