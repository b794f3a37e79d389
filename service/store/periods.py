"""Days and months in UTC, from the store's clock in milliseconds. Pure."""

from datetime import UTC, datetime
from typing import Final

DAY_MS: Final = 86_400_000
_YEARS_MONTHS: Final = 12


def day_of(now: int) -> int:
    """The number of the day since 1970."""
    return now // DAY_MS


def month_of(day: int) -> int:
    """The number of the month since the year 0 that a day belongs to."""
    date = datetime.fromtimestamp(day * DAY_MS // 1000, UTC)
    return date.year * _YEARS_MONTHS + date.month - 1


def current_day(now: int, stored: int) -> int:
    """The day in which spending counts, given the day that is stored.

    A clock that has been set back by less than a day must not reset what it has reset at midnight already.
    """
    today = day_of(now)
    return stored if stored == today + 1 else today


def seconds_to_next_day(now: int) -> float:
    """The time to the end of the day."""
    return (DAY_MS - now % DAY_MS) / 1000


def seconds_to_next_month(now: int) -> float:
    """The time to the end of the month."""
    year, month = divmod(month_of(day_of(now)) + 1, _YEARS_MONTHS)
    return datetime(year, month + 1, 1, tzinfo=UTC).timestamp() - now / 1000
