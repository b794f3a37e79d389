"""Remedies that depend on target, settings and environment."""

import os
import re
from pathlib import Path

import pytest

from service.failures import DIAL_FAILURES, Failure, Phase
from service.realtime.keys import Secret
from service.upstream import hints, translate
from service.upstream.proxy import HttpProxy
from service.upstream.target import Target

OPENAI = Target("https://api.openai.com/v1", Secret("k"))
AZURE = Target("https://res.openai.azure.com/openai/v1", Secret("k"), base_url_from=".env")
COMPATIBLE = Target("https://gateway.example/v1", Secret("k"), base_url_from="environment")
TARGETS = [OPENAI, AZURE, COMPATIBLE]


def remedy(failure: Failure, target: Target, **environ: str) -> str:
    """The remedy of a failed dial of a target."""
    hints.add_hint(failure, target, environ)
    return failure.remedy


@pytest.mark.parametrize("reason", sorted(DIAL_FAILURES))
def test_remedy_for_azure_names_no_page_of_openai(reason: str) -> None:
    """Neither the platform's pages nor its status page."""
    text = remedy(Failure(reason), AZURE)

    if reason not in {"wrong_host", "wrong_base_url"}:  # OpenAI's own; its hint is made with the answer
        assert "openai.com" not in text.replace("openai.azure.com", "")


@pytest.mark.parametrize("reason", sorted(DIAL_FAILURES))
def test_remedy_for_other_targets_names_no_status_page_of_openai(reason: str) -> None:
    """A compatible server has none; the client's remedy stays the row's, without the operator's part."""
    for target in (AZURE, COMPATIBLE):
        failure = Failure(reason)

        assert "status.openai" not in remedy(failure, target) + failure.client_remedy
        if target is COMPATIBLE:
            assert "gateway.example" not in failure.client_remedy


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.label)
@pytest.mark.parametrize("reason", sorted(DIAL_FAILURES))
def test_remedy_is_complete(reason: str, target: Target) -> None:
    """No name in braces is left, and the remedy ends with a full stop."""
    text = remedy(Failure(reason), target)

    assert "{" not in text
    assert text.endswith(".")


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.label)
def test_dns_remedy_names_the_host_of_the_target(target: Target) -> None:
    """The command can be copied."""
    assert f"getent hosts {hints.facts_of(target, '')['host']}" in remedy(Failure("dns_failed", Phase.DNS), target)


def untrusted(code: int, detail: str = "the problem") -> Failure:
    """A certificate that OpenSSL refuses with this verification code."""
    return Failure("tls_untrusted", detail=detail, evidence={"verify_code": str(code)})


def test_certificate_remedy_depends_on_ssl_cert_file(tmp_path: Path) -> None:
    """The remedy does not ask for a variable that is already set."""
    bundle = tmp_path / "ca.pem"
    bundle.write_text("")
    for code in (2, 18, 19, 20, 21):
        assert "set SSL_CERT_FILE" in remedy(untrusted(code), OPENAI)
        is_set = remedy(untrusted(code), OPENAI, SSL_CERT_FILE=str(bundle))
        assert ("only an intermediate CA" if code == 2 else "do not include the CA") in is_set
        assert "set SSL_CERT_FILE" not in is_set
        assert "does not exist" in remedy(untrusted(code), OPENAI, SSL_CERT_FILE=str(tmp_path))


def test_certificate_remedy_names_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is raised in place of the dial's failure: `stat` fails where a folder of the path cannot be entered."""
    bundle = str(tmp_path / "ca.pem")

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "stat", refuse)

    assert "is not readable for the relay's user" in remedy(untrusted(20), OPENAI, SSL_CERT_FILE=bundle)


@pytest.mark.parametrize(
    ("code", "part"), [(9, "clock"), (10, "clock"), (62, "a name that the"), (64, "a name that the")]
)
def test_certificate_remedy_fits_the_verification_error(code: int, part: str) -> None:
    """The error decides, whether SSL_CERT_FILE is set or not."""
    assert part in remedy(untrusted(code), OPENAI)
    assert part in remedy(untrusted(code), OPENAI, SSL_CERT_FILE="/nowhere")


