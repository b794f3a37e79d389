"""Certificates of a trusted CA that OpenSSL refuses, strictly (as Python 3.13 does by default) or always."""

import asyncio
import dataclasses
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.doctor import network
from service.upstream.proxy import HttpProxy
from tests.support.certificates import Chain
from tests.support.doctor_chain import KEY_CANARY, run_provider_chain
from tests.support.harness import running_relay
from tests.support.invariants import assert_no_leaks
from tests.support.raw_http_relay import connect_once, failure_count
from tests.support.raw_http_server import Exchange, raw_http
from tests.support.raw_websocket_server import CREATED
from tests.support.tcp_server import listening

_OTHER_KEY = "DER:30:16:80:14:" + ":".join(["01"] * 20)
STRICT = {
    "ca-without-key-usage": (Chain(ca={"keyUsage": None}), 92, "keyUsage = critical, keyCertSign"),
    "leaf-without-authority-key": (Chain(leaf={"authorityKeyIdentifier": "none"}), 85, "authorityKeyIdentifier"),
    "both-as-reported": (
        Chain(ca={"keyUsage": None}, leaf={"authorityKeyIdentifier": "none"}), 85, "authorityKeyIdentifier"
    ),
    "ca-constraints-not-critical": (Chain(ca={"basicConstraints": "CA:TRUE"}), 89, "basicConstraints = critical"),
    "ca-without-subject-key": (
        Chain(ca={"subjectKeyIdentifier": "none"}, leaf={"authorityKeyIdentifier": _OTHER_KEY}), 86, "subjectKeyIdentifier"
    ),
    "leaf-that-may-sign": (Chain(leaf={"keyUsage": "digitalSignature,keyCertSign"}), 82, "without keyCertSign"),
    "leaf-with-path-length": (Chain(leaf={"basicConstraints": "CA:FALSE,pathlen:0"}), 80, "without a path length"),
    "empty-alternative-name": (Chain(leaf={"subjectAltName": "DER:30:00"}), 87, "subjectAltName is not empty"),
    "no-subject": (Chain(leaf_options=("-subj", "/")), 88, "a critical subjectAltName"),
}  # fmt: skip
ALWAYS = {
    "ca-without-constraints": (Chain(ca={"basicConstraints": "CA:FALSE"}), 79, "CA:TRUE"),
    "client-certificate": (Chain(leaf={"extendedKeyUsage": "clientAuth"}), 26, "serverAuth"),
    "name-not-permitted": (
        Chain(ca={"nameConstraints": "critical,permitted;IP:10.0.0.0/255.0.0.0"}),
        47,
        "permit that name",
    ),
    "name-excluded": (Chain(ca={"nameConstraints": "critical,excluded;IP:127.0.0.0/255.0.0.0"}), 48, "do not exclude"),
    "unknown-critical-extension": (Chain(leaf={"1.2.3.4": "critical,DER:05:00"}), 34, "OpenSSL knows"),
    "critical-authority-key": (
        Chain(leaf={"authorityKeyIdentifier": "critical," + _OTHER_KEY}, ca={"subjectKeyIdentifier": "none"}),
        34,
        "subjectKeyIdentifier not critical",
    ),
    "critical-subject-key": (
        Chain(leaf={"subjectKeyIdentifier": "critical,hash"}),
        34,
        "subjectKeyIdentifier not critical",
    ),
    "short-key": (Chain(leaf_options=("-newkey", "rsa:1024")), 66, "2048 bits"),
    "short-key-of-the-ca": (Chain(ca_options=("-newkey", "rsa:1024")), 67, "2048 bits"),
    "signed-with-sha-1": (Chain(leaf_options=("-sha1",)), 68, "SHA-256"),
    "curve-without-name": (
        Chain(
            ca_options=(
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
                *("-pkeyopt", "ec_param_enc:explicit"),
            )
        ),
        94,
        "names its curve",
    ),
}


async def accept_session(exchange: Exchange) -> None:
    """Open a session and wait for its end."""
    exchange.upgrade(CREATED)
    await exchange.wait_closed()


