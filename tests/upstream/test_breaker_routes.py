"""A route or a query that the provider refuses one client leaves the others connected, over sockets."""

import pytest

from tests.support.harness import Relay, open_raw
from tests.support.raw_http_relay import raw_http_relay
from tests.support.raw_http_server import Exchange
from tests.support.raw_websocket_server import CREATED

TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": "ada:" + "a" * 32 + ",bob:" + "b" * 32}


async def refuse_some(exchange: Exchange) -> None:
    """Refuse translations with 403 and long requests with 414."""
    status = "403 Forbidden" if "/translations" in exchange.head else "414 URI Too Long"
    if "/translations" in exchange.head or len(exchange.head) > 1500:
        exchange.answer(status)
        return
    exchange.upgrade(CREATED)
    await exchange.wait_closed()


async def connect(relay: Relay, client: str, path: str) -> int:
    """Connect once; returns the status."""
    connection = await open_raw(relay.app.public_port, path, headers={"Authorization": f"Bearer {client * 32}"})
    await connection.close()
    return connection.answer.status


@pytest.mark.parametrize(
    "path", ["/v1/realtime/translations?model=scripted", "/v1/realtime?model=scripted&x=" + "y" * 1500]
)
async def test_refused_route_or_query_of_one_client_refuses_no_other(path: str) -> None:
    """However often it comes back."""
    async with raw_http_relay(refuse_some, **TOKENS) as (relay, _):
        refused = {await connect(relay, "a", path) for _ in range(8)}

        assert 101 not in refused
        assert 101 == await connect(relay, "b", "/v1/realtime?model=scripted")
