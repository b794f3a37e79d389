"""The catalogue: one row for every way a connection fails or a session ends.

Rules of this file:

* Every reason code is defined here. HTTP bodies, error events, close frames, log lines, metric labels, health reports,
  the doctor, alerts and `docs/failures.md` take their text from these rows, so all of them report a cause alike.
* A sentence states what failed; a remedy states what to do, in the imperative. A second text is the operator's action where
  it differs from the client's. All are static: no text from a client
  or from the provider is ever inserted. Where the evidence shows a better action, `Failure.hint` replaces the remedy.
* HTTP 424 (Failed Dependency) marks a cause that only the operator can fix. Official clients retry 408, 429 and 5xx,
  and their sockets retry 1011 and 1013; a definite failure must reach the caller and must not be retried.
* `reason: sentence` fits a close frame (123 bytes, RFC 6455 section 5.5).
"""

from typing import Final

from service.failures.row import Blame, Level, Retry, Row, catalogue_of

_CLIENT, _OPERATOR, _PROVIDER, _NETWORK, _RELAY = (
    Blame.CLIENT,
    Blame.OPERATOR,
    Blame.PROVIDER,
    Blame.NETWORK,
    Blame.RELAY,
)
_NEVER, _NOW, _LATER = Retry.NEVER, Retry.NOW, Retry.LATER
_INFO, _WARNING, _ERROR = Level.INFO, Level.WARNING, Level.ERROR

