"""The check of `Host` on ports that are bound to loopback, which keeps pages out that reach them by DNS rebinding."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.hosts import HostPolicy, parse_allowed_host
from tests.support.harness import TOKEN_CANARY, Relay, open_raw, simulated_relay, within

FOREIGN = "rebinding.example:8080"
OWN = [
    "localhost", "localhost:8080", "LocalHost.", "localhost.:1", "relay.localhost", "a.b.localhost.:80", "127.0.0.1",
    "127.0.0.1:8080", "127.0.0.1.", "127.255.0.3", "127.1", "2130706433", "0x7f000001", "[::1]", "[::1]:9464",
    "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]:80", "localhost:", " localhost ",
]  # fmt: skip
OTHERS = [
    "rebinding.example", "rebinding.example:8080", "localhost.example", "xlocalhost", "a.localhost.example",
    "127.0.0.1.example", "128.0.0.1", "0.0.0.0", "[::]", "[::2]", "[::ffff:10.0.0.1]", "10.0.0.1", "a b", "localhost/x",
    "user@localhost", "localhost..", "localhost, x", "", "localhost:x", "[::1", "127.0.0.1:80:80",
]  # fmt: skip


async def ask(
    port: int, target: str = "/livez", *lines: str, version: str = "1.1"
) -> tuple[int, dict[str, Any], bytes]:
    """Send one request; return status, error object and everything that was received."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([f"GET {target} HTTP/{version}", "Connection: close", *lines, "", ""]).encode("latin-1"))
    received = await within(reader.read(), 10)
    writer.close()
    body = received.partition(b"\r\n\r\n")[2]
    return int(received.split()[1]), json.loads(body)["error"] if body.startswith(b'{"error"') else {}, received


def ports(relay: Relay) -> tuple[int, int]:
    """Both ports of a relay."""
    return relay.app.public_port, relay.app.internal_port


async def test_loopback_has_many_spellings() -> None:
    """All of them are served by both ports, with any port number."""
    async with simulated_relay() as relay:
        for port in ports(relay):
            for host in OWN:
                assert 200 == (await ask(port, "/livez", f"Host: {host}"))[0], host


async def test_other_host_is_misdirected_on_both_ports() -> None:
    """With the reason and the remedy; each port logs at most five lines a minute, and internal requests are not counted."""
    async with simulated_relay() as relay:
        for port in ports(relay):
            for host in OTHERS:
                status, error, received = await ask(port, "/livez", f"Host: {host}")
                assert (421, "host_refused", "never") == (status, error["code"], error["retry"]), host
                assert "RELAY_ALLOWED_HOSTS" in error["remedy"]
                assert b"connection: close" in received.lower()

        lines = relay.events("admission.refused")
        assert "Host: rebinding.example" == lines[0]["detail"]
        assert 10 == len(lines)
        assert len(OTHERS) == relay.metric("realtime_relay_admissions_total", result="host_refused")


async def test_every_path_is_checked() -> None:
    """Also one that does not exist, a WebSocket, and the target in absolute form, which overrides Host."""
    async with simulated_relay() as relay:
        public, internal = ports(relay)
        for port, paths in (
            (public, ("/livez", "/readyz", "/healthz", "/v1/realtime", "/nothing", "/")),
            (internal, ("/metrics", "/version", "/livez", "/readyz?verbose", "/healthz?verbose", "/healthz/key", "/")),
        ):
            for path in paths:
                status, _, received = await ask(port, path, f"Host: {FOREIGN}")
                assert (421, False) == (status, b"realtime_relay_" in received)
            assert 421 == (await ask(port, f"http://{FOREIGN}/livez", "Host: localhost"))[0]
            assert 200 == (await ask(port, "http://localhost/livez", "Host: localhost"))[0]
        client = await open_raw(public, headers={"Host": FOREIGN})
        assert (421, "host_refused") == (client.answer.status, client.answer.error["code"])
        await client.close()
        assert relay.simulator is not None
        assert 0 == relay.metric("realtime_relay_upstream_connects_total", upstream="compatible", result="ok")


async def test_each_request_of_a_connection_is_checked() -> None:
    """A rebinding page can share a connection with nothing else, but a proxy can."""
    async with simulated_relay() as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.internal_port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in await within(reader.readuntil(b"\r\n"), 10)
        writer.write(f"GET /version HTTP/1.1\r\nHost: {FOREIGN}\r\n\r\n".encode())
        rest = await within(reader.read(), 10)
        writer.close()

        assert b"HTTP/1.1 421 " in rest
        assert b'"version"' not in rest


async def test_http_1_0_needs_no_host() -> None:
    """As a load balancer's health check sends it."""
    async with simulated_relay() as relay:
        for port in ports(relay):
            assert 200 == (await ask(port, version="1.0"))[0]
            assert 421 == (await ask(port, "/livez", f"Host: {FOREIGN}", version="1.0"))[0]


