"""The steps `dns`, `tcp`, `tunnel` and `tls`: each failure belongs to its own step and names its cause."""

import asyncio
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from yarl import URL

from service.doctor import network, tls
from service.doctor.network import Route
from service.doctor.steps import StepFailed
from service.doctor.tls import trust_store_notes
from service.simulator import Simulator, SimulatorOptions
from tests.support.certificates import Chain, create_self_signed
from tests.support.doctor_chain import (
    KEY_CANARY,
    NO_RUNNING_RELAY,
    PASSWORD_CANARY,
    ChainReport,
    forward_to,
    http_response,
    run_provider_chain,
    run_relay_chain,
    tcp_server,
)
from tests.support.harness import within
from tests.support.relay_process import environment
from tests.support.tcp_server import Serve

PROXY_URL = f"http://me:{PASSWORD_CANARY}@127.0.0.1"


async def run_chain(tmp_path: Path, url: str, **settings: str) -> ChainReport:
    """Run the chain to an upstream, and check that the output holds no secret."""
    environ = {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": KEY_CANARY, "RELAY_DIAL_TIMEOUT_SECONDS": "2"}
    report = await run_provider_chain(environ | settings, tmp_path)
    assert "CANARY" not in report.document
    return report


async def test_unknown_host_fails_dns(tmp_path: Path) -> None:
    """A note names the proxy variable that is set but not used."""
    report = await run_chain(tmp_path, "https://provider.invalid/v1", HTTPS_PROXY="http://proxy.invalid:3128")

    assert ("dns", "dns_failed") == (report.failed_step, report["dns"].reason)
    assert "provider.invalid" in report.text("dns")
    assert "set RELAY_UPSTREAM_PROXY=auto to use it" in report.text("dns")


async def test_closed_port_fails_tcp(tmp_path: Path) -> None:
    """A note has the address and the system's error."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    report = await run_chain(tmp_path, f"https://127.0.0.1:{port}/v1")

    assert ("tcp", "connect_refused") == (report.failed_step, report["tcp"].reason)
    assert f"127.0.0.1 port {port}: Connection refused." in report.text("tcp")


async def test_one_reachable_address_of_several_passes_tcp() -> None:
    """A note names the address that is unreachable."""
    async with tcp_server(http_response("200 OK")) as port:
        route = Route(URL(f"http://localhost:{port}"), timeout_seconds=2)
        finding = await network.connect(route, ["127.0.0.2", "127.0.0.1"])

    assert f"127.0.0.1 port {port} accepts connections" == finding.text
    assert ("127.0.0.2 is unreachable (Connection refused); another address is used.",) == tuple(finding.notes)


@pytest.mark.parametrize(
    ("subject", "note"),
    [
        (
            "/C=US/O=Zscaler Inc./CN=Zscaler Intermediate Root CA",
            "Zscaler intercepts TLS on this route. Set SSL_CERT_FILE",
        ),
        ("/O=Netskope Inc/CN=ca.acme.goskope.com", "Netskope intercepts TLS on this route. Set SSL_CERT_FILE"),
        ("/O=Fortinet/OU=Certificate Authority/CN=FG200E", "Fortinet intercepts TLS on this route. Set SSL_CERT_FILE"),
        (
            "/O=Acme/CN=localhost",
            "It is self-signed. Test servers and proxies that intercept TLS use such certificates.",
        ),
    ],
)
async def test_untrusted_certificate_fails_tls_and_names_its_issuer(tmp_path: Path, subject: str, note: str) -> None:
    """A product that intercepts TLS is named, and SSL_CERT_FILE is the remedy."""
    certificate = create_self_signed(tmp_path, subject)
    async with tcp_server(http_response("200 OK"), certificate.server_context()) as port:
        report = await run_chain(tmp_path, f"https://localhost:{port}/v1")

    assert ("tls", "tls_untrusted") == (report.failed_step, report["tls"].reason)
    assert note in report.text("tls")
    assert "SSL_CERT_FILE" in (report["tls"].remedy or "")
    assert "self-signed certificate" in report.text("tls")


@pytest.mark.parametrize("to_relay", [False, True], ids=["provider", "relay"])
async def test_strict_rule_is_not_blamed_on_ssl_cert_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, to_relay: bool
) -> None:
    """The CA is trusted; Python 3.13 refuses it. The doctor names the product that intercepts TLS, and no CA bundle."""
    bundle, server = Chain(ca={"keyUsage": None}, ca_options=("-subj", "/O=Zscaler Inc./CN=Root")).create(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setattr(tls, "tls_context", strict_context)
    async with tcp_server(http_response("200 OK"), server) as port:
        if to_relay:
            report = await run_relay_chain(f"wss://localhost:{port}")
        else:
            report = await run_chain(tmp_path, f"https://localhost:{port}/v1")

    assert ("tls", "tls_untrusted") == (report.failed_step, report["tls"].reason)
    assert "Zscaler intercepts TLS on this route, and its CA is trusted here." in report.text("tls")
    assert "Set SSL_CERT_FILE" not in report.text("tls")
    remedy = report["tls"].remedy or ""
    assert "CA cert does not include key usage extension" in remedy
    assert "issue a CA certificate with the extension keyUsage = critical, keyCertSign, cRLSign." in remedy
    assert "Until then, use Python 3.11 or 3.12, as the image of 'make image' does." in remedy


def strict_context() -> ssl.SSLContext:
    """A context with the default flags of Python 3.13."""
    context = network.tls_context()
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


async def test_https_to_plain_http_port_fails_tls(tmp_path: Path) -> None:
    """A server may answer the TLS handshake with a 400, or not at all."""
    async with Simulator() as simulator, tcp_server(http_response("200 OK")) as silent:
        for port in (URL(simulator.url).port, silent):
            report = await run_chain(tmp_path, f"https://127.0.0.1:{port}/v1", RELAY_DIAL_TIMEOUT_SECONDS="0.3")

            assert ("tls", "tls_failed") == (report.failed_step, report["tls"].reason)
            assert f"Port {port} speaks plain HTTP, not TLS. Use http:// or ws://" in report.text("tls")


async def test_connection_closed_during_tls_handshake_suggests_a_firewall(tmp_path: Path) -> None:
    """Firewalls that filter by server name close the connection after the first message."""

    async def abort(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async with tcp_server(abort) as port:
        report = await run_chain(tmp_path, f"https://127.0.0.1:{port}/v1")

    assert ("tls", "tls_failed") == (report.failed_step, report["tls"].reason)
    assert "Firewalls that filter by server name do this; allow 127.0.0.1 in the firewall." in report.text("tls")


async def test_unanswered_tls_handshake_times_out(tmp_path: Path) -> None:
    """The timeout is RELAY_DIAL_TIMEOUT_SECONDS."""

    async def never_answer(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with tcp_server(never_answer) as port:
        report = await run_chain(tmp_path, f"https://127.0.0.1:{port}/v1", RELAY_DIAL_TIMEOUT_SECONDS="0.3")

    assert ("tls", "connect_timeout") == (report.failed_step, report["tls"].reason)
    assert "the TLS handshake is not answered" in report.text("tls")


def test_trust_store_notes_name_missing_file_and_variables_of_other_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Variables of other programs have no effect on the relay."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing.pem"))
    missing_file = trust_store_notes()
    monkeypatch.delenv("SSL_CERT_FILE")
    for name in ("CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/x")

    assert 1 == len(missing_file)
    assert missing_file[0].startswith("SSL_CERT_FILE names a file that does not exist or is not readable, so no ")
    assert (
        "REQUESTS_CA_BUNDLE is set, but the relay reads SSL_CERT_FILE only. Set SSL_CERT_FILE as well."
        in trust_store_notes()
    )


# -- proxies ----------------------------------------------------------------------------------------------------------


def proxy(status: str, port: int | None = None, host: str = "provider.invalid") -> Serve:
    """A proxy that answers CONNECT with `status`, and forwards every tunnel to `port` on loopback."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(f"CONNECT {host}:443 HTTP/1.1\r\n".encode())
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
        if port is not None:
            await forward_to(port)(reader, writer)

    return serve


@pytest.mark.parametrize(
    ("status", "reason", "detail"),
    [
        ("407 Proxy Authentication Required", "proxy_auth_failed", "the proxy requires valid credentials (407)"),
        ("403 Forbidden", "proxy_failed", "the proxy does not allow this host or port (403)"),
        ("502 Bad Gateway", "proxy_failed", "the proxy cannot reach the provider (502)"),
    ],
)
async def test_proxy_refusal_fails_tunnel_with_its_status(
    tmp_path: Path, status: str, reason: str, detail: str
) -> None:
    """The steps `dns` and `tcp` are about the proxy and pass."""
    async with tcp_server(proxy(status)) as port:
        setting = {"RELAY_UPSTREAM_PROXY": f"{PROXY_URL}:{port}"}
        report = await run_chain(tmp_path, "https://provider.invalid/v1", **setting)

    assert ("tunnel", reason) == (report.failed_step, report["tunnel"].reason)
    assert f"HTTP {status[:3]}" in report.text("tunnel")
    assert f"refused CONNECT provider.invalid:443: {detail}" in report.text("tunnel")
    assert "the proxy 127.0.0.1 is an IP address" in report["dns"].finding


async def test_unreachable_proxy_fails_as_proxy_failed(tmp_path: Path) -> None:
    """Neither its unknown host nor its closed port is attributed to the provider."""
    no_host = await run_chain(tmp_path, "https://provider.invalid/v1", RELAY_UPSTREAM_PROXY="http://proxy.invalid:1")
    no_port = await run_chain(tmp_path, "https://provider.invalid/v1", RELAY_UPSTREAM_PROXY="http://127.0.0.1:1")

    assert ("dns", "proxy_failed") == (no_host.failed_step, no_host["dns"].reason)
    assert ("tcp", "proxy_failed") == (no_port.failed_step, no_port["tcp"].reason)


@asynccontextmanager
async def encrypted_simulator(tmp_path: Path, subject: str) -> AsyncIterator[tuple[int, Mapping[str, str]]]:
    """A simulator behind TLS: its port, and an environment that trusts its certificate."""
    certificate = create_self_signed(tmp_path, subject, "api.openai.com")
    async with (
        Simulator(SimulatorOptions(pace=0)) as simulator,
        tcp_server(forward_to(URL(simulator.url).port or 0), certificate.server_context()) as port,
    ):
        # The simulator accepts a key of unknown shape.
        yield port, {"SSL_CERT_FILE": str(certificate.certificate), "OPENAI_API_KEY": "CANARY-key-of-no-family"}


async def run_command(tmp_path: Path, environ: Mapping[str, str]) -> tuple[int | None, str]:
    """Run the doctor in a process of its own, which reads SSL_CERT_FILE; returns exit code and output."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "doctor",
        cwd=tmp_path,
        env=environment(**(NO_RUNNING_RELAY | dict(environ))),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await within(process.communicate(), 20)
    return process.returncode, output.decode()


async def test_trusted_certificate_of_intercepting_proxy_warns(tmp_path: Path) -> None:
    """All steps pass over TLS, and the product is named."""
    async with encrypted_simulator(tmp_path, "/O=Palo Alto Networks/CN=GlobalProtect CA") as (port, environ):
        code, output = await run_command(tmp_path, {**environ, "OPENAI_BASE_URL": f"https://localhost:{port}/v1"})

    assert 0 == code, output
    assert "TLSv1.3, trusted, issued by Palo Alto Networks, GlobalProtect CA, expires in 29 days" in output
    assert "Palo Alto Networks intercepts TLS on this route and can read all traffic" in output
    assert output.endswith("All steps passed: connected, session ready. Warnings: tls.\n")
    assert "CANARY" not in output


async def test_all_steps_pass_through_a_proxy(tmp_path: Path) -> None:
    """The target is OpenAI. A run without a failure has no use for advice, outdated or not."""
    async with (
        encrypted_simulator(tmp_path, "/O=Acme/CN=localhost") as (port, environ),
        tcp_server(proxy("200 OK", port, "api.openai.com")) as proxy_port,
    ):
        proxied = {"RELAY_UPSTREAM_PROXY": f"{PROXY_URL}:{proxy_port}", "OPENAI_API_KEY": KEY_CANARY}
        code, output = await run_command(tmp_path, {**environ, **proxied})

    assert 0 == code, output
    assert "openai at https://api.openai.com/v1" in output
    assert "tunnel       the proxy opened a tunnel to api.openai.com port 443" in output
    assert "session ready: session.created" in output
    assert "outdated advice" not in output
    assert "CANARY" not in output


async def test_rejected_key_contradicts_outdated_advice(tmp_path: Path) -> None:
    """Some guides demand 51 characters or a key that is not a project key."""
    async with (
        encrypted_simulator(tmp_path, "/O=Acme/CN=localhost") as (port, environ),
        tcp_server(proxy("200 OK", port, "api.openai.com")) as proxy_port,
    ):
        proxied = {"RELAY_UPSTREAM_PROXY": f"{PROXY_URL}:{proxy_port}", "OPENAI_API_KEY": "sk-sim-key-rejected"}
        code, output = await run_command(tmp_path, {**environ, **proxied})

    assert 1 == code, output
    assert "key_rejected" in output
    assert "Ignore outdated advice: a key need not have 51 characters" in output


async def test_loopback_address_that_answers_is_named() -> None:
    """A name that resolves to ::1 only, while the server listens on 127.0.0.1 (websockets/ws#2078)."""
    async with tcp_server(http_response("200 OK", "{}")) as port:
        route = Route(URL(f"http://localhost:{port}"), 1.0)
        with pytest.raises(StepFailed) as caught:
            await network.connect(route, ["::1"])

    assert any(f"127.0.0.1 port {port} answers" in note for note in caught.value.notes)


async def test_name_that_a_filter_answers_fails_dns_as_filtered(tmp_path: Path) -> None:
    """AdguardTeam/AdGuardDNS#60: a blocked name resolves to 0.0.0.0."""
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("0.0.0.0", 443))]
    with patch.object(socket, "getaddrinfo", lambda *_args, **_options: answer):
        report = await run_chain(tmp_path, "https://provider.invalid/v1")

    assert ("dns", "dns_filtered") == (report.failed_step, report["dns"].reason)
    assert "provider.invalid resolves to 0.0.0.0" in report.text("dns")
