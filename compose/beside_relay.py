"""Health of the demo's simulator, which lives in the relay's network.

When the relay's container starts anew, it gets a new network, and whoever shared the old one is left in it, alone. The
simulator has to be started anew then, to join the new one. Docker does so as soon as the simulator ends, so this ends it.
"""

import os
import signal
import socket
import sys
import time

SIMULATOR = ("127.0.0.1", 8090)
RELAY = ("127.0.0.1", 8080)
RELAY_STARTS_WITHIN_SECONDS = 4.0
_INIT = 1  # passes the signal on to the simulator, and ends with it


def answers(address: tuple[str, int]) -> bool:
    """Whether somebody listens there."""
    try:
        socket.create_connection(address, 1).close()
    except OSError:
        return False
    return True


def main() -> int:
    """The exit code of the health check."""
    if not answers(RELAY):
        time.sleep(RELAY_STARTS_WITHIN_SECONDS)
        if not answers(RELAY):
            os.kill(_INIT, signal.SIGTERM)
            return 1
    return 0 if answers(SIMULATOR) else 1


if __name__ == "__main__":
    sys.exit(main())
