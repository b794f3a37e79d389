"""Sessions over a bad line, before the relay or behind it: D19 without root, half-closes, resets and stalls."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from service.failures import CATALOGUE
from service.realtime.frames import Opcode
from tests.support.faulty_tcp_proxy import LinkProfile, TcpProxy, tcp_proxy
from tests.support.harness import RawClient, Relay, eventually, open_raw, payload_of, running_relay
from tests.support.invariants import assert_no_leaks
from tests.support.raw_websocket_server import CREATED, RawUpstream, ServerConnection, raw_upstream

PATH = "/v1/realtime?model=scripted"
SIDES = ["client", "upstream"]


async def echo(connection: ServerConnection) -> None:
    """An upstream that says back what it hears."""
    connection.send(CREATED)
    async for payload in connection.messages():
        connection.send(payload)
        await connection.writer.drain()


@dataclass
class BadSession:
    """A session past its first event, with a bad line on one side of the relay."""

    relay: Relay
    client: RawClient
    upstream: RawUpstream
    proxy: TcpProxy

    def ends(self, reason: str) -> float:
        """How many sessions ended for a reason."""
        return self.relay.metric("realtime_relay_sessions_ended_total", reason=reason)


@asynccontextmanager
async def bad_session(side: str, line: LinkProfile | None = None) -> AsyncIterator[BadSession]:
    """A session with an echo; the line is bad on the given side. Afterwards nothing is left of it."""
    async with assert_no_leaks(), raw_upstream(echo) as upstream:
        port = int(upstream.url.rsplit(":", 1)[1].split("/")[0])
        async with tcp_proxy(port, line if side == "upstream" else None) as behind:
            url = f"http://127.0.0.1:{behind.port}/v1"
            async with running_relay(OPENAI_BASE_URL=url, RELAY_MODEL="probe") as relay:
                await eventually(lambda: relay.app.monitor.ready)
                async with tcp_proxy(relay.app.public_port, line if side == "client" else None) as before:
                    client = await open_raw(before.port, PATH)
                    try:
                        assert (await client.next_event())["type"] == "session.created"
                        yield BadSession(relay, client, upstream, before if side == "client" else behind)
                    finally:
                        await client.close()
                    await eventually(lambda: upstream.open == 0)
                    await eventually(lambda: relay.metric("realtime_relay_sessions_active") == 0)


def speech(number: int, size: int) -> bytes:
    """An event that tells its place and whether it is whole."""
    text = hashlib.sha256(str(number).encode()).hexdigest() * (size // 64)
    return json.dumps({"type": "input_audio_buffer.append", "n": number, "audio": text}).encode()


async def there_and_back(session: BadSession, events: list[bytes], seconds: float) -> list[bytes]:
    """Send events and hear as many back, both at once."""

    async def send() -> None:
        for event in events:
            session.client.send_frame(Opcode.TEXT, event)
            await session.client.writer.drain()

    async with asyncio.timeout(seconds):
        sending = asyncio.ensure_future(send())
        got = [payload_of(await session.client.next_item()) for _ in events]
        await sending
    return got


@pytest.mark.parametrize("side", SIDES)
async def test_d19_delay_and_jitter(side: str) -> None:
    """200 ms each way and 100 ms of jitter: nothing is missing, changed or out of order."""
    async with bad_session(side, LinkProfile(delay=0.2, jitter=0.1)) as session:
        events = [speech(number, 64 * (number % 100)) for number in range(300)]

        assert events == await there_and_back(session, events, 15)


@pytest.mark.parametrize("side", SIDES)
async def test_d19_a_narrow_line(side: str) -> None:
    """64 kbit/s: it takes as long as it has to, and all of it arrives."""
    async with bad_session(side, LinkProfile(bytes_per_second=8000)) as session:
        events = [speech(number, 1024) for number in range(16)]
        started = asyncio.get_running_loop().time()

        assert events == await there_and_back(session, events, 20)
        assert 1 < asyncio.get_running_loop().time() - started


@pytest.mark.parametrize("side", SIDES)
async def test_a_line_that_stalls(side: str) -> None:
    """Nothing passes for two seconds while both talk: everything arrives afterwards, in order, and the session lives."""
    async with bad_session(side) as session:
        events = [speech(number, 16_384) for number in range(60)]
        carrying = asyncio.ensure_future(there_and_back(session, events, 15))
        await eventually(lambda: session.proxy.carried["down"] > 50_000)
        session.proxy.stall()
        await asyncio.sleep(2)  # the fault itself
        assert not carrying.done()
        session.proxy.go_on()

        assert events == await carrying
        assert 1 == session.relay.metric("realtime_relay_sessions_active")


async def test_a_half_close_by_upstream() -> None:
    """Upstream's FIN without a CLOSE ends the session at once, though its other direction is still open; nothing lingers."""
    async with bad_session("upstream") as session:
        session.proxy.half_close("down")
        async with asyncio.timeout(2):
            event = await session.client.next_event()
            close = await session.client.until_close()

        assert event["error"]["code"] == "upstream_lost"
        assert (1011, CATALOGUE["upstream_lost"].close_text) == close
        await eventually(lambda: session.upstream.open == 0, 2)  # the relay's own FIN went up
        await session.client.close()
        await eventually(lambda: session.ends("upstream_lost") == 1)


async def test_a_half_close_by_the_client() -> None:
    """A WebSocket has no half-open state: the client's FIN without a CLOSE ends upstream within two seconds."""
    async with bad_session("client") as session:
        session.proxy.half_close("up")

        await eventually(lambda: session.upstream.open == 0, 2)
        await eventually(lambda: session.ends("client_lost") == 1)


async def test_a_reset_on_the_way_to_upstream() -> None:
    """A reset while both talk: the client is told at once, whatever was half said, and it is counted once."""
    async with bad_session("upstream", LinkProfile(bytes_per_second=200_000)) as session:
        for number in range(50):
            session.client.send_frame(Opcode.TEXT, speech(number, 16_384))
        await eventually(lambda: session.proxy.carried["down"] > 50_000)
        session.proxy.reset()
        async with asyncio.timeout(3):
            close = await session.client.until_close()

        # In the middle of a frame no CLOSE may be written; then the end of the stream tells it.
        assert close in {None, (1011, CATALOGUE["upstream_lost"].close_text)}
        await session.client.close()
        await eventually(lambda: session.ends("upstream_lost") == 1)


async def test_a_reset_on_the_way_to_the_client() -> None:
    """A client that is cut off while both talk: upstream, which costs money, is closed within two seconds."""
    async with bad_session("client", LinkProfile(bytes_per_second=200_000)) as session:
        for number in range(50):
            session.client.send_frame(Opcode.TEXT, speech(number, 16_384))
        await eventually(lambda: session.proxy.carried["down"] > 50_000)
        session.proxy.reset()

        await eventually(lambda: session.upstream.open == 0, 2)
        await eventually(lambda: session.ends("client_lost") == 1)
