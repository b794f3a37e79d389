"""FAILURE_SETUPS: for each reason of the catalogue, a relay whose next connection fails with it, over real sockets."""

import time
from collections.abc import Mapping
from typing import Final

from tests.failure_surfaces.failing_relays import (
    PATH,
    TOKEN,
    FailureSetup,
    changed_on_route,
    client_at_budget,
    client_in_reconnect_loop,
    client_of_file,
    client_secret,
    closed_port,
    draining_relay,
    error_body,
    filtered_name,
    other_server,
    provider_at,
    provider_scenario,
    refusal,
    refused_request,
    refusing_proxy,
    relay_at_limit,
    user_of_provider,
)
from tests.support.certificates import untrusted_server_context
from tests.support.jwt_issuer import claims, sign
from tools.ports import free_port

SSH: Final = b"SSH-2.0-OpenSSH_9.2\r\n"
FAILURE_SETUPS: Final[Mapping[str, FailureSetup]] = {
    "token_missing": refused_request(RELAY_ACCESS="tokens", RELAY_CLIENT_TOKENS=TOKEN),
    "token_invalid": refused_request(PATH, {"api-key": "wrong"}, RELAY_ACCESS="tokens", RELAY_CLIENT_TOKENS=TOKEN),
    "token_expired": user_of_provider(lambda: sign(claims(exp=1))),
    "token_not_yet_valid": user_of_provider(lambda: sign(claims(nbf=time.time() + 3600))),
    "secret_used": client_secret(is_used=True),
    "secret_expired": client_secret(seconds_later=60),
    "session_rejected": client_secret({"audio": {"output": {"speed": 9}}}),
    "jwks_unavailable": user_of_provider(sign, is_down=True),
    "client_disabled": client_of_file("enabled = false"),
    "api_refused": client_of_file(
        'apis = ["live"]',
        "Use an API that the operator allows for this client: live. Operator: to allow this one, add realtime to apis of "
        "[clients.kiosk] in RELAY_CLIENTS_FILE.",
    ),
    "policy_unsupported": client_of_file(
        'policy = "p"\n[policies.p]',
        "Connect to /v1/realtime with ?model=<name>. A client with a policy has no transcription session, no translation, no "
        "sideband of a call, and no GPT-Live. Operator: the policy is policy of [clients.kiosk] in RELAY_CLIENTS_FILE.",
        "/v1/realtime?intent=transcription",
    ),
    "policy_rejected": client_of_file(
        'policy = "p"\n[policies.p]\nturn_detection = { type = "server_vad", threshold = 7 }'
    ),
    "origin_refused": refused_request(
        PATH,
        {"Origin": "https://evil.example"},
        "Add https://evil.example to RELAY_ALLOWED_ORIGINS and restart the relay. The list replaces the default, which "
        "allows pages served from loopback. An app that is not a web page can send its client token in the header "
        "'Authorization' or 'api-key': with RELAY_ACCESS=tokens the relay then does not check the origin.",
    ),
    "host_refused": refused_request(PATH, {"Host": "rebinding.example"}),
    "bad_request": refused_request(
        PATH + "&model=twice", None, "Send each of model, intent, call_id and deployment at most once."
    ),
    "model_refused": refused_request(RELAY_ALLOWED_MODELS="another"),
    "model_missing": refused_request("/v1/realtime"),
    "live_disabled": refused_request("/v1/live/sessions", RELAY_LIVE="off"),
    "not_a_websocket": refused_request(PATH, {"Upgrade": ""}),
    "path_not_found": refused_request("/nowhere"),
    "method_not_allowed": changed_on_route(lambda first: first.replace(b"GET", b"PUT")),
    "headers_too_large": refused_request(PATH, {"Cookie": "c=" + "x" * 70_000}),
    "proxy_protocol": changed_on_route(lambda first: b"PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\n" + first),
    "http_version_refused": changed_on_route(lambda first: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + first),
    "tls_refused": changed_on_route(lambda first: b"\x16\x03\x01\x02\x00\x01" + first),
    "too_many_sessions": lambda: relay_at_limit(RELAY_MAX_SESSIONS_PER_CLIENT="1"),
    "too_many_connects": client_in_reconnect_loop,
    "budget_exhausted": client_at_budget,
    "relay_full": lambda: relay_at_limit(RELAY_MAX_SESSIONS="1"),
    "store_unavailable": refused_request(
        RELAY_STORE_URL=f"redis://:CANARY2store@127.0.0.1:{free_port()}", RELAY_STORE_FAILURE="closed"
    ),
    "relay_draining": draining_relay,
    "key_missing": refused_request(OPENAI_API_KEY=""),
    "key_malformed": refused_request(OPENAI_API_KEY='"sk-sim-good-CANARY0key123456"'),
    "key_rejected": provider_scenario("key-rejected"),
    "key_forbidden": provider_scenario("key-forbidden"),
    "region_blocked": provider_scenario("http-403-geo"),
    "quota_exhausted": provider_scenario("quota-exhausted"),
    "beta_shape": provider_scenario("beta-shape"),
    "model_not_found": provider_scenario("model-not-found"),
    "call_not_found": provider_scenario("http-404", "/v1/realtime?call_id=rtc_1"),
    "rate_limited": provider_scenario("http-429"),
    "upstream_overloaded": provider_scenario("http-503"),
    "upstream_error": provider_scenario("http-500"),
    "dns_failed": provider_at("https://relay-test.invalid/v1"),
    "connect_refused": closed_port,
    # The broadcast address is not valid for TCP: the kernel reports immediately that the network is unreachable.
    "network_unreachable": provider_at("https://255.255.255.255/v1"),
    "dns_filtered": filtered_name,
    "proxy_failed": refusing_proxy(b"403 Forbidden"),
    "proxy_auth_failed": refusing_proxy(
        b"407 Proxy Authentication Required", b"Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n"
    ),
    "account_refused": refusal("401 Unauthorized", error_body("no_organization")),
    "wrong_host": refusal("401 Unauthorized", error_body("incorrect_hostname", "Use us.api.openai.com")),
    "network_not_allowed": refusal("403 Forbidden", b'{"code":"403","message":"A Virtual Network is configured"}'),
    "request_rejected": refusal("400 Bad Request", error_body("BadRequest", "API version not supported")),
    "blocked_before_api": refusal(
        "403 Forbidden", b"<title>Attention Required! | Cloudflare</title>", Server="cloudflare", CF_RAY="0-X"
    ),
    "limited_before_api": refusal("429 Too Many Requests", b"<html>slow down</html>", Server="nginx"),
    "wrong_base_url": refusal("404 Not Found", b"404 page not found", Content_Type="text/plain"),
    "bad_reply": other_server(SSH),
    "redirect_refused": provider_scenario("redirect"),
    "dropped_early": provider_scenario("drop"),
    "tls_failed": other_server(SSH, scheme="https"),
    "tls_untrusted": other_server(SSH, scheme="https", tls=untrusted_server_context),
    "connect_timeout": other_server(None, scheme="https"),
    "reply_timeout": provider_scenario("hang-before-101"),
    "first_event_timeout": provider_scenario("hang"),
}
"""`client_left` and the endings depend on the client: see test_surfaces.py and tests/relay."""