@pytest.mark.parametrize(("chain", "code", "right"), [*STRICT.values(), *ALWAYS.values()], ids=[*STRICT, *ALWAYS])
async def test_broken_rule_is_named_with_the_party_that_can_correct_it(
    chain: Chain, code: int, right: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SSL_CERT_FILE is set and right. Body, log and health say the same; only strict rules have an older Python as remedy."""
    bundle, server = chain.create(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    use_context(monkeypatch, bundle, ssl.VERIFY_X509_STRICT)
    async with (
        assert_no_leaks(),
        raw_http(accept_session, tls=server) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        await relay.app.monitor.wait_for_first_refresh(30)
        answer = await connect_once(relay)
        line = relay.events("upstream.connect_failed")[0]
        health = await detailed_health(relay.internal_url)

        assert (502, "tls_untrusted") == (answer.status, answer.error["code"])
        assert 0 == upstream.requests
        assert 1 == failure_count(relay, "tls_untrusted", "none", "connect")

    assert str(code) == line["verify_code"]
    for remedy in (answer.error["remedy"], line["remedy"], health["output"]):
        assert "SSL_CERT_FILE is not the cause: the CA is found, but" in remedy
        assert line["detail"] in remedy
        assert right in remedy
        assert "administrator of that CA" in remedy
        assert ("Python 3.13 and later enforce" in remedy) == (code in {row[1] for row in STRICT.values()})
    assert str(code) == health["evidence"]["verify_code"]


@pytest.mark.parametrize("name", sorted(STRICT.keys() - {"empty-alternative-name"}))  # which fits no host
async def test_strict_rules_alone_do_not_refuse(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter-check: Python 3.11 and 3.12 accept the same certificates, as the remedy says."""
    bundle, server = STRICT[name][0].create(tmp_path)
    use_context(monkeypatch, bundle, ssl.VerifyFlags(0))
    async with (
        raw_http(accept_session, tls=server) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        assert 101 == (await connect_once(relay)).status


def use_context(monkeypatch: pytest.MonkeyPatch, bundle: Path, flags: ssl.VerifyFlags) -> None:
    """Let the relay verify with these flags, whatever the defaults of this Python."""
    from aiohttp import connector  # noqa: PLC0415 - internal, for this test only

    context = ssl.create_default_context(cafile=str(bundle))
    context.verify_flags = context.verify_flags & ~ssl.VERIFY_X509_STRICT | flags
    monkeypatch.setattr(connector, "_SSL_CONTEXT_VERIFIED", context)


async def detailed_health(internal_url: str) -> dict[str, Any]:
    """The handshake check of `/healthz?verbose`."""
    async with aiohttp.ClientSession() as session, session.get(f"{internal_url}/healthz?verbose") as reply:
        return dict((await reply.json(content_type=None))["checks"]["upstream:handshake"][0])


@pytest.mark.parametrize("is_trusted", [False, True])
async def test_refused_certificate_of_the_proxy_is_not_the_providers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_trusted: bool
) -> None:
    """Neither OPENAI_BASE_URL nor the provider's certificate is named; relay and doctor agree."""
    bundle, server = Chain(ca={"keyUsage": None}).create(tmp_path)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if is_trusted:
        use_context(monkeypatch, bundle, ssl.VERIFY_X509_STRICT)
    part = "keyUsage = critical" if is_trusted else "the CA of the proxy in RELAY_UPSTREAM_PROXY"
    async with raw_http(accept_session, tls=server) as proxy:
        failure, doctor = await dial_and_diagnose(f"https://127.0.0.1:{proxy.port}", monkeypatch, tmp_path)

    assert "the certificate of the proxy is not trusted: " in failure["detail"]
    assert part in failure["remedy"]
    for text in (failure["remedy"], doctor):
        assert "OPENAI_BASE_URL" not in text
        assert part in text


async def test_https_proxy_that_speaks_plain_http_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most frequent mistake in `https_proxy`."""

    async def refuse(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with listening(refuse) as port:
        failure, doctor = await dial_and_diagnose(f"https://127.0.0.1:{port}", monkeypatch, tmp_path)

    assert "the TLS handshake with the proxy failed" == failure["detail"]
    for text in (failure["remedy"], doctor):
        assert "Write http:// in place of https:// in RELAY_UPSTREAM_PROXY" in text


async def dial_and_diagnose(url: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    """The log line of a dial through this proxy, which fails, and what the doctor says about the same way."""
    proxy = HttpProxy(url, "RELAY_UPSTREAM_PROXY")
    async with running_relay(
        OPENAI_BASE_URL="https://provider.invalid/v1",
        adjust=lambda settings: dataclasses.replace(settings, proxy=proxy),
    ) as relay:
        await relay.app.monitor.wait_for_first_refresh(30)
        answer = await connect_once(relay)
        line = relay.events("upstream.connect_failed")[0]

        assert (502, "proxy_failed") == (answer.status, answer.error["code"])
        assert answer.error["remedy"] == line["remedy"]

    from aiohttp import connector  # noqa: PLC0415 - internal, for this test only

    monkeypatch.setattr(network, "tls_context", lambda: connector._SSL_CONTEXT_VERIFIED)
    environ = {
        "OPENAI_BASE_URL": "https://provider.invalid/v1",
        "OPENAI_API_KEY": KEY_CANARY,
        "RELAY_UPSTREAM_PROXY": url,
    }
    report = await run_provider_chain(environ, folder)
    assert ("tunnel", "proxy_failed") == (report.failed_step, report["tunnel"].reason)
    return dict(line), report["tunnel"].remedy or ""
