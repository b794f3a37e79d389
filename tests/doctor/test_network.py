"""DNS, TCP, the proxy's tunnel and TLS: each breaks as itself, and says who stands in the way."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from yarl import URL

from service.doctor import network
from service.doctor.network import Route
from service.doctor.tls import trust_store_notes
from service.simulator import Simulator, SimulatorOptions
from tests.support.certificates import create_self_signed
from tests.support.doctor_chain import (
    KEY_CANARY,
    PASSWORD_CANARY,
    QUIET,
    ChainReport,
    answering,
    bare_server,
    passing_on,
    run_provider_chain,
)
from tests.support.relay_process import environment
from tests.support.tcp_server import Serve

PROXY_USER = f"http://me:{PASSWORD_CANARY}@127.0.0.1"


async def climb_to(tmp_path: Path, url: str, **settings: str) -> ChainReport:
    """Climb towards an upstream with a key that must not be shown."""
    environ = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY_CANARY, "RELAY_DIAL_TIMEOUT_SECONDS": "2"}
    report = await run_provider_chain(environ | settings, tmp_path)
    assert "CANARY" not in report.printed
    return report


async def test_a_name_that_does_not_exist(tmp_path: Path) -> None:
    """An unknown name breaks the rung of DNS, and a proxy that could have been used is pointed out."""
    report = await climb_to(tmp_path, "https://provider.invalid/v1", HTTPS_PROXY="http://proxy.invalid:3128")

    assert ("dns", "dns_failed") == (report.failed_step, report["dns"].reason)
    assert "provider.invalid" in report.notes("dns")
    assert "RELAY_UPSTREAM_PROXY=auto would use it" in report.notes("dns")


async def test_a_port_where_nobody_listens(tmp_path: Path) -> None:
    """A refused connection breaks the rung of TCP, with the address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    report = await climb_to(tmp_path, f"https://127.0.0.1:{port}/v1")

    assert ("tcp", "connect_refused") == (report.failed_step, report["tcp"].reason)
    assert f"127.0.0.1 port {port}: Connection refused." in report.notes("tcp")


async def test_one_address_of_several_is_enough() -> None:
    """Where one address is dead and another answers, the rung holds and the dead one is noted."""
    async with bare_server(answering("200 OK")) as port:
        route = Route(URL(f"http://localhost:{port}"), seconds=2)
        found = await network.connect(route, ["127.0.0.2", "127.0.0.1"])

    assert f"127.0.0.1 port {port} answers" == found.finding
    assert ("127.0.0.2 cannot be reached (Connection refused); another address is used.",) == tuple(found.notes)


@pytest.mark.parametrize(
    ("subject", "note"),
    [
        ("/C=US/O=Zscaler Inc./CN=Zscaler Intermediate Root CA", "That is Zscaler: a company proxy opens TLS"),
        ("/O=Netskope Inc/CN=ca.acme.goskope.com", "That is Netskope: a company proxy opens TLS"),
        ("/O=Fortinet/OU=Certificate Authority/CN=FG200E", "That is Fortinet: a company proxy opens TLS"),
        ("/O=Acme/CN=localhost", "It is self-signed: a test server, or a proxy that opens TLS on the way."),
    ],
)
async def test_a_certificate_that_is_not_trusted(tmp_path: Path, subject: str, note: str) -> None:
    """The issuer of an untrusted certificate is told, a corporate proxy by its name, and SSL_CERT_FILE is the cure."""
    pair = create_self_signed(tmp_path, subject)
    async with bare_server(answering("200 OK"), pair.server_context()) as port:
        report = await climb_to(tmp_path, f"https://localhost:{port}/v1")

    assert ("tls", "tls_untrusted") == (report.failed_step, report["tls"].reason)
    assert note in report.notes("tls")
    assert "SSL_CERT_FILE" in (report["tls"].remedy or "")
    assert "self-signed certificate" in report.notes("tls")


async def test_a_port_without_tls(tmp_path: Path) -> None:
    """https:// towards a port of plain HTTP is told as that, whether it answers the handshake with a 400 or not at all."""
    async with Simulator() as simulator, bare_server(answering("200 OK")) as silent:
        for port in (URL(simulator.url).port, silent):
            report = await climb_to(tmp_path, f"https://127.0.0.1:{port}/v1", RELAY_DIAL_TIMEOUT_SECONDS="0.3")

            assert ("tls", "tls_failed") == (report.failed_step, report["tls"].reason)
            assert f"Port {port} speaks plain HTTP, not TLS" in report.notes("tls")


async def test_tls_that_is_cut(tmp_path: Path) -> None:
    """A connection that is cut inside the handshake is suspected to be a firewall's work."""

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async with bare_server(cut) as port:
        report = await climb_to(tmp_path, f"https://127.0.0.1:{port}/v1")

    assert ("tls", "tls_failed") == (report.failed_step, report["tls"].reason)
    assert "firewalls that filter by server name do this" in report.notes("tls")


async def test_tls_that_hangs(tmp_path: Path) -> None:
    """A handshake that is never answered ends with the dial's budget."""

    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with bare_server(hang) as port:
        report = await climb_to(tmp_path, f"https://127.0.0.1:{port}/v1", RELAY_DIAL_TIMEOUT_SECONDS="0.3")

    assert ("tls", "connect_timeout") == (report.failed_step, report["tls"].reason)
    assert "the TLS handshake hangs" in report.notes("tls")