# fmt: off
ADMISSION_FAILURES: Final = catalogue_of(  # of a request that the relay refuses before it dials
    Row("token_missing", "clients", _CLIENT, 401, None, _NEVER, _INFO,
        "The request carries no client token.",
        "Send one of the relay's client tokens as 'Authorization: Bearer <token>', as 'api-key: <token>', or as the "
        "subprotocol 'openai-insecure-api-key.<token>'. The relay rejects a token in the URL because URLs are logged.",
        "Find the caller by the log field address. If it is your client, give it a token that RELAY_CLIENT_TOKENS lists. "
        "The relay refuses other callers, such as scanners, as intended."),
    Row("token_invalid", "clients", _CLIENT, 401, None, _NEVER, _INFO,
        "The relay does not know this client token.",
        "Use a token that RELAY_CLIENT_TOKENS of the relay lists. Do not send the provider's key; only the relay holds it.",
        "Find the caller by the log field address. If it is your client, compare its token with RELAY_CLIENT_TOKENS, and "
        "restart the relay after a change. The relay refuses other callers, such as scanners, as intended."),
    Row("origin_refused", "clients", _CLIENT, 403, None, _NEVER, _INFO,
        "The relay does not allow pages of this origin.",
        "Add the page's exact origin (scheme, host and port, for example https://app.example.com) to RELAY_ALLOWED_ORIGINS "
        "and restart the relay. An app that is not a web page can send its client token in a header instead."),
    Row("bad_request", "clients", _CLIENT, 400, 4000, _NEVER, _INFO,
        "The request is malformed.",
        "Send a valid WebSocket handshake, each of model, intent and call_id at most once, and at most 16 other query "
        "parameters in a query of at most 2 kB.",
        "Find the client by the log fields client and address; detail names the mistake. Correct that client, or the "
        "proxy in front of the relay if every client fails."),
    Row("model_refused", "model", _CLIENT, 400, 4000, _NEVER, _INFO,
        "The relay does not allow this model.",
        "Request a model that RELAY_ALLOWED_MODELS lists, or add this model to it and restart the relay.",
        "Add the model that the log field model names to RELAY_ALLOWED_MODELS and restart the relay, or correct the "
        "client that requests it."),
    Row("model_missing", "model", _CLIENT, 400, 4000, _NEVER, _INFO,
        "The request names no model.",
        "Add ?model=<name> to the URL, for example ?model=gpt-realtime.",
        "Find the client by the log fields client and address, and add ?model=<name> to its URL. If every client fails, "
        "correct the proxy in front of the relay that drops the query."),
    Row("not_a_websocket", "clients", _CLIENT, 426, None, _NEVER, _INFO,
        "This endpoint accepts WebSocket connections only.",
        "Connect with a WebSocket client (RFC 6455, version 13). If the client is one, configure the proxy in front of the "
        "relay to forward the headers 'Upgrade' and 'Connection'.",
        "Configure the proxy in front of the relay to forward the headers 'Upgrade' and 'Connection'. If only one client "
        "fails, correct that client: the log fields client and address name it."),
    Row("path_not_found", "clients", _CLIENT, 404, None, _NEVER, _INFO,
        "The relay serves nothing at this path.",
        "Connect a WebSocket to /v1/realtime. The relay forwards Realtime WebSockets only, and no other path of the API.",
        "Correct the URL of the client that the log field address names, or the path rule of the proxy in front of the "
        "relay: clients connect to /v1/realtime."),
    Row("method_not_allowed", "clients", _CLIENT, 405, None, _NEVER, _INFO,
        "The relay does not accept this method at this path.",
        "Send GET: a WebSocket handshake to /v1/realtime, or a plain request to /livez, /readyz or /healthz. The relay "
        "forwards no other request of the API.",
        "Correct the client or the load balancer's health check that the log field address names: it has to use GET."),
    Row("headers_too_large", "clients", _CLIENT, 431, None, _NEVER, _WARNING,
        "The head of the request exceeds the relay's limit.",
        "Send at most 64 kB and 128 lines of headers, cookies included. Delete the cookies of the relay's host, or serve the "
        "relay at a host name that has none.",
        "Serve the relay at a host name that has no cookies, and remove headers that the proxy in front of the relay "
        "adds. The limit is 64 kB and 128 lines."),
    Row("proxy_protocol", "clients", _CLIENT, 400, None, _NEVER, _WARNING,
        "The connection starts with a PROXY protocol header.",
        "Switch the PROXY protocol off in the load balancer in front of the relay: haproxy: remove send-proxy and "
        "send-proxy-v2; nginx: 'proxy_protocol off'; AWS: proxy_protocol_v2.enabled=false. To keep client addresses, let "
        "it proxy HTTP, send X-Forwarded-For, and list it in RELAY_TRUSTED_PROXIES."),
    Row("http_version_refused", "clients", _CLIENT, 400, None, _NEVER, _WARNING,
        "The connection starts with HTTP/2, which the relay does not speak.",
        "Use HTTP/1.1 towards the relay. In the proxy in front of it, switch HTTP/2 to the backend off: Cloud Run: "
        "--no-use-http2; haproxy: remove 'proto h2'; Envoy: http_protocol_options; Kubernetes: remove appProtocol h2c."),
    Row("tls_refused", "clients", _CLIENT, 400, None, _NEVER, _WARNING,
        "The connection starts with a TLS handshake; this port speaks plain HTTP.",
        "Use http:// or ws:// with this port, or https:// or wss:// with a proxy or ingress in front of the relay that "
        "terminates TLS. In a proxy, use plain HTTP towards the relay."),
    Row("too_many_sessions", "clients", _CLIENT, 429, None, _LATER, _INFO,
        "This client is at its session limit.",
        "Close a session, or wait for one to end, before you open another. Operator: the limit is "
        "RELAY_MAX_SESSIONS_PER_CLIENT.",
        "Find the client by the log field client. If it needs more sessions at a time, raise "
        "RELAY_MAX_SESSIONS_PER_CLIENT and restart the relay. Otherwise correct the client."),
    Row("too_many_connects", "clients", _CLIENT, 429, None, _LATER, _INFO,
        "This client connects too often.",
        "Keep one session open instead of opening a new one each time. Check the client for a start that runs twice and for "
        "a reconnect loop without a delay. Operator: the limit is RELAY_MAX_RECONNECTS_PER_MINUTE.",
        "Find the client by the log fields client and address, and correct its reconnect loop. If it needs this rate, "
        "raise RELAY_MAX_RECONNECTS_PER_MINUTE and restart the relay."),
    Row("relay_full", "relay", _RELAY, 503, 1013, _LATER, _WARNING,
        "The relay is at its session or dial limit.",
        "Retry in a few seconds. Operator: add a replica, or raise RELAY_MAX_SESSIONS or RELAY_MAX_DIALS.",
        "Add a replica, or raise RELAY_MAX_SESSIONS or RELAY_MAX_DIALS and restart the relay. If the dials are at their "
        "limit, check first whether the provider is slow."),
    Row("relay_draining", "relay", _RELAY, 503, 1001, _LATER, _INFO,
        "This relay instance is shutting down.",
        "Connect again. Another instance, or this one after its restart, accepts the connection.",
        "No action is needed during a rollout. Otherwise check that another instance is ready, and which program sent "
        "SIGTERM to this one."),
)

