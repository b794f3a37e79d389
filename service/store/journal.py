"""Spending that the store does not have yet. Pure: the time is a parameter."""

from collections.abc import Iterable
from typing import Final

from service.store.interface import Amounts, Spending

MAX_RECORDS: Final = 10_000
MAX_AGE_SECONDS: Final = 47 * 3600.0
"""Below the two days for which the store remembers a final record: a report that it has already must not count again."""


class Journal:
    """The last report of each record, in the order of their first; of at most MAX_RECORDS records."""

    def __init__(self, maximum: int = MAX_RECORDS) -> None:
        self._maximum = maximum
        self._reports: dict[str, tuple[Spending, float]] = {}  # with the time of the first

    def __len__(self) -> int:
        return len(self._reports)

    def add(self, report: Spending, now: float) -> bool:
        """Keep a report; False if there is no room for another record."""
        found = self._reports.get(report.record)
        if found is None:
            if len(self._reports) >= self._maximum:
                return False
            self._reports[report.record] = (report, now)
            return True
        known, since = found
        amounts = Amounts(*map(max, known.amounts, report.amounts))
        merged = report._replace(amounts=amounts, is_final=known.is_final or report.is_final)
        self._reports[report.record] = (merged, since)
        return True

    def first(self, count: int) -> list[Spending]:
        """The oldest reports."""
        return [report for (report, _), _ in zip(self._reports.values(), range(count), strict=False)]

    def sent(self, reports: Iterable[Spending]) -> None:
        """Forget reports that the store has, unless a later one of the same record has come meanwhile."""
        for report in reports:
            found = self._reports.get(report.record)
            if found is not None and found[0] == report:
                del self._reports[report.record]

    def drop_old(self, now: float) -> int:
        """Drop what is too old to be counted once for certain; returns the number of records."""
        old = [record for record, (_, since) in self._reports.items() if now - since > MAX_AGE_SECONDS]
        for record in old:
            del self._reports[record]
        return len(old)
