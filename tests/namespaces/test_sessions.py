"""Open sessions in a network that goes silent, resets, loses packets or fails for a while."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.failures import CATALOGUE
from service.realtime.closing import parse_close
from service.realtime.frames import Control, Opcode
from tests.harness import RawClient, Relay, eventually, open_raw, payload_of, running_relay
from tests.namespaces.conftest import Network
from tests.raw_upstream import CREATED, RawUpstream, Wire, raw_upstream

PATH = "/v1/realtime?model=scripted"


async def echo(wire: Wire) -> None:
    """An upstream that says back what it hears."""
    wire.send(CREATED)
    async for payload in wire.messages():
        wire.send(payload)


@asynccontextmanager
async def session() -> AsyncIterator[tuple[Relay, RawClient, RawUpstream, int]]:
    """A session with an echo, past its first event; and the upstream's port."""
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


def ending(relay: Relay) -> list[str]:
    """The reasons of sessions that have ended, from the count: captured logs are shared by relays that run side by side."""
    family = next(iter(relay.app.metrics.sessions_ended.collect()))
    return [
        str(sample.labels["reason"])
        for sample in family.samples
        if sample.name.endswith("_total")
        for _ in range(int(sample.value))
    ]


async def listen(client: RawClient) -> tuple[int | None, str] | None:
    """What a healthy client does that has nothing to say: it answers pings, until it is told of the end."""
    while (item := await client.next_item()) is not None:
        if isinstance(item, Control) and item.opcode is Opcode.PING:
            client.send_frame(Opcode.PONG, item.payload)
        elif isinstance(item, Control) and item.opcode is Opcode.CLOSE:
            return parse_close(item.payload)
    return None


async def idle_upstream(network: Network) -> float:
    """D3: upstream is gone without a word while nobody talks; how long until the client was told."""
    async with session() as (relay, client, _, port):
        started = asyncio.get_running_loop().time()
        with network.black_hole(port):
            async with asyncio.timeout(45):
                close = await listen(client)
        assert (1011, CATALOGUE["upstream_lost"].close_text) == close
        waited = asyncio.get_running_loop().time() - started
        await client.close()
        await eventually(lambda: ending(relay) == ["upstream_lost"])
        return waited


async def talking_client(network: Network) -> float:
    """D4: the same while the client talks."""
    async with session() as (relay, client, _, port):
        started = asyncio.get_running_loop().time()
        with network.black_hole(port):
            talk = asyncio.ensure_future(talk_on(client))
            try:
                async with asyncio.timeout(45):
                    close = await client.until_close()
            finally:
                talk.cancel()
        assert close is not None
        assert 1011 == close[0]
        waited = asyncio.get_running_loop().time() - started
        await client.close()
        await eventually(lambda: len(ending(relay)) == 1)
        assert {*ending(relay)} <= {"upstream_lost", "upstream_too_slow"}
        return waited


async def talk_on(client: RawClient) -> None:
    """Speech, twenty times a second."""
    while True:
        client.send_event(type="input_audio_buffer.append", audio="A" * 3200)
        await asyncio.sleep(0.05)  # the pace of speech


async def silent_client(network: Network) -> float:
    """D5: the client is gone without a word; how long until upstream, which costs money, is closed."""
    async with session() as (relay, _, upstream, _):
        started = asyncio.get_running_loop().time()
        with network.black_hole(relay.app.public_port):
            await eventually(lambda: upstream.open == 0, 45)
            waited = asyncio.get_running_loop().time() - started
            await eventually(lambda: ending(relay) == ["client_lost"], 6)
        return waited


async def test_d3_d4_d5_peers_that_vanish_without_a_word(network: Network) -> None:
    """An idle upstream is missed within 40 s, one that is talked to within 25 s, a client within 40 s."""
    idle, talking, silent = await asyncio.gather(
        idle_upstream(network), talking_client(network), silent_client(network)
    )

    assert idle <= 40
    assert talking <= 25
    assert silent <= 40


async def test_a_reset_by_the_network(network: Network) -> None:
    """A middlebox that resets the upstream connection: the client is told at once."""
    async with session() as (relay, client, _, port):
        reject = ("-p", "tcp", "--dport", str(port), "-j", "REJECT", "--reject-with", "tcp-reset")
        with network.rule(*reject):
            client.send_event(type="input_audio_buffer.append", audio="A" * 100)
            async with asyncio.timeout(3):
                close = await client.until_close()

        assert (1011, CATALOGUE["upstream_lost"].close_text) == close
        await client.close()
        await eventually(lambda: ending(relay) == ["upstream_lost"])


async def test_a_network_that_fails_for_three_seconds(network: Network) -> None:
    """What is said meanwhile arrives afterwards, whole and in order; the session lives."""
    async with session() as (relay, client, _, port):
        with network.black_hole(port):
            for number in range(50):
                client.send_event(type="x", number=number)
            await asyncio.sleep(3)  # the fault itself
        async with asyncio.timeout(10):
            numbers = [json.loads(payload_of(await client.next_item()))["number"] for _ in range(50)]

        assert list(range(50)) == numbers
        assert [] == ending(relay)


async def test_d19_a_network_that_loses_packets(network: Network) -> None:
    """One packet of twenty is lost both ways: nothing is missing, changed or out of order at the end."""
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
        assert [] == ending(relay)
