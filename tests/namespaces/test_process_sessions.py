"""Open sessions of the relay process while the link or the remote end drops packets, resets or goes down."""

import asyncio
import ssl
import time
from contextlib import AsyncExitStack

from service.failures import CATALOGUE
from service.realtime.frames import Opcode
from tests.support.certificates import Authority
from tests.support.harness import eventually
from tests.support.namespaced_relay import (
    LOG,
    RunningRelay,
    echo_round_trips,
    open_session,
    relay_to_remote,
    send_speech,
    wait_for_close,
)
from tests.support.network_namespace import REMOTE_ADDRESSES, STREAM_REQUEST, RemoteUpstream, VethLink, veth_link


async def seconds_until_idle_upstream_is_lost(
    link: VethLink, running: RunningRelay, upstream: RemoteUpstream, address: str
) -> float:
    """Neither side sends; the seconds until the client receives the close frame."""
    client = await open_session(link, running, REMOTE_ADDRESSES[4])
    started = time.monotonic()
    with link.black_hole(address):
        close = await asyncio.wait_for(wait_for_close(client), 45)
        waited = time.monotonic() - started
        await client.close()
        await eventually(lambda: running.endings() == ["upstream_lost"])
    assert (1011, CATALOGUE["upstream_lost"].close_text) == close
    await upstream.abort_connections()
    return waited


async def seconds_until_busy_upstream_is_lost(
    link: VethLink, running: RunningRelay, upstream: RemoteUpstream, address: str
) -> float:
    """The client sends audio; the seconds until it receives the close frame."""
    client = await open_session(link, running, REMOTE_ADDRESSES[4])
    started = time.monotonic()
    with link.black_hole(address):
        speaking = asyncio.ensure_future(send_speech(client))
        close = await asyncio.wait_for(client.until_close(), 45)
        waited = time.monotonic() - started
        speaking.cancel()
        await client.close()
        await eventually(lambda: running.endings() == ["upstream_lost"])
    assert (1011, CATALOGUE["upstream_lost"].close_text) == close
    await upstream.abort_connections()
    return waited


async def seconds_until_client_is_lost(
    link: VethLink, running: RunningRelay, address: str, *, upstream_sends: bool
) -> float:
    """The seconds until the session ends; `upstream_sends`: while upstream sends audio to the client."""
    client = await open_session(link, running, address)
    if upstream_sends:
        client.send_frame(Opcode.TEXT, STREAM_REQUEST)
        assert (await client.next_event())["type"] == "response.output_audio.delta"
    started = time.monotonic()
    with link.black_hole(address):
        await eventually(lambda: running.ending_of(address) is not None, 45)
        waited = time.monotonic() - started
        # With unacknowledged data a vanished client looks like one that stopped reading, and has the same deadline.
        assert running.ending_of(address) == ("client_too_slow" if upstream_sends else "client_lost")
        client.reset()
    return waited


async def longest_round_trip_on_flapping_link(link: VethLink, running: RunningRelay, address: str) -> float:
    """Upstream's packets are dropped for one second of every two; the longest round trip in seconds."""
    client = await open_session(link, running, REMOTE_ADDRESSES[8])
    trips = asyncio.ensure_future(echo_round_trips(client, range(120), 0.05))
    for _ in range(3):
        with link.black_hole(address):
            await asyncio.sleep(1)  # the fault itself
        await asyncio.sleep(1)
    slowest = await asyncio.wait_for(trips, 60)
    assert [] == running.endings()
    await client.close()
    return slowest


