"""How days become minutes: one formula for every window and every `for`.

Five minutes become five seconds, and what is four times as long becomes twice as long. So short windows keep enough
scrapes, long ones end within the test, and none overtakes another.
"""

from math import sqrt
from typing import Final

_FROM: Final = 300
_TO: Final = 5


def paced(seconds: int) -> int:
    """A duration of the rules as this test has it."""
    return max(2, round(_TO * sqrt(seconds / _FROM)))
