"""How much at once: sessions and dials. Slots are context managers, so that a count cannot drift."""

import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from service.failures import Failure

_SPARE_DESCRIPTORS: Final = 100
"""For listeners, probes, scrapes, DNS and logs."""


class Slots:
    """So many at once, and one more is refused."""

    def __init__(self, most: int, reason: str, what: str) -> None:
        self.most = most
        self.taken = 0
        self._reason = reason
        self._what = what

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold a slot; raises Failure when there is none."""
        if self.taken >= self.most:
            raise Failure(self._reason, detail=f"{self.taken} of {self.most} {self._what} taken")
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


class ClientSlots:
    """So many at once for each client; 0 is no limit. Who has none open takes no memory."""

    def __init__(self, most: int, reason: str) -> None:
        self._most = most
        self._reason = reason
        self._taken: Counter[str] = Counter()

    @contextmanager
    def take(self, client: str) -> Iterator[None]:
        """Hold a slot; raises Failure when the client has none left."""
        if self._most and self._taken[client] >= self._most:
            raise Failure(self._reason)
        self._taken[client] += 1
        try:
            yield
        finally:
            self._taken[client] -= 1
            if not self._taken[client]:
                del self._taken[client]


def sessions_that_fit(wanted: int) -> int:
    """The number of sessions that the limit on open files allows; each needs two sockets."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, (soft - _SPARE_DESCRIPTORS) // 2))
