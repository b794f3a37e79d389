"""Makes the backend that RELAY_STORE_URL names."""

import math

from service.store.interface import StoreBackend
from service.store.memory import MemoryBackend
from service.store.state import StoreState
from service.store.url import StoreUrl


def make_backend(url: StoreUrl | None) -> StoreBackend:
    """The backend of a server, or that in memory for None."""
    if url is None:
        # A process that was suspended must not lose its own leases.
        return MemoryBackend(StoreState(lease_seconds=math.inf))
    from service.store.redis_backend import RedisBackend, connect  # noqa: PLC0415 - needs the extra `redis`

    return RedisBackend(connect(url))
