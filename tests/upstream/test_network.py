"""DNS, TCP and TLS failures on the way to the provider, and environment variables that must not change the way."""

import ast
import asyncio
import os
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from service.upstream import resolver
from tests.support.certificates import Authority
from tests.support.harness import eventually, open_raw, running_relay, taking_less_than
from tests.support.invariants import assert_no_leaks
from tests.support.raw_http_relay import connect_once, failure_count
from tests.support.raw_http_server import PATH, Exchange, raw_http
from tests.support.raw_websocket_server import CREATED

ROOT = Path(__file__).resolve().parents[2]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def accept_session(exchange: Exchange) -> None:
    """Open a session and wait for its end."""
    exchange.upgrade(CREATED)
    await exchange.wait_closed()


async def test_unknown_host_fails_within_a_second() -> None:
    """NXDOMAIN is counted in phase dns."""
    async with running_relay(OPENAI_BASE_URL="https://relay-test.invalid/v1") as relay:
        async with taking_less_than(1):
            answer = await connect_once(relay)

        assert (502, "dns_failed") == (answer.status, answer.error["code"])
        assert 1 == failure_count(relay, "dns_failed", "none", "dns")


async def test_changed_address_is_used_after_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then dials use the cached address."""
    current = ["127.0.0.1"]

    def getaddrinfo(_host: str, port: int, *_args: Any, **_named: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (current[0], port))]

    async with raw_http(accept_session) as first:
        second = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.2", first.port)
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        try:
            # Plain http is allowed for loopback only, and the name has to go through the resolver.
            async with running_relay(OPENAI_BASE_URL=f"http://localhost:{first.port}/v1", RELAY_MODEL="probe") as relay:
                assert 10 == resolver.TTL_SECONDS
                assert 101 == (await connect_once(relay)).status
                current[0] = "127.0.0.2"
                assert 101 == (await connect_once(relay)).status
                monkeypatch.setattr(resolver, "TTL_SECONDS", 0.0)  # ten seconds later
                assert 502 == (await connect_once(relay)).status
        finally:
            second.close()


async def test_refused_connection_is_connect_refused() -> None:
    """The port is bound and does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with running_relay(OPENAI_BASE_URL=f"http://127.0.0.1:{taken.getsockname()[1]}/v1") as relay:
            answer = await connect_once(relay)

            assert (502, "connect_refused") == (answer.status, answer.error["code"])
            assert 1 == failure_count(relay, "connect_refused", "none", "connect")


@pytest.mark.parametrize(
    ("identity", "is_expired", "is_trusted", "detail"),
    [
        pytest.param("127.0.0.1", True, True, "expired", id="expired"),
        pytest.param("other.example", False, True, "mismatch", id="wrong-host"),
        pytest.param("127.0.0.1", False, False, "unable to get local issuer", id="unknown-authority"),
    ],
)
async def test_untrusted_certificate_fails_the_dial_before_any_request(
    identity: str,
    *,
    is_expired: bool,
    is_trusted: bool,
    detail: str,
    authority: Authority,
    request: pytest.FixtureRequest,
) -> None:
    """The log has the cause, and the dial is not retried."""
    if is_trusted:
        request.getfixturevalue("trusting")
    tls = authority.server_context(identity, is_expired=is_expired)
    async with (
        assert_no_leaks(),
        raw_http(accept_session, tls=tls) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url) as relay,
    ):
        await relay.app.monitor.wait_for_first_refresh(30)
        before = upstream.connections
        answer = await connect_once(relay)

        assert (502, "tls_untrusted") == (answer.status, answer.error["code"])
        assert "Retry-After" not in answer.headers
        assert 0 == upstream.requests == upstream.connections - before
        assert detail in relay.events("upstream.connect_failed")[0]["detail"]
        assert 1 == failure_count(relay, "tls_untrusted", "none", "connect")


@pytest.mark.usefixtures("trusting")
async def test_trusted_certificate_opens_a_session(authority: Authority) -> None:
    """The counter-check of the test above: the same server with a valid certificate."""
    async with (
        assert_no_leaks(),
        raw_http(accept_session, tls=authority.server_context()) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        assert 101 == (await connect_once(relay)).status
        await eventually(lambda: upstream.open == 0)


async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept the connection and send nothing."""
    await reader.read()
    writer.close()


async def abort(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Abort the connection during the TLS handshake."""
    await reader.read(1)
    writer.transport.abort()


@pytest.mark.parametrize(
    ("serve", "status", "reason"),
    [
        pytest.param(stay_silent, 504, "connect_timeout", id="silence"),
        pytest.param(abort, 502, "dropped_early", id="reset"),
    ],
)
async def test_interrupted_tls_handshake_has_its_own_reason(serve: Serve, status: int, reason: str) -> None:
    """Silence is connect_timeout, a reset is dropped_early."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        async with running_relay(OPENAI_BASE_URL=url, RELAY_DIAL_TIMEOUT_SECONDS="0.5") as relay:
            answer = await connect_once(relay)

            assert (status, reason) == (answer.status, answer.error["code"])
    finally:
        server.close()


@pytest.mark.usefixtures("trusting")
async def test_tls_1_0_is_refused(authority: Authority) -> None:
    """Even with a trusted certificate."""
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        tls = authority.server_context(only_version=ssl.TLSVersion.TLSv1)
    async with raw_http(accept_session, tls=tls) as upstream, running_relay(OPENAI_BASE_URL=upstream.url) as relay:
        answer = await connect_once(relay)

        assert "during the TLS handshake" in relay.events("upstream.connect_failed")[0]["detail"]
        assert (502, "dropped_early", 0) == (answer.status, answer.error["code"], upstream.requests)


async def test_ssl_cert_file_adds_an_authority_and_sslkeylogfile_is_removed(
    authority: Authority, tmp_path: Path
) -> None:
    """Runs the real process, since OpenSSL reads both variables."""
    key_log = tmp_path / "keys.log"
    async with raw_http(accept_session, tls=authority.server_context()) as upstream:
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
            log = b""
            async with asyncio.timeout(20):
                while b"health.changed" not in log:
                    line = await process.stdout.readline()
                    assert line, log.decode()
                    log += line
        finally:
            process.terminate()
            await process.wait()

        assert b'"handshake": "pass"' in log or b'"handshake":"pass"' in log
        assert upstream.requests >= 1
        assert b"SSLKEYLOGFILE" in log
        assert b"CANARY" not in log
    assert not key_log.exists()


def test_no_code_disables_certificate_verification() -> None:
    """The one exception is in the doctor: it reads a certificate that has just been refused, and sends nothing."""
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


async def test_proxy_variables_and_netrc_are_ignored_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only RELAY_UPSTREAM_PROXY=auto makes the relay read proxies from the environment."""
    proxied = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxied.append(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login CANARY password CANARY\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, address)
    try:
        async with (
            raw_http(accept_session) as upstream,
            running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
        ):
            client = await open_raw(relay.app.public_port, PATH)
            await client.close()

            assert 101 == client.answer.status
            assert "Authorization: Bearer sk-sim" in upstream.heads[0]
            assert "CANARY" not in upstream.heads[0].replace("CANARY0key", "")
    finally:
        server.close()
    assert [] == proxied
