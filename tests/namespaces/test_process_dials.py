"""Dials of the real program into networks that swallow, refuse or have no way."""

import asyncio
import ssl
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp

from tests.namespaces.conftest import Network
from tests.support.certificates import Authority
from tests.support.harness import Answer, eventually, open_raw
from tests.support.namespaced_relay import LOG, Running, relay, talk_to
from tests.support.network_namespace import FAR, FAR_IPV6, NAME, PATH, Cable, far_upstream, plugged_in


async def dial(cable: Cable, url: str, authority: Authority, seconds: float) -> tuple[Answer, float, str]:
    """A caller of a relay of its own: the answer, how long it took, and the phase of the failure."""
    async with relay(url, authority, RELAY_DIAL_TIMEOUT_SECONDS=str(seconds)) as running:
        started = time.monotonic()
        client = await cable.call(running.port, FAR[4])
        waited = time.monotonic() - started
        await client.close()
        await eventually(lambda: running.events("upstream.connect_failed"))
        return client.answer, waited, running.events("upstream.connect_failed")[-1]["phase"]


DIALS: Final[dict[str, tuple[str, int, str, str, float, float]]] = {
    # address, status, reason, phase, at least and at most so many seconds
    "nobody has the address": ("10.77.0.99", 502, "network_unreachable", "connect", 2, 4),
    "C5 SYNs are swallowed": (FAR[0], 504, "connect_timeout", "connect", 1.9, 3),
    "large packets are swallowed": (FAR[1], 504, "connect_timeout", "connect", 1.9, 3),
    "a firewall resets": (FAR[2], 502, "connect_refused", "connect", 0, 1),
    # Seconds more, but less than the budget of 4: Linux sends one such ICMP per second, and the relay tries twice.
    "the network is told to be unreachable": (FAR[3], 502, "network_unreachable", "connect", 0, 3.5),
    "a firewall prohibits": (FAR[5], 502, "network_unreachable", "connect", 0, 3.5),
    "C4 nobody listens": (FAR[6], 502, "connect_refused", "connect", 0, 1),
    "no route": ("10.99.0.1", 502, "network_unreachable", "connect", 0, 1),
    "route unreachable": ("10.98.0.1", 502, "network_unreachable", "connect", 0, 1),
    "route prohibited": ("10.98.0.2", 502, "network_unreachable", "connect", 0, 1),
    "route blackhole": ("10.98.0.3", 502, "network_unreachable", "connect", 0, 1),
}


async def test_c4_c5_dials_that_come_to_nothing(tls: ssl.SSLContext, authority: Authority) -> None:
    """Each way in which a network can swallow or refuse a dial is told as what it is, in its time."""
    with plugged_in() as cable, ExitStack() as faults:
        async with AsyncExitStack() as stack:
            ports = {
                address: (await stack.enter_async_context(far_upstream(cable, address, tls, 8443))).port
                for address in (*FAR[:4], FAR[5])
            }
            assert {8443} == {*ports.values()}
            faults.enter_context(
                cable.rules(
                    f"INPUT -p tcp -d {FAR[0]} -j DROP",
                    f"INPUT -p tcp -d {FAR[1]} -m length --length 200: -j DROP",
                    f"INPUT -p tcp -d {FAR[2]} -j REJECT --reject-with tcp-reset",
                    f"INPUT -p tcp -d {FAR[3]} -j REJECT --reject-with icmp-net-unreachable",
                    f"INPUT -p tcp -d {FAR[5]} -j REJECT --reject-with icmp-admin-prohibited",
                )
            )
            for kind, address in (("unreachable", "10.98.0.1"), ("prohibit", "10.98.0.2"), ("blackhole", "10.98.0.3")):
                faults.enter_context(cable.route(kind, address))
            gate = asyncio.Semaphore(4)  # programs that start at once

            async def one(row: tuple[str, int, str, str, float, float]) -> tuple[Answer, float, str]:
                async with gate:
                    seconds = 2 if row[1] == 504 else 4
                    return await dial(cable, f"https://{row[0]}:8443/v1", authority, seconds)

            results = await asyncio.gather(*(one(row) for row in DIALS.values()))

    for name, (answer, waited, phase) in zip(DIALS, results, strict=True):
        LOG.info("%s: %d %s in phase %s after %.2f s", name, answer.status, answer.error["code"], phase, waited)
    for (name, row), (answer, waited, phase) in zip(DIALS.items(), results, strict=True):
        _, status, reason, expected_phase, least, most = row
        assert (status, reason, expected_phase) == (answer.status, answer.error["code"], phase), name
        assert least <= waited <= most, f"{name}: {waited}"


