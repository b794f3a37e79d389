"""Sessions over a bad network on either side of the relay, without root: delay, low bandwidth, stalls, resets."""

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
from tests.support.harness import (
    RawClient,
    Relay,
    eventually,
    open_raw,
    payload_of,
    running_relay,
    taking_less_than,
    within,
)
from tests.support.invariants import assert_no_leaks
from tests.support.raw_websocket_server import RawUpstream, echo, raw_upstream

PATH = "/v1/realtime?model=scripted"
SIDES = ["client", "upstream"]


@dataclass
class ProxiedSession:
    """A session with a faulty proxy on one side of the relay."""

    relay: Relay
    client: RawClient
    upstream: RawUpstream
    proxy: TcpProxy

    def ends(self, reason: str) -> float:
        """The number of sessions that ended for a reason."""
        return self.relay.metric("realtime_relay_sessions_ended_total", reason=reason)


@asynccontextmanager
async def proxied_session(side: str, link: LinkProfile | None = None) -> AsyncIterator[ProxiedSession]:
    """Open a session with an echoing upstream and the given link on one side; nothing may be left of it afterwards."""
    async with assert_no_leaks(), raw_upstream(echo) as upstream:
        port = int(upstream.url.rsplit(":", 1)[1].split("/")[0])
        async with tcp_proxy(port, link if side == "upstream" else None) as upstream_proxy:
            url = f"http://127.0.0.1:{upstream_proxy.port}/v1"
            async with running_relay(OPENAI_BASE_URL=url, RELAY_MODEL="probe") as relay:
                await eventually(lambda: relay.app.monitor.ready)
                async with tcp_proxy(relay.app.public_port, link if side == "client" else None) as client_proxy:
                    client = await open_raw(client_proxy.port, PATH)
                    try:
                        assert (await client.next_event())["type"] == "session.created"
                        yield ProxiedSession(
                            relay, client, upstream, client_proxy if side == "client" else upstream_proxy
                        )
                    finally:
                        await client.close()
                    await eventually(lambda: upstream.open == 0)
                    await eventually(lambda: relay.metric("realtime_relay_sessions_active") == 0)


def speech(number: int, size: int) -> bytes:
    """An event with its number, so that a lost, changed or reordered one shows."""
    text = hashlib.sha256(str(number).encode()).hexdigest() * (size // 64)
    return json.dumps({"type": "input_audio_buffer.append", "n": number, "audio": text}).encode()


async def echoed(session: ProxiedSession, events: list[bytes], seconds: float) -> list[bytes]:
    """Send events and receive as many concurrently."""

    async def send() -> None:
        for event in events:
            session.client.send_frame(Opcode.TEXT, event)
            await session.client.writer.drain()

    async def receive() -> list[bytes]:
        sending = asyncio.ensure_future(send())
        received = [payload_of(await session.client.next_item()) for _ in events]
        await sending
        return received

    return await within(receive(), seconds)


@pytest.mark.parametrize("side", SIDES)
async def test_delay_and_jitter_lose_and_reorder_nothing(side: str) -> None:
    """200 ms each way, and 100 ms of jitter."""
    async with proxied_session(side, LinkProfile(delay=0.2, jitter=0.1)) as session:
        events = [speech(number, 64 * (number % 100)) for number in range(300)]

        assert events == await echoed(session, events, 15)


@pytest.mark.parametrize("side", SIDES)
async def test_low_bandwidth_delays_events_and_loses_none(side: str) -> None:
    """64 kbit/s."""
    async with proxied_session(side, LinkProfile(bytes_per_second=8000)) as session:
        events = [speech(number, 1024) for number in range(16)]
        started = asyncio.get_running_loop().time()

        assert events == await echoed(session, events, 20)
        assert 1 < asyncio.get_running_loop().time() - started


@pytest.mark.parametrize("side", SIDES)
async def test_session_survives_a_stall_of_two_seconds(side: str) -> None:
    """Both sides are sending; everything arrives afterwards, in order."""
    async with proxied_session(side) as session:
        events = [speech(number, 16_384) for number in range(60)]
        echoing = asyncio.ensure_future(echoed(session, events, 15))
        await eventually(lambda: session.proxy.forwarded_bytes["to_client"] > 50_000)
        session.proxy.stall()
        await asyncio.sleep(2)  # the fault itself
        assert not echoing.done()
        session.proxy.resume()

        assert events == await echoing
        assert 1 == session.relay.metric("realtime_relay_sessions_active")


async def test_upstream_fin_without_close_ends_the_session() -> None:
    """Although upstream's other direction is still open."""
    async with proxied_session("upstream") as session:
        session.proxy.half_close("to_client")
        async with taking_less_than(2):
            event = await session.client.next_event()
            close = await session.client.until_close()

        assert event["error"]["code"] == "upstream_lost"
        assert (1011, CATALOGUE["upstream_lost"].close_text) == close
        await eventually(lambda: session.upstream.open == 0, 2)  # the relay has sent FIN, too
        await session.client.close()
        await eventually(lambda: session.ends("upstream_lost") == 1)


async def test_client_fin_without_close_closes_upstream_within_two_seconds() -> None:
    """A WebSocket has no half-open state."""
    async with proxied_session("client") as session:
        session.proxy.half_close("to_server")

        await eventually(lambda: session.upstream.open == 0, 2)
        await eventually(lambda: session.ends("client_lost") == 1)


async def test_reset_by_upstream_closes_the_client_with_a_reason() -> None:
    """Both sides are sending; the ending is counted once."""
    async with proxied_session("upstream", LinkProfile(bytes_per_second=200_000)) as session:
        for number in range(50):
            session.client.send_frame(Opcode.TEXT, speech(number, 16_384))
        await eventually(lambda: session.proxy.forwarded_bytes["to_client"] > 50_000)
        session.proxy.reset()
        async with taking_less_than(3):
            close = await session.client.until_close()

        # Inside a frame no close frame may be written; the client then sees the end of the stream.
        assert close in {None, (1011, CATALOGUE["upstream_lost"].close_text)}
        await session.client.close()
        await eventually(lambda: session.ends("upstream_lost") == 1)


async def test_reset_by_the_client_closes_upstream_within_two_seconds() -> None:
    """Both sides are sending; an open upstream costs money."""
    async with proxied_session("client", LinkProfile(bytes_per_second=200_000)) as session:
        for number in range(50):
            session.client.send_frame(Opcode.TEXT, speech(number, 16_384))
        await eventually(lambda: session.proxy.forwarded_bytes["to_client"] > 50_000)
        session.proxy.reset()

        await eventually(lambda: session.upstream.open == 0, 2)
        await eventually(lambda: session.ends("client_lost") == 1)
