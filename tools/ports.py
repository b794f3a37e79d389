"""Ports for programs that cannot listen on port 0 and report the port that they use."""

import itertools
import os
import socket
from typing import Final

_FIRST: Final = 20_000
_COUNT: Final = 12_000
_candidates: Final = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A port of loopback without a listener, never the same twice.

    It is below 32768, where Linux takes the ports of outgoing connections and of listeners on port 0: none of them takes it
    before the program listens.
    """
    for candidate in itertools.islice(_candidates, _COUNT):
        port = _FIRST + candidate % _COUNT
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port from 20000 to 31999 of loopback is free")
