"""Requests for client secrets, and sessions with them, for the tests of this package."""

import json
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Final

import aiohttp

from service.simulator.record import ConnectionRecord
from tests.clients_file import relays
from tests.clients_file.relays import TIMEOUT, TOKENS
from tests.support.harness import RawClient, Relay, open_raw

HEALTH_MODEL: Final = "gpt-realtime-mini"
relay_of = partial(relays.relay_of, RELAY_MODEL=HEALTH_MODEL)
PATH: Final = "/v1/realtime/client_secrets"
PROMPT: Final = "CANARY4 you sell trains"
SESSION: Final = {
    "type": "realtime",
    "model": "gpt-realtime",
    "instructions": PROMPT,
    "audio": {"output": {"voice": "cedar"}},
}
PAGE: Final = {"Origin": "http://localhost:3000"}


async def post(
    relay: Relay,
    body: Any = None,
    *,
    token: str | None = TOKENS["kiosk"],
    path: str = PATH,
    data: bytes | AsyncIterator[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any]:
    """The status and the body of a request for a client secret."""
    sent = {**(headers or {})} | ({"Authorization": f"Bearer {token}"} if token is not None else {})
    data = json.dumps(body).encode() if data is None else data
    async with (
        aiohttp.ClientSession(timeout=TIMEOUT) as session,
        session.post(relay.url + path, data=data, headers=sent) as reply,
    ):
        return reply.status, await reply.json(content_type=None)


async def created(relay: Relay, body: Any = None, **options: Any) -> str:
    """A new client secret."""
    status, answer = await post(relay, {} if body is None else body, **options)
    assert 200 == status, answer
    return str(answer["value"])


async def use(
    relay: Relay, secret: str, query: str = "model=gpt-realtime", headers: Mapping[str, str] | None = None
) -> RawClient:
    """Connect with a client secret as a page does, by subprotocol."""
    offered = f"realtime, openai-insecure-api-key.{secret}"
    return await open_raw(
        relay.app.public_port, f"/v1/realtime?{query}", {"Sec-WebSocket-Protocol": offered, **PAGE, **(headers or {})}
    )


async def outcome(client: RawClient) -> str:
    """How a connection began: the type of its first event, or the reason of its refusal and the close code."""
    if client.answer.status != 101:
        found = f"{client.answer.status} {client.answer.error['code']}"
    else:
        event = await client.next_event()
        found = event["type"]
        if found == "error":
            closed = await client.until_close()
            assert closed is not None
            found = f"{event['error']['code']} {closed[0]}"
    await client.close()
    return str(found)


def upstream_of(relay: Relay) -> ConnectionRecord:
    """What the simulator recorded of the newest connection of a client; health checks use another model."""
    assert relay.simulator is not None
    records = relay.simulator.connections
    return [record for record in records if record.query.get("model") != HEALTH_MODEL][-1]
