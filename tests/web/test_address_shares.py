"""The share of connections that one address may have, directly and behind trusted proxies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from service import machine
from tests.support.harness import Relay, eventually, open_raw, simulated_relay, within

TRUSTED = {"RELAY_TRUSTED_PROXIES": "127.0.0.0/8"}
MAXIMUM = 40
SHARE = 20
ONE_ADDRESS = [
    "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1:123", '"[::ffff:c000:201]:4"', "for=192.0.2.1", "198.51.100.9, 192.0.2.1"
]  # fmt: skip


@pytest.fixture(autouse=True)
def few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the relay have 40 descriptors for connections."""
    monkeypatch.setattr(machine, "max_client_descriptors", lambda: MAXIMUM)


class Proxy:
    """Connections of a proxy to a relay; each stays open behind its answer."""

    def __init__(self, relay: Relay, stack: AsyncExitStack) -> None:
        self._port = relay.app.public_port
        self._stack = stack

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._stack.callback(writer.close)
        return reader, writer

    async def get(self, client: str) -> tuple[int, asyncio.StreamWriter]:
        """The status of a client's request over a new connection, and the connection."""
        reader, writer = await self.connect()
        return await ask(reader, writer, client), writer


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: str) -> int:
    """The status of a client's request over a connection."""
    forwarded = f"X-Forwarded-For: {client}\r\n" if client else ""
    writer.write(f"GET /livez HTTP/1.1\r\nHost: localhost\r\n{forwarded}\r\n".encode())
    head = (await within(reader.readuntil(b"\r\n\r\n"), 10)).decode()
    length = next(int(line.split()[1]) for line in head.split("\r\n") if line.lower().startswith("content-length"))
    await within(reader.readexactly(length), 10)
    return int(head.split()[1])


@asynccontextmanager
async def proxied_relay(**settings: str) -> AsyncIterator[tuple[Relay, Proxy]]:
    """A relay that trusts a proxy on this machine."""
    async with simulated_relay(None, **TRUSTED, **settings) as relay, AsyncExitStack() as stack:
        yield relay, Proxy(relay, stack)


async def test_client_behind_a_proxy_has_a_share_of_the_connections() -> None:
    """However its address is written. Further requests are refused, others served, and a closed connection counts less."""
    async with proxied_relay() as (relay, proxy):
        opened = [await proxy.get(ONE_ADDRESS[number % len(ONE_ADDRESS)]) for number in range(SHARE)]
        assert [200] * SHARE == [status for status, _ in opened]
        assert {429} == {(await proxy.get(spelling))[0] for spelling in ONE_ADDRESS}
        assert 200 == (await proxy.get("192.0.2.2"))[0]
        refused = await open_raw(relay.app.public_port, headers={"X-Forwarded-For": "192.0.2.1"})
        assert (429, "too_many_connects", "later") == (
            refused.answer.status, refused.answer.error["code"], refused.answer.error["retry"]
        )  # fmt: skip
        assert "Retry-After" in refused.answer.headers
        await refused.close()
        admitted = await open_raw(relay.app.public_port, headers={"X-Forwarded-For": "192.0.2.2"})
        assert 101 == admitted.answer.status
        await admitted.close()
        assert relay.events("connections.turned_away")
        assert len(ONE_ADDRESS) + 1 == relay.metric("realtime_relay_admissions_total", result="too_many_connects")

        opened[0][1].close()
        for _ in range(100):
            status, writer = await proxy.get("192.0.2.1")
            if status == 200:
                break
            writer.close()
        assert 200 == status


async def test_network_of_an_ipv6_client_counts_as_one() -> None:
    """A host can own its /64."""
    async with proxied_relay() as (_, proxy):
        for number in range(SHARE):
            assert 200 == (await proxy.get(f"2001:db8:0:1::{number:x}"))[0]

        assert 429 == (await proxy.get("[2001:DB8:0:1:ffff::1]:443"))[0]
        assert 200 == (await proxy.get("2001:db8:0:2::1"))[0]


async def test_pooled_connection_counts_for_the_client_of_its_last_request() -> None:
    """A proxy reuses its connections for all clients, and none of them is refused for what others had."""
    async with proxied_relay() as (_, proxy):
        pool = [await proxy.connect() for _ in range(SHARE)]
        for client in ("192.0.2.1", "192.0.2.2", "192.0.2.1", "192.0.2.1"):
            assert {200} == {await ask(*connection, client) for connection in pool}
        assert 429 == (await proxy.get("192.0.2.1"))[0]
        assert 200 == await ask(*pool[0], "192.0.2.2")
        assert 200 == (await proxy.get("192.0.2.1"))[0]


async def test_proxy_that_names_no_client_is_not_limited() -> None:
    """All its clients have one address: the proxy's."""
    async with proxied_relay() as (_, proxy):
        for client in ("", "unknown", "127.0.0.5"):
            for _ in range(4):
                assert 200 == (await proxy.get(client))[0]
        for _ in range(SHARE):
            assert 200 == (await proxy.get(""))[0]


async def test_pending_dials_of_one_client_leave_connections_to_others() -> None:
    """Each takes the client's connection and one to the provider."""
    key = "sk-sim-hang-CANARY0key123456"
    request = (
        "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n"
    )
    settings = {"OPENAI_API_KEY": key, "RELAY_MAX_DIALS": "24", "RELAY_DIAL_TIMEOUT_SECONDS": "60"}
    async with proxied_relay(**settings) as (relay, proxy):
        for _ in range(12):
            _, writer = await proxy.connect()
            writer.write(request.encode())
        await eventually(lambda: len(relay.app.dials) >= 12)
        assert 200 == (await proxy.get("192.0.2.2"))[0]


async def test_address_of_a_dual_stack_socket_is_its_ipv4_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Directly and behind a proxy one client has one share."""
    monkeypatch.setattr(machine, "max_client_descriptors", lambda: 2 * MAXIMUM)
    settings = {
        "RELAY_TRUSTED_PROXIES": "127.0.0.1", "RELAY_HOST": "0.0.0.0", "RELAY_ACCESS": "open", "RELAY_OPEN_ANYWHERE": "true"
    }  # fmt: skip
    async with simulated_relay(None, **settings) as relay, AsyncExitStack() as stack:
        proxy = Proxy(relay, stack)
        for _ in range(MAXIMUM):
            assert 200 == (await proxy.get("::ffff:127.0.0.7"))[0]
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port, local_addr=("127.0.0.7", 0))
        stack.callback(writer.close)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await ask(reader, writer, "")
