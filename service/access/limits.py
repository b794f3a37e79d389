"""How much at once: sessions and dials. Slots are context managers, so that a count cannot drift."""

import resource
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.failures import Failure

_SPARE_DESCRIPTORS: Final = 100
"""For listeners, probes, scrapes, DNS and logs."""
_PROCESS_BYTES: Final = 100 << 20
_SESSION_BYTES: Final = 256 << 10
"""An idle session with TLS takes a third of it (docs/benchmarks.md); the rest is for what waits to be sent."""
_MEMORY_LIMITS: Final = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))

_NO_LIMIT_BYTES: Final = 1 << 60
"""The first version of cgroups says nearly 2^63 where it means none."""


class ConcurrencyLimit:
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


class PerClientLimit:
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


@dataclass(frozen=True, slots=True)
class MachineLimit:
    """A limit of the machine that allows fewer sessions than were wanted."""

    sessions: int
    what: str
    remedy: str


def lowered(wanted: int) -> MachineLimit | None:
    """The limit of this machine that `wanted` sessions would exceed, the tightest of them."""
    limits = (
        (descriptors_allow(), "open files", "Raise it (ulimit -n): two for each session and a hundred more."),
        (memory_allows(), "memory", "Raise the container's memory limit: 100 MiB and 256 KiB for each session."),
    )
    found = [MachineLimit(most, what, remedy) for most, what, remedy in limits if most is not None and most < wanted]
    return min(found, key=lambda limit: limit.sessions, default=None)


def descriptors_allow() -> int | None:
    """So many sessions does the limit on open files allow, each needs two sockets; None is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else max(1, (soft - _SPARE_DESCRIPTORS) // 2)


def descriptors_for_callers() -> int | None:
    """So many descriptors may callers take, with those of their sessions upstream; None is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else max(1, soft - _SPARE_DESCRIPTORS // 2)


def memory_allows(files: Iterable[Path] = _MEMORY_LIMITS) -> int | None:
    """So many sessions does the container's memory limit allow; None is no limit, or none that can be read."""
    limit = memory_limit(files)
    return None if limit is None else max(1, (limit - _PROCESS_BYTES) // _SESSION_BYTES)


def memory_limit(files: Iterable[Path] = _MEMORY_LIMITS) -> int | None:
    """The container's memory limit in bytes; None is no limit, or none that can be read."""
    for file in files:
        with suppress(OSError, ValueError):  # no such file, or "max"
            limit = int(file.read_text(encoding="ascii"))
            return limit if limit < _NO_LIMIT_BYTES else None
    return None
