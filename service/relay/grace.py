"""How long a relay that is told to stop may take, for whoever would kill it.

`stop_grace_period` and `terminationGracePeriodSeconds` are written from this sum by `make docs`.
"""

import math
from typing import Final

from service.relay.session import CLIENT_CLOSE_SECONDS

MARGIN_SECONDS: Final = 10
"""For what follows the last session: the log's last lines, the interpreter's end, a machine that is busy."""


def grace_seconds(drain_seconds: float, close_spread_seconds: float, pause_seconds: float = 0) -> int:
    """From the order to stop to the kill: the pause before SIGTERM, the drain, the closing of what is left, a margin."""
    return math.ceil(pause_seconds + drain_seconds + close_spread_seconds + CLIENT_CLOSE_SECONDS) + MARGIN_SECONDS
