"""Limits on how many sessions and dials are open concurrently. A slot is a context manager, so a count cannot drift."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from service.access.clients import OPEN_ACCESS_CLIENT
from service.access.forwarded import address_block
from service.failures import Failure

MAX_REFUSAL_EVENTS: Final = 64
"""Refused clients whose closing handshake is open concurrently, and refusals by event per second, of the whole relay."""
MAX_REFUSAL_EVENTS_PER_ADDRESS: Final = 8


def limited_client(client: str, address: str) -> str:
    """The name under which a client's sessions are counted: that of its token; with open access its address."""
    return client if client != OPEN_ACCESS_CLIENT else address_block(address)


def explain_lapse(refusal: Failure, seconds: float, setting: str, *, is_ending: bool) -> None:
    """State in a refusal that an older session is ending, or that its client may be dead, and when it is over.

    `setting` is where the operator sets the limit.
    """
    whole_seconds = max(1, math.ceil(seconds))
    if is_ending:
        cause = f"An older session of this client is ending: it is over within {whole_seconds} seconds."
        detail = "an older session is ending"
    else:
        cause = (
            "An older connection of this client may be dead: its session is closed within "
            f"{whole_seconds} seconds unless the client answers a ping. If it is alive, close it."
        )
        detail = "an older connection has not answered a ping"
    refusal.hint = f"Retry in {whole_seconds} seconds. {cause} Operator: the limit is {setting}."
    refusal.retry_after_seconds = whole_seconds
    refusal.detail = detail
    refusal.evidence = {"lapses_within": f"{whole_seconds} s"}


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
    """A counting limit for each client; a maximum of 0 is no limit. A client that holds no slot uses no memory.

    `acquire` can be given another maximum, for a client that has one of its own.
    """

    def __init__(self, maximum: int, reason: str, unit: str | None = None) -> None:
        self._maximum = maximum
        self._reason = reason
        self._unit = unit
        self._active: Counter[str] = Counter()

    @contextmanager
    def acquire(self, client: str, maximum: int | None = None) -> Iterator[None]:
        """Hold one of the client's slots until the context ends; raises Failure when it holds all of them."""
        maximum = self._maximum if maximum is None else maximum
        if maximum and self._active[client] >= maximum:
            detail = None if self._unit is None else f"{maximum} of {maximum} {self._unit} of one client in use"
            raise Failure(self._reason, detail=detail)
        self._active[client] += 1
        try:
            yield
        finally:
            self._active[client] -= 1
            if not self._active[client]:
                del self._active[client]


class RefusalEventLimit:
    """Bounds the refusals by event, so that refused clients cannot hold sockets: together, for each address, and per second.

    `slot` yields whether there is one; without it the refusal is an HTTP status. The clock is a parameter, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: Counter[str] = Counter()
        self._second = -1
        self._this_second = 0

    @contextmanager
    def slot(self, address: str) -> Iterator[bool]:
        """Hold a slot of the address until the context ends, if one is free."""
        if not self._is_free(address):
            yield False
            return
        self._this_second += 1
        self._open[address] += 1
        try:
            yield True
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]

    def _is_free(self, address: str) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._this_second = second, 0
        return (
            self._open[address] < MAX_REFUSAL_EVENTS_PER_ADDRESS
            and self._open.total() < MAX_REFUSAL_EVENTS
            and self._this_second < MAX_REFUSAL_EVENTS
        )