DIAL_FAILURES: Final = catalogue_of(  # while the relay connects to the provider, up to its first event
    Row("key_missing", "key", _OPERATOR, 424, 3000, _NEVER, _ERROR,
        "The relay has no provider key.",
        "Set OPENAI_API_KEY or OPENAI_API_KEY_FILE in the relay's environment or in .env of its working directory, and "
        "restart the relay. Run 'python -m service doctor' to see where the relay looked for the key."),
    Row("key_malformed", "key", _OPERATOR, 424, 3000, _NEVER, _ERROR,
        "The configured provider key is malformed.",
        "Remove quotes, spaces, line breaks and a leading 'Bearer' from OPENAI_API_KEY, or replace a placeholder or another "
        "vendor's key. Run 'python -m service doctor' to see which problem it is."),
    Row("key_rejected", "key", _OPERATOR, 424, 3000, _NEVER, _ERROR,
        "The provider rejected the relay's key.",
        "Compare the key's fingerprint in the log event key.found with the key that you intended. If that key was revoked, "
        "create one at https://platform.openai.com/api-keys. Write it to the file that OPENAI_API_KEY_FILE names (no "
        "restart needed), or set OPENAI_API_KEY and restart the relay."),
    Row("key_forbidden", "key", _OPERATOR, 424, 3000, _NEVER, _ERROR,
        "The provider knows the relay's key but denies it access.",
        "Grant the key the Realtime permission if it is restricted. Check its project (OPENAI_PROJECT_ID), organization "
        "(OPENAI_ORG_ID) and role, and the IP allow-list at the provider."),
    Row("account_refused", "account", _OPERATOR, 424, 1008, _NEVER, _ERROR,
        "The provider refuses access to the account, organization or project.",
        "Check upstream_code. Check that the key's user belongs to an organization, that OPENAI_ORG_ID and OPENAI_PROJECT_ID "
        "name it, and that the account is not deactivated. A new key of the same account does not help."),
    Row("wrong_host", "account", _OPERATOR, 424, 1008, _NEVER, _ERROR,
        "The provider serves the relay's key at another host name.",
        "Set OPENAI_BASE_URL to the host of the project's region, for example https://us.api.openai.com/v1 or "
        "https://eu.api.openai.com/v1, and restart the relay. The key is valid."),
    Row("network_not_allowed", "account", _OPERATOR, 424, 1008, _NEVER, _ERROR,
        "The provider does not accept connections from the relay's address.",
        "Add the relay's public address to the IP allow-list or the firewall rules at the provider, or connect through the "
        "resource's private endpoint. The key is valid."),
    Row("region_blocked", "account", _OPERATOR, 424, 1008, _NEVER, _ERROR,
        "The provider does not serve the relay's country or network.",
        "Run the relay in a supported country. If it is in one, check which public address its outgoing traffic uses."),
    Row("quota_exhausted", "account", _OPERATOR, 424, 1008, _NEVER, _ERROR,
        "The provider account has no credit, no active billing, or is at its spend limit.",
        "Add credit or raise the spend limit at https://platform.openai.com/settings/organization/billing. Waiting does not "
        "help."),
    Row("beta_shape", "model", _OPERATOR, 424, 1008, _NEVER, _ERROR,
        "The provider rejected a connection to its retired beta interface.",
        "Remove the proxy rule that adds the header 'OpenAI-Beta', or replace the beta route in OPENAI_BASE_URL. The relay "
        "itself sends no beta header."),
    Row("model_not_found", "model", _CLIENT, 404, 4004, _NEVER, _WARNING,
        "The provider does not offer this model to the relay's key.",
        "Check the model's spelling, whether the provider has retired it, and whether the key's project has access to it. On "
        "Azure, use the deployment's name.",
        "Check whether the provider has retired the model, and whether the key's project has access to it. If every "
        "client fails, correct RELAY_MODEL or the clients' ?model=; if only one does, correct that client. On Azure, use "
        "the deployment's name."),
    Row("call_not_found", "model", _CLIENT, 404, 4004, _NEVER, _INFO,
        "The provider does not know this call or session.",
        "Connect while the call is active, with the call_id from its Location header. If the call was just created, retry "
        "once.",
        "Correct the client that the log fields client and address name: it has to connect while the call is active, with "
        "the call_id of the call's Location header."),
    Row("request_rejected", "model", _OPERATOR, 424, 4000, _NEVER, _WARNING,
        "The provider rejected the relay's request as invalid.",
        "Check upstream_code, the query of the client's URL and the path of OPENAI_BASE_URL. If every client fails, "
        "the address "
        "or the API version is wrong; if only one does, its query parameters are."),
    Row("rate_limited", "account", _PROVIDER, 429, 1013, _LATER, _WARNING,
        "The provider account is at its rate limit.",
        "Wait for the seconds in Retry-After, if there is one, then open connections at a lower rate.",
        "Raise the account's rate limit at the provider. Find the client that opens most connections by the log field "
        "client, and limit it with RELAY_MAX_RECONNECTS_PER_MINUTE."),
    Row("upstream_overloaded", "provider", _PROVIDER, 503, 1013, _LATER, _WARNING,
        "The provider is overloaded.",
        "Retry with exponential backoff. Check https://status.openai.com.",
        "Check https://status.openai.com. If it reports no incident, give the provider's support the log field "
        "request_id. The relay needs no change."),
    Row("upstream_error", "provider", _PROVIDER, 503, 1013, _LATER, _WARNING,
        "The provider failed to open the session.",
        "Retry with exponential backoff. Check https://status.openai.com.",
        "Check https://status.openai.com. If it reports no incident, give the provider's support the log fields "
        "upstream_code and request_id."),
    Row("dns_failed", "network", _NETWORK, 502, 1013, _NOW, _WARNING,
        "The provider's host name could not be resolved.",
        "Check the host in OPENAI_BASE_URL and the relay's DNS resolver: run 'getent hosts api.openai.com' where the relay "
        "runs."),
    Row("dns_filtered", "network", _NETWORK, 424, 1008, _NEVER, _ERROR,
        "A DNS filter answers for the provider's host name.",
        "Allow the host of OPENAI_BASE_URL in the DNS filter, or remove the line with 0.0.0.0 or :: from /etc/hosts "
        "where the "
        "relay runs."),
    Row("connect_refused", "network", _NETWORK, 502, 1013, _NOW, _WARNING,
        "The provider's address refused the TCP connection.",
        "Check host and port of OPENAI_BASE_URL, and firewalls that answer with a TCP reset."),
    Row("network_unreachable", "network", _NETWORK, 502, 1013, _NOW, _WARNING,
        "The relay has no network route to the provider.",
        "Check the relay's network, its default route, and its NetworkPolicy, which must allow egress to port 443."),
    Row("proxy_failed", "tls-and-proxy", _NETWORK, 502, 1013, _NOW, _WARNING,
        "The proxy did not connect the relay to the provider.",
        "Check host, port and credentials of RELAY_UPSTREAM_PROXY, and whether the proxy allows CONNECT to port 443 of the "
        "provider's host."),
    Row("proxy_auth_failed", "tls-and-proxy", _OPERATOR, 424, 1008, _NEVER, _ERROR,
        "The proxy did not accept the relay's credentials.",
        "Correct user and password in RELAY_UPSTREAM_PROXY (http://user:password@host:port) and restart the relay."),
    Row("blocked_before_api", "tls-and-proxy", _NETWORK, 424, 1008, _NEVER, _ERROR,
        "A server before the API refused the connection.",
        "Check which public address the relay's traffic uses, the proxies and gateways on its way, and the host in "
        "OPENAI_BASE_URL. If OPENAI_BASE_URL names a gateway, check which key that gateway requires."),
    Row("limited_before_api", "tls-and-proxy", _NETWORK, 429, 1013, _LATER, _WARNING,
        "A server before the API limits the relay's connections.",
        "Open connections at a lower rate, and check the limits of the proxy, gateway or edge that the log field "
        "server names. "
        "The provider's account is not at its limit.",
        "Raise the limits of the proxy, gateway or edge that the log field server names, or find the client that opens "
        "most connections by the log field client. The provider's account is not at its limit."),
    Row("wrong_base_url", "tls-and-proxy", _OPERATOR, 424, 1008, _NEVER, _ERROR,
        "The server at OPENAI_BASE_URL does not serve this API at this path.",
        "Correct the path of OPENAI_BASE_URL (OpenAI: https://api.openai.com/v1) and restart the relay. Run "
        "'python -m service doctor' to see which path was requested and where the setting was read."),
    Row("bad_reply", "tls-and-proxy", _NETWORK, 502, 1013, _NOW, _WARNING,
        "The server at OPENAI_BASE_URL does not speak the Realtime API.",
        "Correct the path of OPENAI_BASE_URL (OpenAI: https://api.openai.com/v1), or remove the captive portal or proxy that "
        "answers in place of the provider."),
    Row("redirect_refused", "tls-and-proxy", _NETWORK, 502, 1013, _NOW, _WARNING,
        "The server at OPENAI_BASE_URL answered with a redirect.",
        "Set OPENAI_BASE_URL to the final address. The relay follows no redirect because that would send its key to another "
        "server."),
    Row("dropped_early", "network", _NETWORK, 502, 1013, _NOW, _WARNING,
        "The connection to the provider was lost before the first event.",
        "Retry. If it persists, check for a firewall or proxy that cuts WebSocket connections.",
        "Check for a firewall or proxy that cuts WebSocket connections, and check "
        "https://status.openai.com. Run 'python -m service doctor' where the relay runs to see which step fails."),
    Row("tls_failed", "tls-and-proxy", _NETWORK, 502, 1008, _NEVER, _ERROR,
        "The TLS handshake with the provider failed.",
        "Check that the host and port of OPENAI_BASE_URL serve TLS 1.2 or later."),
    Row("tls_untrusted", "tls-and-proxy", _NETWORK, 502, 1008, _NEVER, _ERROR,
        "The provider's TLS certificate is not trusted.",
        "If a company proxy intercepts TLS, set SSL_CERT_FILE to its CA bundle. Otherwise check the host in OPENAI_BASE_URL "
        "and the system clock."),
    Row("connect_timeout", "network", _NETWORK, 504, 1013, _NOW, _WARNING,
        "The connection to the provider timed out.",
        "Check the DNS resolver, firewalls that drop packets silently, and RELAY_DIAL_TIMEOUT_SECONDS."),
    Row("reply_timeout", "tls-and-proxy", _PROVIDER, 504, 1013, _NOW, _WARNING,
        "The provider did not answer the opening handshake in time.",
        "Retry. If it persists, check for a proxy that delays or blocks WebSocket handshakes.",
        "Check for a proxy that delays or blocks WebSocket handshakes, and check "
        "https://status.openai.com. Run 'python -m service doctor' where the relay runs to see which step fails."),
    Row("first_event_timeout", "provider", _PROVIDER, 504, 1013, _NOW, _WARNING,
        "The provider accepted the connection but sent no event in time.",
        "Retry. If the provider is a compatible server that sends no first event, set RELAY_FIRST_EVENT=optional.",
        "Check https://status.openai.com. If the provider is a compatible server that sends no first event, set "
        "RELAY_FIRST_EVENT=optional and restart the relay."),
    Row("client_left", "clients", _CLIENT, None, None, _NOW, _INFO,
        "The client disconnected before the provider was connected.",
        "Set the client's open timeout to more than RELAY_DIAL_TIMEOUT_SECONDS.",
        "Check why dials are slow, and set the clients' open timeout to more than RELAY_DIAL_TIMEOUT_SECONDS. A single "
        "case needs no action."),
)

