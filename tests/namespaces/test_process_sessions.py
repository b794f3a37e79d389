"""Open sessions of the real program on a cable whose far end goes silent, loses packets or is pulled."""

import asyncio
import ssl
import time
from contextlib import AsyncExitStack

from service.failures import CATALOGUE
from service.realtime.frames import Opcode
from tests.support.certificates import Authority
from tests.support.harness import eventually
from tests.support.namespaced_relay import LOG, Running, far_relay, listen, speak, talk_to, there_and_back
from tests.support.network_namespace import FAR, TALK, Cable, FarUpstream, plugged_in


async def d3_upstream_falls_silent(cable: Cable, running: Running, upstream: FarUpstream, address: str) -> float:
    """Nobody talks; how long until the client was told."""
    client = await talk_to(cable, running, FAR[4])
    started = time.monotonic()
    with cable.silence(address):
        close = await asyncio.wait_for(listen(client), 45)
        waited = time.monotonic() - started
        await client.close()
        await eventually(lambda: running.endings() == ["upstream_lost"])
    assert (1011, CATALOGUE["upstream_lost"].close_text) == close
    await upstream.forget()
    return waited


async def d4_upstream_falls_silent_while_the_client_talks(
    cable: Cable, running: Running, upstream: FarUpstream, address: str
) -> float:
    """How long until the client was told."""
    client = await talk_to(cable, running, FAR[4])
    started = time.monotonic()
    with cable.silence(address):
        speaking = asyncio.ensure_future(speak(client))
        close = await asyncio.wait_for(client.until_close(), 45)
        waited = time.monotonic() - started
        speaking.cancel()
        await client.close()
        await eventually(lambda: running.endings() == ["upstream_lost"])
    assert (1011, CATALOGUE["upstream_lost"].close_text) == close
    await upstream.forget()
    return waited


async def d5_client_falls_silent(cable: Cable, running: Running, address: str, *, is_told: bool) -> float:
    """How long until its upstream is gone; `is_told`: while upstream talks to it."""
    client = await talk_to(cable, running, address)
    if is_told:
        client.send_frame(Opcode.TEXT, TALK)
        assert (await client.next_event())["type"] == "response.output_audio.delta"
    started = time.monotonic()
    with cable.silence(address):
        await eventually(lambda: running.ending_of(address) is not None, 45)
        waited = time.monotonic() - started
        # Who vanished behind what it has not taken cannot be told from one that only stopped reading, and has the same time.
        assert running.ending_of(address) == ("client_too_slow" if is_told else "client_lost")
        client.reset()
    return waited


async def line_that_flaps(cable: Cable, running: Running, address: str) -> float:
    """Upstream's packets are swallowed for one second of every two; the longest that an event took there and back."""
    client = await talk_to(cable, running, FAR[8])
    talk = asyncio.ensure_future(there_and_back(client, range(120), 0.05))
    for _ in range(3):
        with cable.silence(address):
            await asyncio.sleep(1)  # the fault itself
        await asyncio.sleep(1)
    slowest = await asyncio.wait_for(talk, 20)
    assert [] == running.endings()
    await client.close()
    return slowest


async def test_d3_d4_d5_peers_that_vanish_beyond_the_cable(tls: ssl.SSLContext, authority: Authority) -> None:
    """Idle upstream 40 s, talked-to 25 s; client the same; a neighbour notices nothing; a flapping line is endured."""
    with plugged_in() as cable:
        async with AsyncExitStack() as stack:
            (idle, idle_upstream), (talking, deaf_upstream), (shared, upstream), (flapping, _) = await asyncio.gather(
                *(stack.enter_async_context(far_relay(cable, address, tls, authority)) for address in FAR[:4])
            )
            neighbour = await talk_to(cable, shared, FAR[7])
            times = asyncio.gather(
                d3_upstream_falls_silent(cable, idle, idle_upstream, FAR[0]),
                d4_upstream_falls_silent_while_the_client_talks(cable, talking, deaf_upstream, FAR[1]),
                d5_client_falls_silent(cable, shared, FAR[5], is_told=False),
                d5_client_falls_silent(cable, shared, FAR[6], is_told=True),
                line_that_flaps(cable, flapping, FAR[3]),
            )
            slowest = await there_and_back(neighbour, range(78), 0.5)
            d3, d4, d5, d5_told, flap = await times
            LOG.info(
                "D3 %.1f s, D4 %.1f s, D5 %.1f s, talked to %.1f s, neighbour %.3f s", d3, d4, d5, d5_told, slowest
            )

            assert d3 <= 40
            assert d4 <= 25
            assert d5 <= 40
            assert d5_told <= 25
            assert slowest < 0.5
            assert 0.9 < flap < 10
            assert 1 == upstream.open
            await neighbour.close()


async def test_d19_a_cable_that_loses_packets(tls: ssl.SSLContext, authority: Authority) -> None:
    """One packet of twenty is lost each way, on both legs: nothing is missing, changed or out of order."""
    lose = "-p tcp -m statistic --mode random --probability 0.05 -j DROP"
    with plugged_in() as cable:
        async with far_relay(cable, FAR[0], tls, authority) as (running, _):
            client = await talk_to(cable, running, FAR[4])
            with cable.rules(f"INPUT {lose}", f"OUTPUT {lose}"):
                await asyncio.wait_for(there_and_back(client, range(400), 0.005), 40)
                lost = cable.hits("INPUT"), cable.hits("OUTPUT")

            LOG.info("D19: %d and %d packets lost", *lost)
            assert min(lost) > 20
            assert [] == running.endings()
            await client.close()


async def test_a_cable_that_is_pulled_for_three_seconds(tls: ssl.SSLContext, authority: Authority) -> None:
    """While both sides talk the cable is out: what was said arrives afterwards, and the session lives."""
    with plugged_in() as cable:
        async with far_relay(cable, FAR[0], tls, authority) as (running, _):
            client = await talk_to(cable, running, FAR[4])
            talk = asyncio.ensure_future(there_and_back(client, range(75), 0.05))
            await asyncio.sleep(0.5)
            with cable.pulled():
                await asyncio.sleep(3)  # the fault itself
            slowest = await asyncio.wait_for(talk, 20)

            assert 2 < slowest < 15
            assert [] == running.endings()
            await client.close()


async def test_a_reset_from_the_network(tls: ssl.SSLContext, authority: Authority) -> None:
    """A middlebox resets a leg within a session: the other side is told within a second or two, once."""
    reject = "-p tcp -j REJECT --reject-with tcp-reset"
    with plugged_in() as cable:
        async with far_relay(cable, FAR[0], tls, authority) as (running, upstream):
            client = await talk_to(cable, running, FAR[4])
            with cable.rules(f"INPUT -d {FAR[0]} {reject}"):
                client.send_event(type="x")
                event = await asyncio.wait_for(client.next_event(), 1)
                close = await asyncio.wait_for(client.until_close(), 1)
            await client.close()
            await eventually(lambda: running.endings() == ["upstream_lost"])

            assert "upstream_lost" == event["error"]["code"]
            assert (1011, CATALOGUE["upstream_lost"].close_text) == close
            await upstream.forget()  # it never heard of the reset

            client = await talk_to(cable, running, FAR[5])
            await eventually(lambda: upstream.open == 1)
            client.send_event(type="x")
            await client.next_event()
            with cable.rules(f"INPUT -d {FAR[5]} {reject}"):
                client.send_event(type="x")
                await eventually(lambda: upstream.open == 0, 2)
            client.reset()
            await eventually(lambda: running.endings() == ["upstream_lost", "client_lost"])
