"""How long a relay takes to stop after SIGTERM, for the container engine that would kill it.

`make docs` writes `stop_grace_period` and `terminationGracePeriodSeconds` from this sum.
"""

import math
from typing import Final

from service.relay.closing_sides import CLIENT_CLOSE_SECONDS

MARGIN_SECONDS: Final = 10
"""For everything after the last session: the last log lines, the exit of the interpreter, a busy machine."""


def grace_seconds(drain_seconds: float, close_spread_seconds: float, pause_seconds: float = 0) -> int:
    """Seconds until SIGKILL: the pause before SIGTERM, the drain, the spread of the closes, one close, and a margin."""
    return math.ceil(pause_seconds + drain_seconds + close_spread_seconds + CLIENT_CLOSE_SECONDS) + MARGIN_SECONDS