async def test_vanished_peers_are_detected_in_time(tls: ssl.SSLContext, authority: Authority) -> None:
    """Within 40 s when idle, 25 s when busy; another session is not delayed; a flapping link does not end a session."""
    with veth_link() as link:
        async with AsyncExitStack() as stack:
            (idle, idle_upstream), (busy, busy_upstream), (shared, upstream), (flapping, _) = await asyncio.gather(
                *(
                    stack.enter_async_context(relay_to_remote(link, address, tls, authority))
                    for address in REMOTE_ADDRESSES[:4]
                )
            )
            other = await open_session(link, shared, REMOTE_ADDRESSES[7])
            times = asyncio.gather(
                seconds_until_idle_upstream_is_lost(link, idle, idle_upstream, REMOTE_ADDRESSES[0]),
                seconds_until_busy_upstream_is_lost(link, busy, busy_upstream, REMOTE_ADDRESSES[1]),
                seconds_until_client_is_lost(link, shared, REMOTE_ADDRESSES[5], upstream_sends=False),
                seconds_until_client_is_lost(link, shared, REMOTE_ADDRESSES[6], upstream_sends=True),
                longest_round_trip_on_flapping_link(link, flapping, REMOTE_ADDRESSES[3]),
            )
            slowest = await echo_round_trips(other, range(78), 0.5)
            idle_up, busy_up, idle_client, busy_client, flapping_trip = await times
            LOG.info(
                "lost: idle upstream %.1f s, busy %.1f s, idle client %.1f s, busy %.1f s; other session %.3f s",
                idle_up,
                busy_up,
                idle_client,
                busy_client,
                slowest,
            )

            assert idle_up <= 40
            assert busy_up <= 25
            assert idle_client <= 40
            assert busy_client <= 25
            assert slowest < 2
            assert 0.9 < flapping_trip < 10
            assert 1 == upstream.open
            await other.close()


async def test_messages_survive_packet_loss_on_both_legs(tls: ssl.SSLContext, authority: Authority) -> None:
    """5 % loss in each direction: no message is lost, changed or reordered."""
    lose = "-p tcp -m statistic --mode random --probability 0.05 -j DROP"
    with veth_link() as link:
        async with relay_to_remote(link, REMOTE_ADDRESSES[0], tls, authority) as (running, _):
            client = await open_session(link, running, REMOTE_ADDRESSES[4])
            with link.rules(f"INPUT {lose}", f"OUTPUT {lose}"):
                await asyncio.wait_for(echo_round_trips(client, range(400), 0.005), 120)
                lost = link.matched_packets("INPUT"), link.matched_packets("OUTPUT")

            LOG.info("%d and %d packets dropped", *lost)
            assert min(lost) > 20
            assert [] == running.endings()
            await client.close()


async def test_session_survives_link_down_for_three_seconds(tls: ssl.SSLContext, authority: Authority) -> None:
    """Both sides send meanwhile: every message arrives afterwards."""
    with veth_link() as link:
        async with relay_to_remote(link, REMOTE_ADDRESSES[0], tls, authority) as (running, _):
            client = await open_session(link, running, REMOTE_ADDRESSES[4])
            trips = asyncio.ensure_future(echo_round_trips(client, range(75), 0.05))
            await asyncio.sleep(0.5)
            with link.down():
                await asyncio.sleep(3)  # the fault itself
            slowest = await asyncio.wait_for(trips, 60)

            assert 2 < slowest < 15
            assert [] == running.endings()
            await client.close()


async def test_reset_from_network_ends_session_on_either_leg(tls: ssl.SSLContext, authority: Authority) -> None:
    """A middlebox resets one leg: the other side is closed within two seconds, once."""
    reject = "-p tcp -j REJECT --reject-with tcp-reset"
    with veth_link() as link:
        async with relay_to_remote(link, REMOTE_ADDRESSES[0], tls, authority) as (running, upstream):
            client = await open_session(link, running, REMOTE_ADDRESSES[4])
            with link.rules(f"INPUT -d {REMOTE_ADDRESSES[0]} {reject}"):
                client.send_event(type="x")
                event = await asyncio.wait_for(client.next_event(), 1)
                close = await asyncio.wait_for(client.until_close(), 1)
            await client.close()
            await eventually(lambda: running.endings() == ["upstream_lost"])

            assert "upstream_lost" == event["error"]["code"]
            assert (1011, CATALOGUE["upstream_lost"].close_text) == close
            await upstream.abort_connections()  # the reset did not reach it

            client = await open_session(link, running, REMOTE_ADDRESSES[5])
            await eventually(lambda: upstream.open == 1)
            client.send_event(type="x")
            await client.next_event()
            with link.rules(f"INPUT -d {REMOTE_ADDRESSES[5]} {reject}"):
                client.send_event(type="x")
                await eventually(lambda: upstream.open == 0, 2)
            client.reset()
            await eventually(lambda: running.endings() == ["upstream_lost", "client_lost"])
