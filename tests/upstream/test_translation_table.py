"""The translation table: refusals from public reports, and what holds for any input."""

import json
import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.alerts import CALLERS_ALERTS
from service.failures import DIAL_FAILURES, Failure
from service.failures.translation import NETWORK_ERRORS, RULES, Responder
from service.realtime.events import ErrorEvent, parse_error
from service.upstream import translate
from service.upstream.answer import describe_response, parse_refusal

HTML = {"Content-Type": "text/html; charset=UTF-8"}
JSON = {"Content-Type": "application/json"}
FACTS = {"path": "/v1/realtime", "host": "h", "base_url_from": ".env", "base_form": "F", "path_advice": ""}
KEY_CODES = {code for rule in RULES if rule.reason.startswith("key_") for code in rule.code}


def error(code: str | None, message: str = "", error_type: str = "invalid_request_error") -> bytes:
    """The provider's error object."""
    return json.dumps({"error": {"message": message, "type": error_type, "code": code, "param": None}}).encode()


def refuse(status: int, headers: Mapping[str, str], body: bytes, *, is_call: bool = False) -> Failure:
    """The translation of an HTTP response."""
    return translate.from_status(status, None, headers, is_call=is_call, body=body, facts=FACTS)


# Reports: repository and number, status, headers, body, reason.
REPORTS: list[tuple[str, int, Mapping[str, str], bytes, str]] = [
    ("agent-ecosystem/skill-validator#70", 401, JSON, error("incorrect_hostname", "us.api.openai.com"), "wrong_host"),
    ("OpenHands/OpenHands#2562", 401, JSON, error("no_organization"), "account_refused"),
    ("abi/screenshot-to-code#9", 401, JSON, error(None, "You must be a member of an organization"), "account_refused"),
    ("Aider-AI/aider#3717", 400, JSON, error(None, "no such organization : null"), "account_refused"),
    ("openai/codex#1000", 401, JSON, error("mismatched_organization"), "key_forbidden"),
    ("openai/codex#29405", 401, JSON, error("no_matching_rule", "", "rejected_by_access_enforcement"), "key_forbidden"),
    ("realtime-api 2.8", 401, JSON, error("ip_not_authorized"), "network_not_allowed"),
    ("BerriAI/litellm#2743", 429, JSON, error("billing_not_active", "", "billing_not_active"), "quota_exhausted"),
    ("NextChat#3296", 403, HTML | {"Server": "cloudflare"}, b"<title>Attention Required! | Cloudflare</title>",
     "blocked_before_api"),
    ("ai-genie/chatgpt-vscode#136", 403, HTML | {"CF-RAY": "1-FRA"}, b"<!DOCTYPE html>", "blocked_before_api"),
    ("justcoding121/titanium-web-proxy#967", 403, {"CF-RAY": "7e0e817a49582e11-BOM", "Server": "cloudflare"}, b"",
     "blocked_before_api"),
    ("AgnesAI-Labs/AgnesAI-Models#119", 403, HTML | {"Server": "cloudflare"}, b"error code: 1006", "blocked_before_api"),
    ("OpenHands/OpenHands#4480", 503, HTML | {"Server": "cloudflare"}, b"<title>Just a moment...</title>",
     "blocked_before_api"),
    ("Cloudflare 1015", 429, HTML | {"Server": "cloudflare"}, b"error code: 1015", "limited_before_api"),
    ("microsoft/vscode-copilot-release#2258", 403, HTML, b'<html><img src="https://login.zscloud.net:443/x"/>',
     "blocked_before_api"),
    ("anomalyco/opencode#203", 403, HTML | {"Server": "xxxxxxxx-xxxxx"}, b"<title>FortiGuard</title>",
     "blocked_before_api"),
    ("squid", 503, HTML | {"X-Squid-Error": "ERR_CONNECT_FAIL 111"}, b"<html>", "proxy_failed"),
    ("gpustack/gpustack#5944", 403, {"Server": "uvicorn"}, b"", "blocked_before_api"),
    ("nginx without a key", 401, HTML | {"Server": "nginx/1.25.3"}, b"<html>401</html>", "blocked_before_api"),
    ("TabularEditor/TabularEditor3#1557", 403, JSON,
     b'{"error":{"code":"403","message":"Public access is disabled. Please configure private endpoint."}}',
     "network_not_allowed"),
    ("continuedev/continue#12547", 403, JSON, b'{"code":"403","message":"A Virtual Network is configured"}',
     "network_not_allowed"),
    ("Azure, key of another resource", 401, JSON,
     b'{"statusCode":401,"message":"Access denied due to invalid subscription key or wrong API endpoint."}',
     "key_rejected"),
    ("Azure, key access disabled", 403, JSON,
     b'{"error":{"code":"AuthenticationTypeDisabled","message":"Key based authentication is disabled"}}',
     "key_forbidden"),
    ("Azure, wrong version", 400, JSON, b'{"error":{"code":"BadRequest","message":"API version not supported"}}',
     "request_rejected"),
    ("Azure, no model", 400, JSON, b'{"code":"OperationNotSupported","message":"m"}', "request_rejected"),
    ("Azure, wrong path", 404, JSON, b'{"error":{"code":"404","message":"Resource not found"}}', "wrong_base_url"),
    ("Azure, no deployment", 404, JSON,
     b'{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}',
     "model_not_found"),
    ("OpenAI, invalid URL", 404, JSON, error(None, "Invalid URL (GET /realtime)"), "wrong_base_url"),
    ("earendil-works/pi#956", 404, {"Content-Type": "text/plain"}, b"404 page not found", "wrong_base_url"),
    ("FastAPI", 404, JSON | {"Server": "uvicorn"}, b'{"detail":"Not Found"}', "wrong_base_url"),
    ("AWS API Gateway", 403, JSON, b'{"message":"Forbidden"}', "blocked_before_api"),
    ("one-api", 403, JSON, error("insufficient_user_quota", "", "one_api_error"), "quota_exhausted"),
    ("Squid that intercepts TLS", 401, JSON | {"Via": "1.1 proxy (squid/5.7)"}, error("invalid_api_key"), "key_rejected"),
    ("Squid, its own page", 403, JSON | {"X-Squid-Error": "ERR_ACCESS_DENIED 0"}, error("invalid_api_key"),
     "blocked_before_api"),
    ("an archived project", 401, JSON, error(None, "The project you are requesting has been archived"),
     "account_refused"),
    ("a model of another project", 403, JSON, error(None, "Project `p` does not have access to model `m`"),
     "model_not_found"),
    ("Cloudflare, JSON error", 403, JSON | {"Server": "cloudflare", "CF-RAY": "1-X"},
     b'{"cloudflare_error":true,"error_code":1020,"code":1020,"message":"Access denied"}', "blocked_before_api"),
    ("a code of tomorrow", 401, JSON, error("identity_proof_required"), "account_refused"),
    ("a code of tomorrow at 400", 400, JSON, error("shape_of_tomorrow"), "request_rejected"),
    ("a message that is not UTF-8", 401, JSON,
     b'{"error":{"code":"invalid_api_key","message":"Cl\xe9 refus\xe9e"}}', "key_rejected"),
    ("a captive portal", 511, HTML, b"<html>Sign in to the network</html>", "blocked_before_api"),
    ("openai/openai-realtime-console#562", 404, {"x-openai-proxy-wasm": "v0.1", "CF-RAY": "1-X"}, b"", "wrong_base_url"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason"), [row[1:] for row in REPORTS], ids=[row[0] for row in REPORTS]
)
def test_refusal_from_a_report_maps_to_reason(
    status: int, headers: Mapping[str, str], body: bytes, reason: str
) -> None:
    """The server that answered is considered before the status."""
    if "x-openai-proxy-wasm" in headers:
        assert refuse(status, headers, body, is_call=True).reason == "call_not_found"
        return
    assert reason == refuse(status, headers, body).reason


@pytest.mark.parametrize(
    ("code", "close_code", "reason"),
    [
        ("incorrect_hostname", 3000, "wrong_host"),
        ("no_organization", 3000, "account_refused"),
        ("billing_not_active", 1013, "quota_exhausted"),
        ("identity_proof_required", 3000, "account_refused"),
        ("invalid_api_key", 3000, "key_rejected"),
        ("server_error", 1011, "upstream_error"),
    ],
)
@pytest.mark.parametrize("has_event", [True, False])
def test_refusal_after_the_101_maps_to_the_same_reason(
    code: str, close_code: int, reason: str, *, has_event: bool
) -> None:
    """By the error event, and by the close reason alone."""
    event = ErrorEvent("invalid_request_error", code, "") if has_event else None
    failure = translate.from_events(event, close_code, f"invalid_request_error.{code}")

    assert (reason, code) == (failure.reason, failure.upstream_code)


def test_regional_host_is_named_in_the_remedy() -> None:
    """The host in the message is a closed shape; any other text of the message is not used."""
    message = "incorrect regional hostname. Please make your request to us.api.openai.com CANARY"
    failure = refuse(401, JSON, error("incorrect_hostname", message))

    assert "https://us.api.openai.com/v1" in failure.remedy
    assert "CANARY" not in repr(failure)


def test_evidence_of_an_edge_is_kept() -> None:
    """The ray id, the path and the source of OPENAI_BASE_URL."""
    failure = refuse(403, HTML | {"CF-RAY": "0-X", "Server": "cloudflare"}, b"<title>Attention Required!</title>")

    assert {"ray_id": "0-X", "path": "/v1/realtime", "base_url_from": ".env", "server": "Cloudflare"}.items() <= (
        failure.evidence.items()
    )
    assert "0-X" in failure.remedy


@pytest.mark.parametrize(
    ("code", "kept"),
    [
        ("shape_of_tomorrow", "shape_of_tomorrow"),
        ("DeploymentNotFound", "DeploymentNotFound"),
        ("403", "403"),
        ("sk-proj-abcdefghijkl", None),
        ("Incorrect API key provided: sk-abc", None),
        ("a" * 65, None),
        ("x\r\ny", None),
    ],
)
def test_unknown_code_is_kept_if_it_has_the_shape_of_a_code(code: str, kept: str | None) -> None:
    """Free text and keys are not."""
    assert kept == refuse(400, JSON, error(code)).upstream_code


WORDS = st.sampled_from([
    "Incorrect API key", "virtual network", "us.api.openai.com", "{host}", "%s", "invalid_api_key", "401", "Missing scopes",
])  # fmt: skip
TEXTS = st.text(max_size=40) | WORDS
BODIES = (
    st.binary(max_size=80)
    | st.builds(error, st.none() | TEXTS, TEXTS, TEXTS)
    | st.builds(lambda code, text: json.dumps({"code": code, "message": text}).encode(), TEXTS | st.integers(), TEXTS)
    | st.builds(
        lambda value: json.dumps({"error": value}).encode(), TEXTS | st.integers() | st.lists(TEXTS, max_size=2)
    )
    | st.just(b'{"error":{"code":' + b"9" * 5000 + b"}}")
)
HEADERS = st.dictionaries(
    st.sampled_from(["Server", "CF-RAY", "cf-mitigated", "Via", "X-Squid-Error", "Content-Type", "x-request-id",
                     "Retry-After", "Proxy-Authenticate", "openai-version"]),
    TEXTS | st.sampled_from(["cloudflare", "squid", "text/html", "uvicorn", "challenge"]), max_size=5,
)  # fmt: skip


@given(status=st.integers(100, 999), headers=HEADERS, body=BODIES, is_call=st.booleans())
def test_no_response_raises_blames_the_key_or_leaves_the_closed_sets(
    status: int, headers: dict[str, str], body: bytes, *, is_call: bool
) -> None:
    """A reason that blames the key needs an error object of the API that says so by code, sentence, 401 or 403."""
    failure = refuse(status, headers, body, is_call=is_call)

    assert failure.reason in DIAL_FAILURES
    assert re.fullmatch(r"[A-Za-z0-9_]{1,80}", failure.upstream_code or "none")
    assert all(len(value) <= 120 for value in failure.evidence.values())
    assert failure.evidence.keys() <= translate.EVIDENCE
    if failure.reason.startswith("key_"):
        found = parse_refusal(body)
        answer = describe_response(status, headers, body, found, is_call=is_call)
        assert answer.by is Responder.API
        assert found is not None or status in {401, 403}


@given(body=BODIES, close_code=st.none() | st.integers(0, 70_000), text=TEXTS)
def test_no_event_raises_or_leaves_the_closed_sets(body: bytes, close_code: int | None, text: str) -> None:
    """A reason that blames the key needs the API's error object, or close code 3000."""
    found = parse_error(body)
    failure = translate.from_events(found, close_code, text)

    assert failure.reason in DIAL_FAILURES
    if failure.reason.startswith("key_"):
        assert found is not None or close_code == 3000 or KEY_CODES & set(re.split(r"\W", text.lower()))


def test_every_reason_of_the_translation_is_a_dial_failure_with_an_alert() -> None:
    """A failing handshake alerts for each of them, or an alert of its own does."""
    reasons = {rule.reason for rule in RULES} | NETWORK_ERRORS.keys()
    alerted = {
        reason for alert in CALLERS_ALERTS if alert.severity == "critical" for reason in getattr(alert, "reasons", ())
    }

    assert reasons <= DIAL_FAILURES.keys()
    assert reasons <= alerted


def test_every_dial_failure_has_a_cause_in_the_reference() -> None:
    """The relay itself decides `key_malformed` and `client_left`, and what becomes of its own `session.update`."""
    reasons = {rule.reason for rule in RULES} | NETWORK_ERRORS.keys()

    assert {"key_malformed", "client_left", "policy_rejected", "session_rejected"} == DIAL_FAILURES.keys() - reasons


@pytest.mark.parametrize(
    ("challenges", "expected"),
    [
        (["Negotiate", "NTLM"], "Negotiate and NTLM"),
        (["Negotiate, NTLM"], "Negotiate and NTLM"),
        (['Digest realm="x", qop="auth"'], "Digest"),
        (["NTLM TlRMTVNT"], "NTLM"),
        (['Basic realm="x"'], None),
        (["NTLM", 'Basic realm="x"'], None),
        ([], None),
    ],
)
def test_proxy_that_does_not_speak_basic_is_named(challenges: list[str], expected: str | None) -> None:
    """microsoft/vscode#13302; with Basic among the schemes, the credentials are wrong."""
    failure = translate.from_proxy_status(407, challenges)

    assert failure.reason == "proxy_auth_failed"
    if expected is None:
        assert failure.hint is None
    else:
        assert f"asks for {expected};" in failure.remedy