@pytest.mark.parametrize("code", [*range(3, 9), *range(11, 18), *range(22, 62), *range(65, 200)])
def test_certificate_remedy_asks_for_no_ca_that_is_found(code: int) -> None:
    """Also with a code that OpenSSL does not know yet, and a message in braces or empty."""
    for detail in ("a {problem}", ""):
        text = remedy(untrusted(code, detail), OPENAI)

        assert text.startswith("SSL_CERT_FILE is not the cause")
        assert "administrator" in text
        assert "{" not in text
        assert ("Python 3.11 or 3.12" in text) == (80 <= code <= 93)  # the strict rules in x509_vfy.h


def test_key_in_the_path_of_the_base_url_is_redacted() -> None:
    """The path is part of remedies, which clients receive."""
    key = "sk-proj-" + "a1B2" * 12

    path = hints.facts_of(COMPATIBLE, f"/{key}/v1/realtime")["path"]

    assert key not in path
    assert "v1/realtime" in hints.facts_of(COMPATIBLE, "/v1/realtime")["path"]


def test_proxy_without_credentials_is_named() -> None:
    """With credentials, the remedy is to correct them."""
    without = Target("https://api.openai.com/v1", proxy=HttpProxy("http://proxy:3128", "https_proxy"))
    with_user = Target("https://api.openai.com/v1", proxy=HttpProxy("http://proxy:3128", "https_proxy", "user"))

    assert "none are set. Set them in https_proxy" in remedy(Failure("proxy_auth_failed"), without)
    assert "Correct user and password" in remedy(Failure("proxy_auth_failed"), with_user)


def test_refused_connection_to_loopback_asks_for_the_server() -> None:
    """Not for firewalls."""
    local = Target("http://127.0.0.1:11434/v1", base_url_from=".env")

    assert "Start the server that OPENAI_BASE_URL (from .env) names" in remedy(Failure("connect_refused"), local)
    assert "firewalls" in remedy(Failure("connect_refused"), OPENAI)


@pytest.mark.parametrize(
    "address", ["https://api.openai.com", "https://gateway.example/openai/", "http://127.0.0.1:8090"]
)
def test_plain_403_at_an_address_without_v1_asks_for_the_path(address: str) -> None:
    """The provider answers it at a path that it does not know, whatever the key; one with a code concerns the key."""
    target = Target(address, Secret("k"), base_url_from=".env")
    text = remedy(Failure("key_forbidden", http_status=403), target)

    assert "Correct OPENAI_BASE_URL (from .env): OpenAI-compatible servers end in /v1" in text
    assert ("It has no path: append /v1" in text) == ("/openai" not in address)
    assert "path" not in remedy(Failure("key_forbidden", http_status=403), OPENAI)
    assert "path" not in remedy(Failure("key_forbidden", http_status=403, upstream_code="missing_scope"), target)


def test_evidence_of_an_event_names_the_source_of_the_address() -> None:
    """As that of an HTTP response does."""
    failure = translate.from_events(None, 3000, "invalid_request_error.incorrect_hostname")
    hints.add_hint(failure, COMPATIBLE, {})

    assert {"answered_by": "api", "base_url_from": "environment"} == failure.evidence


def test_hint_of_the_answer_has_precedence() -> None:
    """It is closer to the cause."""
    assert remedy(Failure("key_rejected", hint="Do this."), AZURE) == "Do this."


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.label)
def test_remedy_for_clients_has_no_address_of_the_operator(target: Target) -> None:
    """The operator's remedy names host, path and source of OPENAI_BASE_URL; a client receives it without them."""
    facts = hints.facts_of(target, "/gateway/CANARY/realtime")
    refusal = translate.from_status(404, None, {}, is_call=False, body=b"no", facts=facts)
    for failure in (refusal, *(Failure(reason, detail="x") for reason in DIAL_FAILURES)):
        hints.add_hint(failure, target, {"SSL_CERT_FILE": "/nowhere"})
        if target is OPENAI:
            assert failure.client_remedy == (failure.hint or failure.row.remedy)
        else:
            assert not re.search(rf"CANARY|{re.escape(facts['host'])}|from \.env", failure.client_remedy)

    assert "CANARY" in refusal.remedy
