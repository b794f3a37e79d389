"""Shortens the windows and `for` durations of the rules from days to minutes by one formula.

Five minutes become five seconds, and a duration four times as long becomes twice as long. Short windows therefore keep enough
scrapes, long ones end within the test, and the order of durations stays the same.
"""

from math import sqrt
from typing import Final

_REFERENCE_SECONDS: Final = 300
_SHORTENED_REFERENCE_SECONDS: Final = 5


def shorten(seconds: int) -> int:
    """The shortened duration, at least 2 seconds."""
    return max(2, round(_SHORTENED_REFERENCE_SECONDS * sqrt(seconds / _REFERENCE_SECONDS)))
