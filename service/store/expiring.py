"""A dictionary whose entries expire. Pure: the time is a parameter."""

import heapq
from typing import Generic, TypeVar

_T = TypeVar("_T")


class ExpiringDict(Generic[_T]):
    """Entries by name, each until a time of its own. `purge` frees expired entries; until then they are found."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[_T, int]] = {}
        self._due: list[tuple[int, str]] = []  # at least one for each entry, at its time or earlier

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, name: str) -> _T | None:
        """The entry, or None."""
        found = self._entries.get(name)
        return None if found is None else found[0]

    def put(self, name: str, value: _T, until: int) -> None:
        """Add or replace an entry."""
        found = self._entries.get(name)
        if found is None or until < found[1]:
            heapq.heappush(self._due, (until, name))
        self._entries[name] = (value, until)

    def drop_first(self) -> None:
        """Free the entry whose time comes first, of those that there are."""
        while self._due:
            until, name = heapq.heappop(self._due)
            found = self._entries.get(name)
            if found is not None and found[1] <= until:
                del self._entries[name]
                return
            if found is not None:
                heapq.heappush(self._due, (found[1], name))

    def purge(self, now: int) -> None:
        """Free what has expired."""
        while self._due and self._due[0][0] <= now:
            _, name = heapq.heappop(self._due)
            found = self._entries.get(name)
            if found is not None and found[1] <= now:
                del self._entries[name]
            elif found is not None:
                heapq.heappush(self._due, (found[1], name))
