"""Attacks through the TLS fronts that the project ships, with a well-behaved client beside them."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from service.failures import CATALOGUE
from service.relay.watchdog import SessionLimits
from tests.support.front_attacks import ATTACKER, BOMBS, SLOW, Attack, Bystander, run_attack
from tests.support.fronts import HAPROXY_TEXT, NGINX_TEXT, Front, running_front
from tests.support.harness import DEFAULT_PATH, Relay, eventually, running_relay, simulated_relay, within
from tests.support.raw_http_server import PATH, Exchange, raw_http
from tests.support.raw_websocket_server import CREATED
from tools.debian import PackageUnavailable

TOKEN: Final = "token-0123456789abcdef"
ACCESS: Final = {
    "RELAY_ACCESS": "tokens",
    "RELAY_CLIENT_TOKENS": f"web:{TOKEN}",
    "RELAY_TRUSTED_PROXIES": "127.0.0.1",
}
CONNECTIONS: Final = 12  # of each kind of attack
SHORT: Final = {
    "haproxy": {
        "timeout http-request 10s": "timeout http-request 1s",
        "timeout client 10s": "timeout client 1s",
        "sc0_get_gpc0 gt 100": "sc0_get_gpc0 gt 0",
    },
    "nginx": {
        "client_header_timeout 10s": "client_header_timeout 1s",
        "client_body_timeout 10s": "client_body_timeout 1s",
        "keepalive_timeout 10s": "keepalive_timeout 1s",
    },
}
"""The shipped durations of ten seconds, shortened, and no body for an address in place of a hundred."""


@asynccontextmanager
async def front_of(
    relay: Relay, name: str, folder: Path, changes: Mapping[str, str] | None = None
) -> AsyncIterator[Front]:
    """A front of this relay; skips the test where its program is not available."""
    try:
        async with running_front(name, folder, relay.app.public_port, changes) as front:
            yield front
    except PackageUnavailable as exc:
        pytest.skip(str(exc))


async def upgrade_status(front: Front, path: str = DEFAULT_PATH) -> int:
    """The status of a new call from the well-behaved address."""
    url, headers = f"https://localhost:{front.port}{path}", {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession() as http:
        try:
            async with http.ws_connect(url, ssl=front.context, headers=headers):
                return 101
        except aiohttp.WSServerHandshakeError as refusal:
            return refusal.status


async def attack_beside_a_call(front: Front, attacks: Mapping[str, Attack], *, pause: float) -> dict[str, set[bytes]]:
    """The answers to each kind. A call goes on meanwhile and loses nothing, and a new one is admitted afterwards."""
    bystander = Bystander(front.port, front.context, TOKEN)
    exchanging = asyncio.ensure_future(bystander.run())
    await eventually(lambda: bystander.exchanges or exchanging.done(), 30)
    before = bystander.exchanges
    runs = [
        asyncio.gather(*(run_attack(attack, front.port, front.context, pause=pause) for _ in range(CONNECTIONS)))
        for attack in attacks.values()
    ]
    answers = await within(asyncio.gather(*runs), 60)
    assert 101 == await upgrade_status(front)
    await eventually(lambda: bystander.exchanges > before or exchanging.done(), 30)
    bystander.stop()
    assert await within(exchanging, 30) > before
    return {kind: set(found) for kind, found in zip(attacks, answers, strict=True)}


@pytest.mark.parametrize("name", ["haproxy", "nginx"])
async def test_front_ends_slow_connections(name: str, tmp_path: Path) -> None:
    """Each kind at its timeout, whatever trickles in; all of their descriptors are free again."""
    async with simulated_relay(None, **ACCESS) as relay, front_of(relay, name, tmp_path, SHORT[name]) as front:
        before = front.open_files()
        await attack_beside_a_call(front, SLOW, pause=0.2)

        # HAProxy keeps some connections to the relay for further requests.
        await eventually(lambda: front.open_files() <= before + CONNECTIONS, 30)
        assert not relay.events("request.failed")


@pytest.mark.parametrize("name", ["haproxy", "nginx"])
async def test_front_forwards_requests_for_client_secrets(name: str, tmp_path: Path) -> None:
    """More than the bodies that one address may send elsewhere; a long one, too. Other paths take none."""
    changes = {"sc0_get_gpc0 gt 100": "sc0_get_gpc0 gt 2"} if name == "haproxy" else {}
    async with (
        simulated_relay(None, **ACCESS) as relay,
        front_of(relay, name, tmp_path, changes) as front,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http,
    ):
        statuses = []
        for size in (*[10] * 5, 40_000):
            body = {"session": {"instructions": "x" * size}}
            url = f"https://localhost:{front.port}/v1/realtime/client_secrets"
            async with http.post(url, ssl=front.context, json=body) as reply:
                statuses.append(reply.status)
        assert [200] * 6 == statuses


@pytest.mark.parametrize("name", ["haproxy", "nginx"])
async def test_front_refuses_bombs_and_rubbish(name: str, tmp_path: Path) -> None:
    """The relay sees only what is valid HTTP, and refuses that by its reason."""
    async with simulated_relay(None, **ACCESS) as relay, front_of(relay, name, tmp_path) as front:
        answers = await attack_beside_a_call(front, BOMBS, pause=1)
        refused = {line["reason"] for line in relay.events("admission.refused")}

    statuses = {kind: {answer[9:12] for answer in found} - {b""} for kind, found in answers.items()}
    assert {b"401"} >= statuses.pop("frames behind a refused upgrade")
    assert not statuses.pop("rubbish on TCP") - {b"400"}
    assert all(found <= {b"400", b"431"} for found in statuses.values()), statuses
    assert refused == {"token_missing"}


async def test_address_has_half_of_the_connections(tmp_path: Path) -> None:
    """HAProxy closes further ones at once, so that another address gets in."""
    changes = {"maxconn 2000": "maxconn 40", "sc0_conn_cur gt 1000": "sc0_conn_cur gt 20"}
    async with simulated_relay(None, **ACCESS) as relay, front_of(relay, "haproxy", tmp_path, changes) as front:
        silent = [
            asyncio.ensure_future(run_attack(SLOW["nothing on TCP"], front.port, front.context, pause=60))
            for _ in range(60)
        ]
        await eventually(lambda: sum(task.done() for task in silent) >= 40, 30)
        assert 101 == await within(upgrade_status(front), 30)
        assert 40 == sum(task.done() for task in silent)
        for task in silent:
            task.cancel()
        await asyncio.gather(*silent, return_exceptions=True)


async def test_address_has_a_rate_of_requests(tmp_path: Path) -> None:
    """HAProxy answers the others itself, in the words of the catalogue; another address is not affected."""
    async with (
        simulated_relay(None, **ACCESS) as relay,
        front_of(relay, "haproxy", tmp_path, {"http_req_rate gt 1000": "http_req_rate gt 5"}) as front,
    ):
        connector = aiohttp.TCPConnector(ssl=front.context, local_addr=(ATTACKER, 0))
        async with aiohttp.ClientSession(connector=connector) as http:
            replies = []
            for _ in range(8):
                async with http.get(f"https://localhost:{front.port}/livez") as reply:
                    replies.append((reply.status, reply.headers.get("Retry-After"), await reply.text()))
        assert 101 == await upgrade_status(front)

    assert [200] * 5 + [429] * 3 == [status for status, _, _ in replies]
    error, row = json.loads(replies[-1][2])["error"], CATALOGUE["too_many_connects"]
    assert ("10", row.reason, row.sentence, row.retry) == (
        replies[-1][1], error["code"], error["message"], error["retry"],
    )  # fmt: skip


@pytest.mark.parametrize("name", ["haproxy", "nginx"])
async def test_client_timeout_does_not_run_while_the_relay_dials(name: str, tmp_path: Path) -> None:
    """The answer comes later than all timeouts of the client's side."""
    released = asyncio.Event()

    async def answer_late(exchange: Exchange) -> None:
        await released.wait()
        exchange.upgrade(CREATED)
        await exchange.wait_closed()

    settings = ACCESS | {"RELAY_DIAL_TIMEOUT_SECONDS": "60", "RELAY_MODEL": "probe"}
    async with (
        raw_http(answer_late) as upstream,
        running_relay(
            simulator=None, intervals=None, adjust=None, **settings | {"OPENAI_BASE_URL": upstream.url}
        ) as relay,
        front_of(relay, name, tmp_path, SHORT[name]) as front,
    ):
        calling = asyncio.ensure_future(upgrade_status(front, PATH))
        await asyncio.wait([calling], timeout=2.5)
        assert not calling.done()
        released.set()
        assert 101 == await within(calling, 30)


def test_tunnel_outlives_the_pings() -> None:
    """A call without a message sends data every `ping_seconds`; a client that reads nothing is ended by the relay first."""
    tunnel = int(re.findall(r"timeout tunnel (\d+)s", HAPROXY_TEXT)[0])
    read = int(re.findall(r"proxy_read_timeout (\d+)s", NGINX_TEXT)[0])
    limits = SessionLimits(max_message_bytes=1)

    assert min(tunnel, read) >= 2 * limits.ping_seconds
    assert limits.silent_seconds < tunnel <= 60
    assert limits.slow_seconds < int(re.findall(r"send_timeout (\d+)s", NGINX_TEXT)[0])
