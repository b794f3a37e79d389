"""Clients that connect again and again: a loop without a pause, a start that is triggered twice, a password guesser.

What counts is an attempt that was over within `SHORT_SECONDS`, whatever ended it: a call centre that opens a hundred calls
at once is no loop, a page that opens and drops its socket each second is. Pure but for the clock that is handed in; memory
is bounded by `MOST_CLIENTS`, the least recently seen are forgotten first.
"""

import math
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from service.failures import Failure

SHORT_SECONDS: Final = 5.0
WINDOW_SECONDS: Final = 60.0
NOTICED_AT: Final = 10
"""So many short attempts within the window are told to the operator, and to the client in a header."""
MOST_CLIENTS: Final = 2048
_ROUNDING: Final = 1e-6  # who waits exactly as long as told has waited long enough


@dataclass(slots=True)
class _Visits:
    ends: deque[float] = field(default_factory=deque)  # of short attempts, the oldest first
    told: bool = False


class ReconnectLimiter:
    """Counts short attempts for each client. `most` within a minute are let in, 0 is no limit; noticing is always on."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._clients: OrderedDict[tuple[str, str], _Visits] = OrderedDict()

    def admit(self, client: tuple[str, str]) -> bool:
        """Let a client in; whether it has been noticed. Raises Failure with too_many_connects."""
        visits = self._clients.get(client)
        if visits is None:
            return False
        now = self._forget(visits)
        if self._most and len(visits.ends) >= self._most:
            oldest = visits.ends[-self._most]
            raise Failure("too_many_connects", retry_after_seconds=max(1, math.ceil(oldest + WINDOW_SECONDS - now)))
        return len(visits.ends) >= NOTICED_AT

    def left(self, client: tuple[str, str], lasted: float) -> int | None:
        """An attempt is over. The number of short ones within the window, once for each loop, when it is to be told."""
        if lasted >= SHORT_SECONDS:
            return None
        visits = self._clients.pop(client, None) or _Visits()
        self._clients[client] = visits
        if len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)
        visits.ends.append(self._forget(visits))
        if len(visits.ends) > max(self._most, NOTICED_AT):
            visits.ends.popleft()
        if len(visits.ends) < NOTICED_AT:
            visits.told = False
            return None
        if visits.told:
            return None
        visits.told = True
        return len(visits.ends)

    def _forget(self, visits: _Visits) -> float:
        now = self._clock()
        while visits.ends and now - visits.ends[0] > WINDOW_SECONDS - _ROUNDING:
            visits.ends.popleft()
        return now