def test_odd_trust_stores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """SSL_CERT_FILE that names nothing, and other programs' variables for the same purpose, are told."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    named = trust_store_notes()
    monkeypatch.delenv("SSL_CERT_FILE")
    for name in ("CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/x")

    assert ["SSL_CERT_FILE names a file that does not exist, so nothing is trusted."] == named
    assert "REQUESTS_CA_BUNDLE is set, but only SSL_CERT_FILE is read here." in trust_store_notes()


# -- proxies ----------------------------------------------------------------------------------------------------------


def proxy(status: str, port: int | None = None, host: str = "provider.invalid") -> Serve:
    """A proxy that answers CONNECT, and leads whatever is asked for to a port of loopback."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(f"CONNECT {host}:443 HTTP/1.1\r\n".encode())
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        if port is not None:
            await passing_on(port)(reader, writer)

    return serve


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        ("407 Proxy Authentication Required", "it wants other credentials"),
        ("403 Forbidden", "it does not allow this host or port"),
        ("502 Bad Gateway", "it refused"),
    ],
)
async def test_a_proxy_that_refuses(tmp_path: Path, status: str, meaning: str) -> None:
    """A proxy's refusal breaks the rung of the tunnel with its status; DNS and TCP were the proxy's own."""
    async with bare_server(proxy(status)) as port:
        setting = {"RELAY_UPSTREAM_PROXY": f"{PROXY_USER}:{port}"}
        report = await climb_to(tmp_path, "https://provider.invalid/v1", **setting)

    assert ("tunnel", "proxy_failed") == (report.failed_step, report["tunnel"].reason)
    assert f"HTTP {status[:3]}" in report.notes("tunnel")
    assert meaning in report.notes("tunnel")
    assert "the proxy 127.0.0.1 is an address" in report["dns"].finding


async def test_a_proxy_that_is_not_there(tmp_path: Path) -> None:
    """A proxy whose name or port does not exist is blamed as the proxy, not as the provider."""
    no_name = await climb_to(tmp_path, "https://provider.invalid/v1", RELAY_UPSTREAM_PROXY="http://proxy.invalid:1")
    no_port = await climb_to(tmp_path, "https://provider.invalid/v1", RELAY_UPSTREAM_PROXY="http://127.0.0.1:1")

    assert ("dns", "proxy_failed") == (no_name.failed_step, no_name["dns"].reason)
    assert ("tcp", "proxy_failed") == (no_port.failed_step, no_port["tcp"].reason)


@asynccontextmanager
async def encrypted_simulator(tmp_path: Path, subject: str) -> AsyncIterator[tuple[int, Mapping[str, str]]]:
    """A simulator behind TLS: its port, and the environment in which its certificate is trusted."""
    pair = create_self_signed(tmp_path, subject, "api.openai.com")
    async with (
        Simulator(SimulatorOptions(pace=0)) as simulator,
        bare_server(passing_on(URL(simulator.url).port or 0), pair.server_context()) as port,
    ):
        # A key of no family: the simulator takes it as good, and it is nobody's.
        yield port, {"SSL_CERT_FILE": str(pair.certificate), "OPENAI_API_KEY": "CANARY-key-of-no-family"}


async def run_doctor(tmp_path: Path, environ: Mapping[str, str]) -> tuple[int | None, str]:
    """The real command, since only a new process trusts another store: its exit code, and all that it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "doctor",
        cwd=tmp_path,
        env=environment(**(QUIET | dict(environ))),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    printed, _ = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, printed.decode()


async def test_a_trusted_certificate_of_a_corporate_proxy(tmp_path: Path) -> None:
    """Where the company's certificate is trusted, the whole ladder is climbed over TLS, and the proxy is named."""
    async with encrypted_simulator(tmp_path, "/O=Palo Alto Networks/CN=GlobalProtect CA") as (port, environ):
        code, printed = await run_doctor(tmp_path, {**environ, "OPENAI_BASE_URL": f"https://localhost:{port}/v1"})

    assert 0 == code, printed
    assert "TLSv1.3, trusted, issued by Palo Alto Networks, GlobalProtect CA, expires in 29 days" in printed
    assert "That is Palo Alto Networks: a proxy opens TLS on the way" in printed
    assert printed.endswith("All well: connected, session ready. Warnings: tls.\n")
    assert "CANARY" not in printed


async def test_all_well_through_a_proxy(tmp_path: Path) -> None:
    """Tunnel, TLS, REST, upgrade and first event go through the proxy; outdated advice about OpenAI is named as such."""
    async with (
        encrypted_simulator(tmp_path, "/O=Acme/CN=localhost") as (port, environ),
        bare_server(proxy("200 OK", port, "api.openai.com")) as proxy_port,
    ):
        proxied = {"RELAY_UPSTREAM_PROXY": f"{PROXY_USER}:{proxy_port}", "OPENAI_API_KEY": KEY_CANARY}
        code, printed = await run_doctor(tmp_path, {**environ, **proxied})

    assert 0 == code, printed
    assert "openai at https://api.openai.com/v1" in printed
    assert "tunnel       the proxy connects to api.openai.com port 443" in printed
    assert "session ready: session.created" in printed
    assert "Outdated advice: a key need not have 51 characters" in printed
    assert "It asks for no beta access and no particular usage tier" in printed
    assert "CANARY" not in printed
