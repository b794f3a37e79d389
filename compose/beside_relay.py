"""Health check of the demo's simulator, which shares the network namespace of the relay's container.

A restarted relay container gets a new network namespace, and the simulator stays in the old one, where the relay cannot
reach it. This check then terminates the simulator; Docker restarts it in the new namespace.
"""

import os
import signal
import socket
import sys
import time

SIMULATOR = ("127.0.0.1", 8090)
RELAY = ("127.0.0.1", 8080)
RELAY_START_SECONDS = 4.0
_INIT = 1  # forwards the signal to the simulator and exits with it


def accepts_connections(address: tuple[str, int]) -> bool:
    """Whether the address accepts TCP connections."""
    try:
        socket.create_connection(address, 1).close()
    except OSError:
        return False
    return True


def main() -> int:
    """Run the health check and return its exit code."""
    if not accepts_connections(RELAY):
        time.sleep(RELAY_START_SECONDS)
        if not accepts_connections(RELAY):
            os.kill(_INIT, signal.SIGTERM)
            return 1
    return 0 if accepts_connections(SIMULATOR) else 1


if __name__ == "__main__":
    sys.exit(main())
