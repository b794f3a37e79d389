"""Dials through a network that drops or rejects packets."""

import asyncio
import socket
import time

import aiohttp
import pytest

from tests.namespaces.conftest import LocalNetwork
from tests.support.harness import eventually, running_relay
from tests.support.raw_http_relay import connect_once, failure_count
from tests.support.raw_http_server import Exchange, raw_http
from tests.support.raw_websocket_server import CREATED


async def open_sessions(exchange: Exchange) -> None:
    """An upstream that opens sessions and waits for their end."""
    exchange.upgrade(CREATED)
    await exchange.wait_closed()


async def test_dials_time_out_in_phase_dns_when_resolver_is_unreachable(network: LocalNetwork) -> None:
    """A hundred concurrent dials fail within the budget; `/livez` and other threads are not delayed."""
    with (
        network.replaced_file("/etc/resolv.conf", "nameserver 127.0.0.9\n"),
        network.rule("-p", "udp", "--dport", "53", "-j", "DROP", chain="INPUT"),
    ):
        address = "https://provider.example/v1"
        async with running_relay(
            OPENAI_BASE_URL=address, RELAY_DIAL_TIMEOUT_SECONDS="2", RELAY_MAX_DIALS="200"
        ) as relay:
            callers = [asyncio.ensure_future(connect_once(relay)) for _ in range(100)]
            slowest = 0.0
            async with aiohttp.ClientSession() as session:
                for _ in range(100):
                    started = time.monotonic()
                    async with session.get(f"{relay.internal_url}/livez") as response:
                        assert response.status == 200
                    slowest = max(slowest, time.monotonic() - started)
            async with asyncio.timeout(20):
                assert "in a thread" == await asyncio.to_thread(lambda: "in a thread")
            answers = await asyncio.gather(*callers)

            assert {(504, "connect_timeout")} == {(answer.status, answer.error["code"]) for answer in answers}
            assert 100 == failure_count(relay, "connect_timeout", "none", "dns")
            assert slowest < 1.9  # not the wait for DNS
            assert relay.events("upstream.connect_failed")[0]["detail"] == "no answer from DNS"


async def test_dial_times_out_when_syn_is_dropped(network: LocalNetwork) -> None:
    """504 at the end of the budget."""
    async with raw_http(open_sessions) as upstream:
        with network.black_hole(upstream.port):
            async with running_relay(OPENAI_BASE_URL=upstream.url, RELAY_DIAL_TIMEOUT_SECONDS="1") as relay:
                started = time.monotonic()
                answer = await connect_once(relay)

                assert (504, "connect_timeout") == (answer.status, answer.error["code"])
                assert 0.9 < time.monotonic() - started < 10  # not the two minutes of the kernel
                assert 1 == failure_count(relay, "connect_timeout", "none", "connect")


async def test_dial_uses_ipv4_when_ipv6_is_dropped(network: LocalNetwork) -> None:
    """Happy eyeballs: the dial succeeds with little delay."""
    async with raw_http(open_sessions) as upstream:
        with (
            network.replaced_file("/etc/hosts", "::1 localhost\n127.0.0.1 localhost\n"),
            network.rule("-p", "tcp", "--dport", str(upstream.port), "-j", "DROP", table="ip6tables"),
        ):
            found = {address[0] for address in socket.getaddrinfo("localhost", upstream.port, type=socket.SOCK_STREAM)}
            assert {socket.AF_INET, socket.AF_INET6} == found
            url = f"http://localhost:{upstream.port}/v1"
            async with running_relay(OPENAI_BASE_URL=url, RELAY_MODEL="probe") as relay:
                await eventually(lambda: relay.app.monitor.ready)
                assert 101 == (await connect_once(relay)).status
                name = "realtime_relay_upstream_connect_duration_seconds_sum"
                assert relay.metric(name, upstream="compatible", phase="connect") < 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("tcp-reset", "connect_refused"),
        ("icmp-net-unreachable", "network_unreachable"),
        ("icmp-host-unreachable", "network_unreachable"),
        ("icmp-admin-prohibited", "network_unreachable"),
    ],
)
async def test_dial_reports_answer_of_firewall(answer: str, reason: str, network: LocalNetwork) -> None:
    """A reset is `connect_refused`; an ICMP answer is `network_unreachable`."""
    async with raw_http(open_sessions) as upstream:
        with network.rule("-p", "tcp", "--dport", str(upstream.port), "-j", "REJECT", "--reject-with", answer):
            async with running_relay(OPENAI_BASE_URL=upstream.url, RELAY_DIAL_TIMEOUT_SECONDS="3") as relay:
                answer_of_relay = await connect_once(relay)

                assert (502, reason) == (answer_of_relay.status, answer_of_relay.error["code"])
                assert 0 == upstream.connections
