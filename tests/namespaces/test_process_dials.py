"""Dials of the relay process through networks that drop or reject packets, or have no route."""

import asyncio
import ssl
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

from tests.namespaces.conftest import LocalNetwork
from tests.support.certificates import Authority
from tests.support.harness import Answer, eventually, open_raw
from tests.support.namespaced_relay import LOG, RunningRelay, open_session, relay
from tests.support.network_namespace import (
    PATH,
    PROVIDER_NAME,
    REMOTE_ADDRESSES,
    REMOTE_IPV6,
    VethLink,
    remote_upstream,
    veth_link,
)


async def dial(link: VethLink, url: str, authority: Authority, seconds: float) -> tuple[Answer, float, str]:
    """One client of a relay of its own: its answer, the seconds until then, and the phase of the failure."""
    async with relay(url, authority, RELAY_DIAL_TIMEOUT_SECONDS=str(seconds)) as running:
        started = time.monotonic()
        client = await link.connect_client(running.port, REMOTE_ADDRESSES[4])
        waited = time.monotonic() - started
        await client.close()
        await eventually(lambda: running.events("upstream.connect_failed"))
        return client.answer, waited, running.events("upstream.connect_failed")[-1]["phase"]


DIALS: Final[dict[str, tuple[str, int, str, str, float, float]]] = {
    # address, status, reason, phase, minimum and maximum seconds, without load
    "address is unassigned": ("10.77.0.99", 502, "network_unreachable", "connect", 2, 4),
    "SYN is dropped": (REMOTE_ADDRESSES[0], 504, "connect_timeout", "connect", 1.9, 3),
    "large packets are dropped": (REMOTE_ADDRESSES[1], 504, "connect_timeout", "connect", 1.9, 3),
    "firewall resets": (REMOTE_ADDRESSES[2], 502, "connect_refused", "connect", 0, 1),
    # Up to seconds: Linux sends one such ICMP message per second, and the relay dials twice.
    "firewall reports network unreachable": (REMOTE_ADDRESSES[3], 502, "network_unreachable", "connect", 0, 3.5),
    "firewall prohibits": (REMOTE_ADDRESSES[5], 502, "network_unreachable", "connect", 0, 3.5),
    "port has no listener": (REMOTE_ADDRESSES[6], 502, "connect_refused", "connect", 0, 1),
    "no route": ("10.99.0.1", 502, "network_unreachable", "connect", 0, 1),
    "route unreachable": ("10.98.0.1", 502, "network_unreachable", "connect", 0, 1),
    "route prohibited": ("10.98.0.2", 502, "network_unreachable", "connect", 0, 1),
    "route blackhole": ("10.98.0.3", 502, "network_unreachable", "connect", 0, 1),
}


async def test_failed_dials_report_their_cause_in_time(tls: ssl.SSLContext, authority: Authority) -> None:
    """Each way in which a network drops or rejects a dial has its own reason and phase, within its time."""
    with veth_link() as link, ExitStack() as faults:
        async with AsyncExitStack() as stack:
            ports = {
                address: (await stack.enter_async_context(remote_upstream(link, address, tls, 8443))).port
                for address in (*REMOTE_ADDRESSES[:4], REMOTE_ADDRESSES[5])
            }
            assert {8443} == {*ports.values()}
            faults.enter_context(
                link.rules(
                    f"INPUT -p tcp -d {REMOTE_ADDRESSES[0]} -j DROP",
                    f"INPUT -p tcp -d {REMOTE_ADDRESSES[1]} -m length --length 200: -j DROP",
                    f"INPUT -p tcp -d {REMOTE_ADDRESSES[2]} -j REJECT --reject-with tcp-reset",
                    f"INPUT -p tcp -d {REMOTE_ADDRESSES[3]} -j REJECT --reject-with icmp-net-unreachable",
                    f"INPUT -p tcp -d {REMOTE_ADDRESSES[5]} -j REJECT --reject-with icmp-admin-prohibited",
                )
            )
            for kind, address in (("unreachable", "10.98.0.1"), ("prohibit", "10.98.0.2"), ("blackhole", "10.98.0.3")):
                faults.enter_context(link.local_route(kind, address))
            starts = asyncio.Semaphore(4)  # concurrent processes

            async def one(row: tuple[str, int, str, str, float, float]) -> tuple[Answer, float, str]:
                async with starts:
                    seconds = 2 if row[1] == 504 else 4
                    return await dial(link, f"https://{row[0]}:8443/v1", authority, seconds)

            results = await asyncio.gather(*(one(row) for row in DIALS.values()))

    for name, (answer, waited, phase) in zip(DIALS, results, strict=True):
        LOG.info("%s: %d %s in phase %s after %.2f s", name, answer.status, answer.error["code"], phase, waited)
    for (name, row), (answer, waited, phase) in zip(DIALS.items(), results, strict=True):
        _, status, reason, expected_phase, minimum, maximum = row
        assert (status, reason, expected_phase) == (answer.status, answer.error["code"], phase), name
        assert minimum <= waited <= maximum + 5, f"{name}: {waited}"