ENDINGS: Final = catalogue_of(  # of an open session
    Row("client_closed", "clients", Blame.NONE, None, None, _NOW, _INFO,
        "The client closed the session.",
        "No action is needed."),
    Row("client_lost", "clients", _NETWORK, None, None, _NOW, _INFO,
        "The connection to the client was lost.",
        "No action is needed for a single case. For many, check the network and the proxy in front of the relay."),
    Row("client_too_slow", "clients", _CLIENT, None, 1008, _NOW, _WARNING,
        "The client did not read from its connection for too long.",
        "Read from the socket continuously, and move slow work such as audio playback out of the read loop.",
        "Find the client by the log fields client and address, and check its network. Its program has to read from the "
        "socket continuously."),
    Row("client_protocol_error", "clients", _CLIENT, None, 1002, _NEVER, _WARNING,
        "The client violated the WebSocket protocol.",
        "Use a WebSocket library that complies with RFC 6455, and no extension that was not negotiated.",
        "Find the client by the log fields client and address, and update its WebSocket library. If many clients are "
        "affected, check the proxy in front of the relay."),
    Row("message_too_big", "clients", _CLIENT, None, 1009, _NEVER, _WARNING,
        "A message exceeded the relay's size limit.",
        "Send audio in chunks of at most one second, and shrink or compress pictures; base64 adds a third to their size. "
        "Operator: the limit is RELAY_MAX_MESSAGE_BYTES.",
        "Find the client by the log fields client and address. If it needs messages of this size, raise "
        "RELAY_MAX_MESSAGE_BYTES and restart the relay. Otherwise correct the client."),
    Row("upstream_message_too_big", "provider", _OPERATOR, None, 1011, _LATER, _WARNING,
        "A message of the provider exceeded the relay's size limit.",
        "Raise RELAY_MAX_MESSAGE_BYTES and restart the relay. The client's own messages are not the cause."),
    Row("provider_size_limit", "provider", _CLIENT, None, None, _NEVER, _WARNING,
        "The provider closed the session because a message exceeded its size limit.",
        "Send audio in chunks of at most one second, and shrink or compress pictures before they are sent. "
        "RELAY_MAX_MESSAGE_BYTES does not change the provider's limit.",
        "Find the client by the log fields client and address, and make it send smaller audio chunks or pictures. "
        "RELAY_MAX_MESSAGE_BYTES does not change the provider's limit."),
    Row("rate_exceeded", "clients", _CLIENT, None, 1008, _LATER, _WARNING,
        "The client exceeded the relay's rate limit for messages or bytes.",
        "Send audio in real time, in chunks of 20 to 100 ms. Operator: the limits are RELAY_MAX_MESSAGES_PER_SECOND and "
        "RELAY_MAX_BYTES_PER_SECOND.",
        "Find the client by the log fields client and address. If it needs this rate, raise RELAY_MAX_MESSAGES_PER_SECOND "
        "or RELAY_MAX_BYTES_PER_SECOND and restart the relay. Otherwise correct the client."),
    Row("idle_timeout", "clients", _CLIENT, None, 1001, _NOW, _INFO,
        "Neither side sent a message within the idle timeout.",
        "Connect again when there is something to send, or raise RELAY_IDLE_TIMEOUT_SECONDS.",
        "Raise RELAY_IDLE_TIMEOUT_SECONDS and restart the relay if sessions have to stay open without messages."),
    Row("max_duration", "relay", _OPERATOR, None, 1001, _NOW, _INFO,
        "The session reached the relay's maximum duration.",
        "Connect again, or raise RELAY_MAX_SESSION_SECONDS.",
        "Raise RELAY_MAX_SESSION_SECONDS and restart the relay if sessions have to last longer."),
    Row("upstream_closed", "provider", _PROVIDER, None, None, _NOW, _INFO,
        "The provider closed the session.",
        "Check the provider's close code and the error event before it."),
    Row("upstream_lost", "network", _NETWORK, None, 1011, _NOW, _WARNING,
        "The connection to the provider was lost.",
        "Connect again and recreate the conversation.",
        "Check for a firewall, NAT gateway or proxy that cuts long connections between the relay and the provider. Then "
        "check https://status.openai.com."),
    Row("upstream_too_slow", "provider", _PROVIDER, None, 1011, _NOW, _WARNING,
        "The provider did not read from its connection for too long.",
        "Connect again. If it persists, check https://status.openai.com.",
        "Check the bandwidth from the relay to the provider, and https://status.openai.com."),
    Row("upstream_protocol_error", "provider", _PROVIDER, None, 1011, _NOW, _ERROR,
        "The provider violated the WebSocket protocol.",
        "Connect again. If it persists, check for a proxy that modifies WebSocket frames.",
        "Check for a proxy that modifies WebSocket frames between the relay and the provider."),
    Row("session_expired", "provider", _PROVIDER, None, 1001, _NOW, _INFO,
        "The session reached the provider's maximum duration.",
        "Connect again and recreate the conversation. The provider ends every session after a fixed time.",
        "No action is needed. The provider ends every session after a fixed time."),
    Row("internal_error", "relay", _RELAY, None, 1011, _LATER, _ERROR,
        "The relay failed because of an internal error.",
        "Retry. Report the session_id and the log lines that contain it.",
        "Report the session_id and the log lines that contain it, with the traceback of session.failed or request.failed."),
)
# fmt: on

CATALOGUE: Final = {**ADMISSION_FAILURES, **DIAL_FAILURES, **ENDINGS}

RUNBOOK_PAGES: Final = {reason: row.page for reason, row in CATALOGUE.items()}
"""Reason code to the name of its page in `docs/runbooks/`."""
