"""Limits on how many sessions and dials are open concurrently. A slot is a context manager, so a count cannot drift."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from service.failures import Failure


class ConcurrencyLimit:
    """A counting limit that raises instead of waiting. `reason` is the catalogue's reason, `unit` names what is counted."""

    def __init__(self, maximum: int, reason: str, unit: str) -> None:
        self.maximum = maximum
        self.active = 0
        self._reason = reason
        self._unit = unit

    @contextmanager
    def acquire(self) -> Iterator[None]:
        """Hold a slot until the context ends; raises Failure when all slots are held."""
        if self.active >= self.maximum:
            raise Failure(self._reason, detail=f"{self.active} of {self.maximum} {self._unit} in use")
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1


class PerClientConcurrencyLimit:
    """A counting limit for each client; a maximum of 0 is no limit. A client that holds no slot uses no memory."""

    def __init__(self, maximum: int, reason: str) -> None:
        self._maximum = maximum
        self._reason = reason
        self._active: Counter[str] = Counter()

    @contextmanager
    def acquire(self, client: str) -> Iterator[None]:
        """Hold one of the client's slots until the context ends; raises Failure when it holds all of them."""
        if self._maximum and self._active[client] >= self._maximum:
            raise Failure(self._reason)
        self._active[client] += 1
        try:
            yield
        finally:
            self._active[client] -= 1
            if not self._active[client]:
                del self._active[client]
