"""Group C of the fault plan: names, addresses, TLS, proxies and what the environment tries to slip in."""

import ast
import asyncio
import os
import socket
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from service.upstream import resolver
from tests.support.certificates import Authority
from tests.support.harness import eventually, open_raw, running_relay
from tests.support.invariants import nothing_left
from tests.support.raw_http_server import PATH, Exchange, raw_http
from tests.support.raw_websocket_server import CREATED
from tests.upstream.test_http_refusals import attempt, counted

ROOT = Path(__file__).resolve().parents[2]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def well(exchange: Exchange) -> None:
    """An upstream that opens sessions."""
    exchange.upgrade(CREATED)
    await exchange.gone()


async def test_c1_a_name_that_does_not_exist() -> None:
    """NXDOMAIN is told within a second, in phase dns."""
    async with running_relay(OPENAI_BASE_URL="https://relay-test.invalid/v1") as relay:
        started = time.monotonic()
        answer = await attempt(relay)

        assert (502, "dns_failed") == (answer.status, answer.error["code"])
        assert time.monotonic() - started < 1
        assert 1 == counted(relay, "dns_failed", "none", "dns")


async def test_c3_an_address_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new address of the provider is used once the remembered one is ten seconds old, and not before."""
    current = ["127.0.0.1"]

    def look_up(_host: str, port: int, *_args: Any, **_named: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (current[0], port))]

    async with raw_http(well) as first:
        second = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.2", first.port)
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        try:
            # localhost by a name that is not: plain http goes to loopback only, and the name has to be looked up.
            async with running_relay(OPENAI_BASE_URL=f"http://localhost:{first.port}/v1", RELAY_MODEL="probe") as relay:
                assert 10 == resolver.TTL_SECONDS
                assert 101 == (await attempt(relay)).status
                current[0] = "127.0.0.2"
                assert 101 == (await attempt(relay)).status
                monkeypatch.setattr(resolver, "TTL_SECONDS", 0.0)  # ten seconds later
                assert 502 == (await attempt(relay)).status
        finally:
            second.close()


async def test_c4_a_refused_connection() -> None:
    """Nobody listens: told at once, after one retry."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with running_relay(OPENAI_BASE_URL=f"http://127.0.0.1:{taken.getsockname()[1]}/v1") as relay:
            answer = await attempt(relay)

            assert (502, "connect_refused") == (answer.status, answer.error["code"])
            assert 1 == counted(relay, "connect_refused", "none", "connect")


@pytest.mark.parametrize(
    ("identity", "is_expired", "is_trusted", "words"),
    [
        pytest.param("127.0.0.1", True, True, "expired", id="C7"),
        pytest.param("other.example", False, True, "mismatch", id="C8"),
        pytest.param("127.0.0.1", False, False, "unable to get local issuer", id="C9"),
    ],
)
async def test_certificates_that_are_not_trusted(
    identity: str,
    *,
    is_expired: bool,
    is_trusted: bool,
    words: str,
    authority: Authority,
    request: pytest.FixtureRequest,
) -> None:
    """An expired, foreign or unknown certificate: the cause is in the log, no request is sent, nothing is tried again."""
    if is_trusted:
        request.getfixturevalue("trusting")
    tls = authority.server_context(identity, is_expired=is_expired)
    async with (
        nothing_left(),
        raw_http(well, tls=tls) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url) as relay,
    ):
        await relay.app.monitor.wait_for_first_refresh(5)
        before = upstream.connections
        answer = await attempt(relay)

        assert (502, "tls_untrusted") == (answer.status, answer.error["code"])
        assert "Retry-After" not in answer.headers
        assert 0 == upstream.requests == upstream.connections - before
        assert words in relay.events("upstream.connect_failed")[0]["detail"]
        assert 1 == counted(relay, "tls_untrusted", "none", "connect")