async def test_browser_that_asks_for_an_event_gets_one() -> None:
    """With close code 3003, as for `origin_refused`; without the query it is a status."""
    async with simulated_relay() as relay:
        headers = {"Host": FOREIGN, "Origin": f"http://{FOREIGN}"}
        client = await open_raw(relay.app.public_port, "/v1/realtime?model=gpt-realtime&on_failure=event", headers)
        event = await within(client.next_event(), 10)
        assert (101, "host_refused") == (client.answer.status, event["error"]["code"])
        closed = await within(client.until_close(), 10)
        assert closed is not None
        assert 3003 == closed[0]
        await client.close()

        client = await open_raw(relay.app.public_port, headers=headers)
        assert 421 == client.answer.status
        await client.close()


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({"RELAY_TRUSTED_PROXIES": "127.0.0.1"}, FOREIGN),
        ({"RELAY_ALLOWED_HOSTS": "rebinding.example"}, FOREIGN),
        ({"RELAY_ALLOWED_HOSTS": "a.example, *.Example"}, FOREIGN),
    ],
)
async def test_proxy_on_loopback_may_send_other_names(settings: dict[str, str], host: str) -> None:
    """If it is a trusted one, or the names are listed."""
    async with simulated_relay(None, **settings) as relay:
        for port in ports(relay):
            assert 200 == (await ask(port, "/livez", f"Host: {host}"))[0]
        client = await open_raw(relay.app.public_port, headers={"Host": host})
        assert 101 == client.answer.status
        await client.close()


async def test_ports_beyond_loopback_are_not_checked() -> None:
    """Each port by itself: pods are scraped and probed by address, and clients use the name of an ingress."""
    tokens = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": TOKEN_CANARY}
    async with simulated_relay(None, RELAY_INTERNAL_HOST="0.0.0.0") as relay:
        assert 421 == (await ask(relay.app.public_port, "/livez", f"Host: {FOREIGN}"))[0]
        assert 200 == (await ask(relay.app.internal_port, "/metrics", "Host: 10.1.2.3:9464"))[0]
    async with simulated_relay(None, RELAY_HOST="0.0.0.0", **tokens) as relay:
        assert 200 == (await ask(relay.app.public_port, "/livez", f"Host: {FOREIGN}"))[0]
        assert 421 == (await ask(relay.app.internal_port, "/metrics", f"Host: {FOREIGN}"))[0]


async def test_listener_serves_the_name_that_it_is_bound_to() -> None:
    """The machine's own name often resolves to 127.0.1.1."""
    assert HostPolicy((), "Debian").allows("debian:8080")
    assert not HostPolicy((), "debian").allows("debian.example")


@pytest.mark.parametrize(
    ("entry", "served", "refused"),
    [
        (
            "relay.example.com",
            ["RELAY.example.com.", "relay.example.com:1"],
            ["x.relay.example.com", "relay.example.co"],
        ),
        ("relay.example.com:8443", ["relay.example.com:8443"], ["relay.example.com", "relay.example.com:8444"]),
        ("relay.example.com:443", ["relay.example.com", "relay.example.com:443"], ["relay.example.com:8443"]),
        ("*.example.com", ["a.example.com", "a.b.example.com:8"], ["example.com", ".example.com", "aexample.com"]),
        ("10.0.0.7", ["10.0.0.7:80"], ["10.0.0.8"]),
        ("[2001:db8::1]:80", ["[2001:DB8:0::1]", "[2001:db8::1]:80"], ["[2001:db8::2]", "[2001:db8::1]:81"]),
    ],
)
def test_allowed_host_is_a_name_with_or_without_port(entry: str, served: list[str], refused: list[str]) -> None:
    """In any case, with or without the dot of the root."""
    allowed = parse_allowed_host(entry)
    assert allowed is not None
    policy = HostPolicy((allowed,), "127.0.0.1")

    assert [True] * len(served) == [policy.allows(host) for host in served]
    assert [False] * len(refused) == [policy.allows(host) for host in refused]


@pytest.mark.parametrize(
    "entry",
    ["*", "*.", "a b", "https://a.example", "a.example/", "a..b", "a:0", "a:65536", "*.*.a", "[::x]", "a*b", ":80"],
)
def test_allowed_host_is_nothing_else(entry: str) -> None:
    """No URL, and no pattern but one for all names below a name."""
    assert parse_allowed_host(entry) is None


@given(st.text())
def test_any_host_is_judged(authority: str) -> None:
    """No text raises, and none that a resolver could be asked for is served."""
    if HostPolicy(("a.example",), "127.0.0.1").allows(authority):
        name = authority.strip().lower().rpartition(":")[0] or authority.strip().lower()
        last = name.strip("[]").removesuffix(".").rpartition(".")[2]
        assert last in {"localhost", "example"} or last.isalnum() or "::" in name
