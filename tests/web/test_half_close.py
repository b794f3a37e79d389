"""A client that closes its sending side behind a request, as `nc -N` does."""

import asyncio
import json

import pytest

from tests.support.harness import eventually, simulated_relay, within
from tests.web.test_invalid_requests import upgrade
from tests.web.test_unserved import OTHER_PROTOCOLS, check_refusal, rest


@pytest.mark.parametrize("name", ["proxy-v2", "http2-preface", "tls-1.3", "text"])
async def test_half_closed_connection_is_answered(name: str) -> None:
    """As `nc -N` does, whose FIN follows its bytes at once."""
    sent, reason = OTHER_PROTOCOLS[name]
    async with simulated_relay() as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(sent)
        writer.write_eof()
        received = await within(reader.read(), 10)
        writer.close()

        check_refusal(relay, reason, 400, json.loads(received.partition(b"\r\n\r\n")[2])["error"], received)


@pytest.mark.parametrize("port", ["public_port", "internal_port"])
@pytest.mark.parametrize(
    ("requests", "statuses"),
    [
        ([rest("/livez")], [200]),
        ([rest("/livez"), rest("/healthz"), rest("/livez")], [200, 200, 200]),
        ([rest("/livez"), rest("/nowhere")], [200, 404]),
        ([rest("/livez", "PUT")], [405]),
        ([rest("/livez")[:20]], []),
    ],
)
async def test_request_with_a_fin_behind_it_is_answered(port: str, requests: list[bytes], statuses: list[int]) -> None:
    """All of them that are complete; then the relay closes the connection."""
    async with simulated_relay() as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", getattr(relay.app, port))
        writer.write(b"".join(requests))
        writer.write_eof()
        received = await within(reader.read(), 10)
        writer.close()

        assert statuses == [int(part.split()[0]) for part in received.split(b"HTTP/1.1 ")[1:]]


async def test_client_that_half_closes_during_a_dial_has_left() -> None:
    """A WebSocket has no half-open state, so the dial is cancelled."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-hang-CANARY0key123456", RELAY_DIAL_TIMEOUT_SECONDS="60") as relay:
        _, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(upgrade())
        await eventually(lambda: len(relay.app.dials) > 0)
        writer.write_eof()
        await eventually(lambda: "client_left" in [line["reason"] for line in relay.events("upstream.connect_failed")])
        writer.close()