@pytest.mark.usefixtures("trusting")
async def test_a_trusted_certificate(authority: Authority) -> None:
    """The same server with a certificate in order opens sessions: what the rows above refuse is the certificate."""
    async with (
        nothing_left(),
        raw_http(well, tls=authority.server_context()) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        assert 101 == (await attempt(relay)).status
        await eventually(lambda: upstream.open == 0)


async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes the connection and says nothing."""
    await reader.read()
    writer.close()


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hangs up inside the handshake."""
    await reader.read(1)
    writer.transport.abort()


@pytest.mark.parametrize(
    ("serve", "status", "reason"),
    [
        pytest.param(mute, 504, "connect_timeout", id="C10-silence"),
        pytest.param(reset, 502, "dropped_early", id="C10-reset"),
    ],
)
async def test_c10_a_handshake_that_does_not_come_about(serve: Serve, status: int, reason: str) -> None:
    """Silence and a reset inside the TLS handshake have each their own reason."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        async with running_relay(OPENAI_BASE_URL=url, RELAY_DIAL_TIMEOUT_SECONDS="0.5") as relay:
            answer = await attempt(relay)

            assert (status, reason) == (answer.status, answer.error["code"])
    finally:
        server.close()


@pytest.mark.usefixtures("trusting")
async def test_c10_an_old_tls(authority: Authority) -> None:
    """A server that speaks TLS 1.0 only is refused, whoever signed its certificate."""
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        tls = authority.server_context(only_version=ssl.TLSVersion.TLSv1)
    async with raw_http(well, tls=tls) as upstream, running_relay(OPENAI_BASE_URL=upstream.url) as relay:
        answer = await attempt(relay)

        assert "during the TLS handshake" in relay.events("upstream.connect_failed")[0]["detail"]
        assert (502, "dropped_early", 0) == (answer.status, answer.error["code"], upstream.requests)


async def test_c11_a_private_authority_by_ssl_cert_file(authority: Authority, tmp_path: Path) -> None:
    """The real process with SSL_CERT_FILE trusts a company's authority; and C14: SSLKEYLOGFILE has been removed."""
    key_log = tmp_path / "keys.log"
    async with raw_http(well, tls=authority.server_context()) as upstream:
        environ = {
            "PATH": os.environ["PATH"],
            "OPENAI_API_KEY": "sk-sim-good-CANARY0key",
            "OPENAI_BASE_URL": upstream.url,
            "RELAY_MODEL": "scripted",
            "RELAY_PORT": "0",
            "RELAY_INTERNAL_PORT": "0",
            "RELAY_LOG_FORMAT": "json",
            "SSL_CERT_FILE": str(authority.bundle),
            "SSLKEYLOGFILE": str(key_log),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service", "serve",
            env=environ, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            seen = b""
            async with asyncio.timeout(20):
                while b"health.changed" not in seen:
                    line = await process.stdout.readline()
                    assert line, seen.decode()
                    seen += line
        finally:
            process.terminate()
            await process.wait()

        assert b'"handshake": "pass"' in seen or b'"handshake":"pass"' in seen
        assert upstream.requests >= 1
        assert b"SSLKEYLOGFILE" in seen
        assert b"CANARY" not in seen
    assert not key_log.exists()


def test_c12_nothing_switches_verification_off() -> None:
    """No file of the service connects without looking at the certificate.

    But for one of the doctor's: it looks at a certificate that has just been refused, to name its issuer, and sends nothing.
    """
    found = []
    for path in (ROOT / "service").rglob("*.py"):
        if path.relative_to(ROOT / "service") == Path("doctor/tls.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.keyword(
                    arg="ssl" | "verify_ssl" | "verify" | "check_hostname", value=ast.Constant(value=False)
                ):
                    found.append((path.name, node.lineno))
                case ast.Attribute(attr="CERT_NONE" | "CERT_OPTIONAL" | "_create_unverified_context"):
                    found.append((path.name, node.lineno))
                case ast.Assign(targets=[ast.Attribute(attr="check_hostname" | "verify_mode")]):
                    found.append((path.name, node.lineno))
    assert [] == found


async def test_c13_the_environment_does_not_choose_the_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Proxies and .netrc of the environment are not used, unless RELAY_UPSTREAM_PROXY says so."""
    seen = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login CANARY password CANARY\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, address)
    try:
        async with (
            raw_http(well) as upstream,
            running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
        ):
            client = await open_raw(relay.app.public_port, PATH)
            await client.close()

            assert 101 == client.answer.status
            assert "Authorization: Bearer sk-sim" in upstream.heads[0]
            assert "CANARY" not in upstream.heads[0].replace("CANARY0key", "")
    finally:
        server.close()
    assert [] == seen
