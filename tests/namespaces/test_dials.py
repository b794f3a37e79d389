"""Reaching a provider through a network that swallows or refuses packets."""

import asyncio
import socket
import time

import aiohttp
import pytest

from tests.namespaces.conftest import Network
from tests.support.harness import eventually, running_relay
from tests.support.raw_http_relay import connect_once, failure_count
from tests.support.raw_http_server import Exchange, raw_http
from tests.support.raw_websocket_server import CREATED


async def well(exchange: Exchange) -> None:
    """An upstream that opens sessions."""
    exchange.upgrade(CREATED)
    await exchange.wait_closed()


async def test_c2_a_resolver_that_is_a_black_hole(network: Network) -> None:
    """A hundred callers are each told in phase dns within the budget; liveness and other threads do not notice."""
    with (
        network.file("/etc/resolv.conf", "nameserver 127.0.0.9\n"),
        network.rule("-p", "udp", "--dport", "53", "-j", "DROP", chain="INPUT"),
    ):
        address = "https://provider.example/v1"
        async with running_relay(OPENAI_BASE_URL=address, RELAY_DIAL_TIMEOUT_SECONDS="2") as relay:
            callers = [asyncio.ensure_future(connect_once(relay)) for _ in range(100)]
            slowest = 0.0
            async with aiohttp.ClientSession() as session:
                for _ in range(100):
                    started = time.monotonic()
                    async with session.get(f"{relay.internal_url}/livez") as response:
                        assert response.status == 200
                    slowest = max(slowest, time.monotonic() - started)
            async with asyncio.timeout(1):
                assert "in a thread" == await asyncio.to_thread(lambda: "in a thread")
            answers = await asyncio.gather(*callers)

            assert {(504, "connect_timeout")} == {(answer.status, answer.error["code"]) for answer in answers}
            assert 100 == failure_count(relay, "connect_timeout", "none", "dns")
            assert slowest < 0.5
            assert relay.events("upstream.connect_failed")[0]["detail"] == "no answer from DNS"


async def test_c5_a_black_hole(network: Network) -> None:
    """SYNs that nobody answers: 504 when the budget is over."""
    async with raw_http(well) as upstream:
        with network.black_hole(upstream.port):
            async with running_relay(OPENAI_BASE_URL=upstream.url, RELAY_DIAL_TIMEOUT_SECONDS="1") as relay:
                started = time.monotonic()
                answer = await connect_once(relay)

                assert (504, "connect_timeout") == (answer.status, answer.error["code"])
                assert 0.9 < time.monotonic() - started < 1.5
                assert 1 == failure_count(relay, "connect_timeout", "none", "connect")


async def test_c6_an_address_family_that_is_dead(network: Network) -> None:
    """IPv6 swallows packets, IPv4 works: the caller gets through, hardly later."""
    async with raw_http(well) as upstream:
        with (
            network.file("/etc/hosts", "::1 localhost\n127.0.0.1 localhost\n"),
            network.rule("-p", "tcp", "--dport", str(upstream.port), "-j", "DROP", table="ip6tables"),
        ):
            found = {address[0] for address in socket.getaddrinfo("localhost", upstream.port, type=socket.SOCK_STREAM)}
            assert {socket.AF_INET, socket.AF_INET6} == found
            url = f"http://localhost:{upstream.port}/v1"
            async with running_relay(OPENAI_BASE_URL=url, RELAY_MODEL="probe") as relay:
                await eventually(lambda: relay.app.monitor.ready)
                assert 101 == (await connect_once(relay)).status
                name = "realtime_relay_upstream_connect_duration_seconds_sum"
                assert relay.metric(name, upstream="compatible", phase="connect") < 0.5


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("tcp-reset", "connect_refused"),
        ("icmp-net-unreachable", "network_unreachable"),
        ("icmp-host-unreachable", "network_unreachable"),
        ("icmp-admin-prohibited", "network_unreachable"),
    ],
)
async def test_a_firewall_that_answers(answer: str, reason: str, network: Network) -> None:
    """What a firewall answers in the provider's place is told as what it is."""
    async with raw_http(well) as upstream:
        with network.rule("-p", "tcp", "--dport", str(upstream.port), "-j", "REJECT", "--reject-with", answer):
            async with running_relay(OPENAI_BASE_URL=upstream.url, RELAY_DIAL_TIMEOUT_SECONDS="3") as relay:
                told = await connect_once(relay)

                assert (502, reason) == (told.status, told.error["code"])
                assert 0 == upstream.connections