async def test_dropped_ipv6_delays_dial_by_at_most_300_ms(
    network: LocalNetwork, tls: ssl.SSLContext, authority: Authority
) -> None:
    """The dial tries IPv6 first and falls back to IPv4."""
    with (
        veth_link() as link,
        network.replaced_file("/etc/hosts", f"{REMOTE_IPV6} {PROVIDER_NAME}\n{REMOTE_ADDRESSES[0]} {PROVIDER_NAME}\n"),
    ):
        async with (
            remote_upstream(link, REMOTE_ADDRESSES[0], tls, 8443) as over_ipv4,
            remote_upstream(link, REMOTE_IPV6, tls, 8443) as over_ipv6,
            relay(f"https://{PROVIDER_NAME}:8443/v1", authority) as running,
        ):

            async def shortest_connect() -> float:
                durations = []
                for _ in range(5):
                    started = time.monotonic()
                    client = await open_session(link, running, REMOTE_ADDRESSES[4])
                    durations.append(time.monotonic() - started)
                    await client.close()
                return min(durations)  # other load of the machine is not the relay's delay

            await eventually(lambda: over_ipv6.connections > 0, 5)  # by the relay's health check
            alive = await shortest_connect()
            assert (0, 5) == (over_ipv4.opened, over_ipv6.opened)
            with link.rules(f"6 INPUT -d {REMOTE_IPV6} -p tcp -j DROP"):
                dead = await shortest_connect()
            LOG.info("connect: %.3f s with IPv6, %.3f s without", alive, dead)

            assert (5, 5) == (over_ipv4.opened, over_ipv6.opened)
            assert dead - alive <= 0.3


@asynccontextmanager
async def relay_without_resolver(
    network: LocalNetwork, authority: Authority, **settings: str
) -> AsyncIterator[RunningRelay]:
    """A relay on a machine whose only DNS server never answers."""
    with (
        network.replaced_file("/etc/resolv.conf", "nameserver 127.0.0.9\noptions attempts:1\n"),
        network.rule("-p", "udp", "--dport", "53", "-j", "DROP", chain="INPUT"),
    ):
        async with relay(f"https://{PROVIDER_NAME}/v1", authority, RELAY_HOST="127.0.0.1", **settings) as running:
            yield running


def thread_count(running: RunningRelay) -> int:
    """The number of threads of the process."""
    return len(list(Path(f"/proc/{running.process.process.pid}/task").iterdir()))


async def test_unreachable_resolver_blocks_one_thread_only(network: LocalNetwork, authority: Authority) -> None:
    """A hundred clients wait for DNS: each is answered within the budget, `/livez` within 100 ms."""
    settings = {"RELAY_DIAL_TIMEOUT_SECONDS": "2", "RELAY_MAX_DIALS": "200"}
    async with relay_without_resolver(network, authority, **settings) as running:

        async def connect() -> tuple[Answer, float]:
            started = time.monotonic()
            client = await open_raw(running.port, PATH)
            await client.close()
            return client.answer, time.monotonic() - started

        connects = [asyncio.ensure_future(connect()) for _ in range(100)]
        durations = []
        async with aiohttp.ClientSession() as session:
            while not all(task.done() for task in connects):
                started = time.monotonic()
                async with session.get(f"{running.internal}/livez") as response:
                    assert 200 == response.status
                durations.append(time.monotonic() - started)
                await asyncio.sleep(0.005)
        results = await asyncio.gather(*connects)
        median = statistics.median(durations)  # other load of the machine delays some
        LOG.info("/livez median %.1f ms of %d, dials %.2f s", median * 1000, len(durations), max(t for _, t in results))

        assert {(504, "connect_timeout")} == {(answer.status, answer.error["code"]) for answer, _ in results}
        assert {"dns"} == {line["phase"] for line in running.events("upstream.connect_failed")}
        assert all(1.9 < waited < 10 for _, waited in results)
        assert median < 0.1
        assert thread_count(running) <= 8  # main, resolver, log, four of libuv, one spare
        await running.kill()


async def test_sigterm_ends_process_while_dns_lookup_hangs(network: LocalNetwork, authority: Authority) -> None:
    """A lookup cannot be cancelled; the process exits within two seconds all the same."""
    async with relay_without_resolver(network, authority, RELAY_DIAL_TIMEOUT_SECONDS="1") as running:
        client = await open_raw(running.port, PATH)
        await client.close()
        assert (504, "connect_timeout") == (client.answer.status, client.answer.error["code"])

        assert await running.terminate() < 4  # the lookup takes five