async def test_c6_ipv6_is_dead_beyond_the_cable(network: Network, tls: ssl.SSLContext, authority: Authority) -> None:
    """A dead IPv6 address of the provider costs a caller at most 0.3 s more than a live one."""
    with plugged_in() as cable, network.file("/etc/hosts", f"{FAR_IPV6} {NAME}\n{FAR[0]} {NAME}\n"):
        async with (
            far_upstream(cable, FAR[0], tls, 8443) as four,
            far_upstream(cable, FAR_IPV6, tls, 8443) as six,
            relay(f"https://{NAME}:8443/v1", authority) as running,
        ):

            async def quickest() -> float:
                taken = []
                for _ in range(5):
                    started = time.monotonic()
                    client = await talk_to(cable, running, FAR[4])
                    taken.append(time.monotonic() - started)
                    await client.close()
                return min(taken)  # what else the machine does is no delay of the relay's

            await eventually(lambda: six.connections > 0, 5)  # the relay's own check
            alive = await quickest()
            assert (0, 5) == (four.opened, six.opened)  # it is IPv6 that is tried first
            with cable.rules(f"6 INPUT -d {FAR_IPV6} -p tcp -j DROP"):
                dead = await quickest()
            LOG.info("C6: %.3f s with IPv6, %.3f s without", alive, dead)

            assert (5, 5) == (four.opened, six.opened)
            assert dead - alive <= 0.3


@asynccontextmanager
async def dead_resolver(network: Network, authority: Authority, **settings: str) -> AsyncIterator[Running]:
    """The program on a machine whose only resolver never answers."""
    with (
        network.file("/etc/resolv.conf", "nameserver 127.0.0.9\noptions attempts:1\n"),
        network.rule("-p", "udp", "--dport", "53", "-j", "DROP", chain="INPUT"),
    ):
        async with relay(f"https://{NAME}/v1", authority, RELAY_HOST="127.0.0.1", **settings) as running:
            yield running


def threads(running: Running) -> int:
    """How many threads the program has."""
    return len(list(Path(f"/proc/{running.process.process.pid}/task").iterdir()))


async def test_c2_a_resolver_that_is_a_black_hole(network: Network, authority: Authority) -> None:
    """A hundred callers wait for DNS: each is told within the budget, liveness answers below 100 ms, one thread waits."""
    async with dead_resolver(network, authority, RELAY_DIAL_TIMEOUT_SECONDS="2") as running:

        async def call() -> tuple[Answer, float]:
            started = time.monotonic()
            client = await open_raw(running.port, PATH)
            await client.close()
            return client.answer, time.monotonic() - started

        calls = [asyncio.ensure_future(call()) for _ in range(100)]
        taken = []
        async with aiohttp.ClientSession() as session:
            while not all(task.done() for task in calls):
                started = time.monotonic()
                async with session.get(f"{running.internal}/livez") as response:
                    assert 200 == response.status
                taken.append(time.monotonic() - started)
                await asyncio.sleep(0.005)
        results = await asyncio.gather(*calls)
        p99 = statistics.quantiles(taken, n=100)[98]
        LOG.info("C2: /livez p99 %.1f ms of %d, dials %.2f s", p99 * 1000, len(taken), max(t for _, t in results))

        assert {(504, "connect_timeout")} == {(answer.status, answer.error["code"]) for answer, _ in results}
        assert {"dns"} == {line["phase"] for line in running.events("upstream.connect_failed")}
        assert all(1.9 < waited < 3 for _, waited in results)
        assert p99 < 0.1
        assert threads(running) <= 8  # its own, the one that looks up, the log's, libuv's four, and one to spare
        await running.be_killed()


async def test_sigterm_while_the_resolver_is_a_black_hole(network: Network, authority: Authority) -> None:
    """A lookup that nobody can cancel does not keep the program from ending: SIGTERM is obeyed within two seconds."""
    async with dead_resolver(network, authority, RELAY_DIAL_TIMEOUT_SECONDS="1") as running:
        client = await open_raw(running.port, PATH)
        await client.close()
        assert (504, "connect_timeout") == (client.answer.status, client.answer.error["code"])

        assert await running.leave() < 2
