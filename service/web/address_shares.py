"""How many connections that are no WebSocket yet each address has, so that one cannot keep out all others."""

from collections import Counter
from collections.abc import Callable


class AddressShares:
    """Counts the connections of each address. At `maximum`, further ones are rejected; None is no limit.

    A connection belongs to the address of its peer. One from a trusted proxy belongs to no address until its first request,
    which names the client's, and from then on to the client of its last request: a proxy may keep a connection for each
    of its clients. Connections whose requests name no client are not limited.
    """

    def __init__(self, maximum: int | None, on_reject: Callable[[], None]) -> None:
        self.maximum = maximum
        self._on_reject = on_reject
        self._open: Counter[str] = Counter()

    def take(self, address: str) -> "AddressShare | None":
        """Count a connection of an address; return None if the address has its share."""
        if self.maximum is not None and self._open[address] >= self.maximum:
            self._on_reject()
            return None
        return AddressShare(self._open, address)


class AddressShare:
    """One connection of an address, from its creation until `release`."""

    __slots__ = ("_open", "address")

    def __init__(self, open_connections: Counter[str], address: str) -> None:
        self.address = address
        self._open = open_connections
        open_connections[address] += 1

    def release(self) -> None:
        """Count a connection less; call it once."""
        self._open[self.address] -= 1
        if not self._open[self.address]:
            del self._open[self.address]
