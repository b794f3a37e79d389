"""Open sessions while the loopback network drops packets, resets or fails for a while."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.failures import CATALOGUE
from tests.namespaces.conftest import LocalNetwork
from tests.support.harness import RawClient, Relay, eventually, open_raw, payload_of, running_relay
from tests.support.raw_websocket_server import CREATED, RawUpstream, ServerConnection, raw_upstream

PATH = "/v1/realtime?model=scripted"


async def echo(connection: ServerConnection) -> None:
    """An upstream that echoes."""
    connection.send(CREATED)
    async for payload in connection.messages():
        connection.send(payload)


@asynccontextmanager
async def session() -> AsyncIterator[tuple[Relay, RawClient, RawUpstream, int]]:
    """A session with an echoing upstream, after its first event; and the upstream's port."""
    async with (
        raw_upstream(echo) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        await eventually(lambda: relay.app.monitor.ready)
        client = await open_raw(relay.app.public_port, PATH)
        try:
            assert (await client.next_event())["type"] == "session.created"
            yield relay, client, upstream, int(upstream.url.rsplit(":", 1)[1].split("/")[0])
        finally:
            await client.close()


def endings(relay: Relay) -> list[str]:
    """The reasons of ended sessions, from the counter: relays in one process share the captured log."""
    family = next(iter(relay.app.metrics.sessions_ended.collect()))
    return [
        str(sample.labels["reason"])
        for sample in family.samples
        if sample.name.endswith("_total")
        for _ in range(int(sample.value))
    ]


async def test_reset_by_network_ends_session_as_upstream_lost(network: LocalNetwork) -> None:
    """A middlebox resets the upstream connection: the client receives a close frame within three seconds."""
    async with session() as (relay, client, _, port):
        reject = ("-p", "tcp", "--dport", str(port), "-j", "REJECT", "--reject-with", "tcp-reset")
        with network.rule(*reject):
            client.send_event(type="input_audio_buffer.append", audio="A" * 100)
            async with asyncio.timeout(3):
                close = await client.until_close()

        assert (1011, CATALOGUE["upstream_lost"].close_text) == close
        await client.close()
        await eventually(lambda: endings(relay) == ["upstream_lost"])


async def test_session_survives_black_hole_for_three_seconds(network: LocalNetwork) -> None:
    """Messages sent meanwhile arrive afterwards, complete and in order."""
    async with session() as (relay, client, _, port):
        with network.black_hole(port):
            for number in range(50):
                client.send_event(type="x", number=number)
            await asyncio.sleep(3)  # the fault itself
        async with asyncio.timeout(10):
            numbers = [json.loads(payload_of(await client.next_item()))["number"] for _ in range(50)]

        assert list(range(50)) == numbers
        assert [] == endings(relay)


async def test_messages_survive_packet_loss(network: LocalNetwork) -> None:
    """5 % loss in each direction: no message is lost, changed or reordered."""
    async with session() as (relay, client, _, port):
        lose = ("-m", "statistic", "--mode", "random", "--probability", "0.05", "-j", "DROP")
        payloads = [hashlib.sha256(str(number).encode()).hexdigest() * (1 + number % 200) for number in range(400)]
        with (
            network.rule("-p", "tcp", "--dport", str(port), *lose),
            network.rule("-p", "tcp", "--sport", str(port), *lose),
        ):

            async def send() -> None:
                for payload in payloads:
                    client.send_event(type="x", payload=payload)
                    await client.writer.drain()

            sending = asyncio.ensure_future(send())
            async with asyncio.timeout(30):
                got = [json.loads(payload_of(await client.next_item()))["payload"] for _ in payloads]
            await sending

        assert payloads == got
        assert [] == endings(relay)
