"""A real Redis for this folder, and both implementations of the store."""

from collections.abc import AsyncIterator, Iterator

import pytest
from redis import Redis

from service.store.interface import StoreBackend
from service.store.memory import MemoryBackend
from service.store.redis_backend import RedisBackend, connect
from service.store.state import FINAL_RECORD_MS, StoreState
from service.store.url import parse_store_url
from tests.support.redis_server import RedisServer, running_redis

START = 1_795_737_600_000  # 2026-11-27T00:00:00Z


class FakeClock:
    """A clock that tests set, for a backend in memory and for one in Redis."""

    LUA = "local now = tonumber(redis.call('GET', 'test:now'))"

    def __init__(self, client: Redis | None = None) -> None:
        self.now = START + 12 * 3_600_000
        self._client = client
        self.advance(0)

    def advance(self, milliseconds: int) -> None:
        """Move it forwards, or backwards."""
        self.now += milliseconds
        if self._client is not None:
            self._client.set("test:now", self.now)

    def __call__(self) -> int:
        """Wall-clock milliseconds."""
        return self.now


class BackendUnderTest:
    """A backend with the clock that it reads."""

    def __init__(self, backend: StoreBackend, clock: FakeClock) -> None:
        self.store = backend
        self.clock = clock


@pytest.fixture(scope="package")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A server for all tests that do not stop it."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def under_test(request: pytest.FixtureRequest) -> AsyncIterator[BackendUnderTest]:
    """Each implementation, empty."""
    if request.param == "memory":
        clock = FakeClock()
        yield BackendUnderTest(MemoryBackend(StoreState(clock, final_record_ms=FINAL_RECORD_MS)), clock)
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    with Redis(port=server.port) as client:
        client.flushall()
        url = parse_store_url(server.url)
        assert url is not None
        backend = RedisBackend(connect(url), now=FakeClock.LUA)
        yield BackendUnderTest(backend, FakeClock(client))
        await backend.close()
