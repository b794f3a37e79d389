"""The rows for requests that the relay refuses before it dials; `catalogue.py` has the rules."""

from typing import Final

from service.failures.row import Blame, Level, Retry, Row, catalogue_of

_CLIENT, _RELAY = Blame.CLIENT, Blame.RELAY
_NEVER, _LATER = Retry.NEVER, Retry.LATER
_INFO, _WARNING = Level.INFO, Level.WARNING

# fmt: off
ADMISSION_FAILURES: Final = catalogue_of(
    Row("token_missing", "clients", _CLIENT, 401, None, _NEVER, _INFO,
        "The request carries no client token.",
        "Send one of the relay's client tokens as 'Authorization: Bearer <token>', as 'api-key: <token>', or as the "
        "subprotocol 'openai-insecure-api-key.<token>'. The relay rejects a token in the URL because URLs are logged.",
        "Find the caller by the log field address. If it is your client, give it a token that RELAY_CLIENT_TOKENS or "
        "RELAY_CLIENTS_FILE lists. The relay refuses other callers, such as scanners, as intended."),
    Row("token_invalid", "clients", _CLIENT, 401, None, _NEVER, _INFO,
        "The relay does not know this client token.",
        "Use a token that RELAY_CLIENT_TOKENS or RELAY_CLIENTS_FILE of the relay lists: the token itself, not its name or "
        "hash. Do not send the provider's key; only the relay holds it.",
        "Find the caller by the log field address. If it is your client, compare its token with RELAY_CLIENT_TOKENS, and "
        "restart the relay after a change; or its hash with RELAY_CLIENTS_FILE, which needs no restart. The relay refuses "
        "other callers, such as scanners, as intended."),
    Row("token_expired", "clients", _CLIENT, 401, 3000, _NEVER, _INFO,
        "The client token has expired.",
        "Request a new token from the identity provider of this app, and connect with it.",
        "No action is needed if the client connects with a new token. If new tokens are refused, compare the clock of this "
        "machine with that of the identity provider, and its lifetime of tokens with the log field detail."),
    Row("token_not_yet_valid", "clients", _CLIENT, 401, 3000, _LATER, _WARNING,
        "The client token is not valid yet.",
        "Retry within minutes. Operator: the clocks of the relay and of the identity provider differ.",
        "Correct the clock of this machine or of the identity provider; the log field detail states the difference. "
        "clock_skew_seconds of the table [jwt.NAME] in RELAY_CLIENTS_FILE allows up to 300 seconds."),
    Row("secret_used", "clients", _CLIENT, 401, 3000, _NEVER, _INFO,
        "The client secret has been used: it opens one session.",
        "Request a new client secret for each connection, also for a reconnect, from the server of this app.",
        "Find the app by the log fields client and user. It has to create a client secret for each connection: POST "
        "/v1/realtime/client_secrets. A secret that is presented twice can also have been copied."),
    Row("secret_expired", "clients", _CLIENT, 401, 3000, _NEVER, _INFO,
        "The client secret has expired.",
        "Request a new client secret from the server of this app just before connecting.",
        "No action is needed if the app connects with a new one. Otherwise let it create the secret just before it connects, "
        "or with more expires_after.seconds (at most 600); compare the clocks if new ones are refused."),
    Row("too_many_secrets", "clients", _CLIENT, 429, None, _LATER, _WARNING,
        "This client creates client secrets too often.",
        "Create a client secret just before it is used, at most 600 a minute, with a short session configuration.",
        "Find the client by the log field client; detail names the limit. Correct an app that creates secrets in a loop. "
        "Each instance has limits of its own, so more instances allow more."),
    Row("jwks_unavailable", "clients", Blame.OPERATOR, 503, 1013, _LATER, Level.ERROR,
        "The relay cannot fetch the keys with which it checks this client token.",
        "Retry in a few seconds. Operator: the log field detail states why the JWKS of the identity provider is missing.",
        "Make the JWKS reachable that jwks_url of the table [jwt.NAME] in RELAY_CLIENTS_FILE names, or correct it; the log "
        "field detail states what failed, and 'python -m service doctor' fetches it. Tokens that keys in use have signed "
        "are still accepted."),
    Row("client_disabled", "clients", _CLIENT, 401, 1008, _NEVER, _INFO,
        "The operator has disabled this client.",
        "Ask the operator of the relay to enable this client, or for a new token.",
        "No action is needed if this is intended. Otherwise set enabled = true for the client that the log field client "
        "names in RELAY_CLIENTS_FILE, or add its token there again; the relay reads the file by itself."),
    Row("api_refused", "clients", _CLIENT, 403, None, _NEVER, _INFO,
        "The relay does not allow this API for this client.",
        "Use an API that the operator of the relay allows for this client.",
        "Add the API that the log field detail names to apis of the client in RELAY_CLIENTS_FILE, or correct the client."),
    Row("policy_unsupported", "clients", _CLIENT, 403, None, _NEVER, _INFO,
        "The relay cannot apply the policy of this client to such a session.",
        "Connect to /v1/realtime with ?model=<name>. A client with a policy has no transcription session, no translation, no "
        "sideband of a call, and no GPT-Live.",
        "If the client that the log field client names needs such a session, set policy = 'none' for it in "
        "RELAY_CLIENTS_FILE. Otherwise correct that client."),
    Row("origin_refused", "clients", _CLIENT, 403, None, _NEVER, _INFO,
        "The relay does not allow pages of this origin.",
        "Add the page's exact origin (scheme, host and port, for example https://app.example.com) to RELAY_ALLOWED_ORIGINS "
        "and restart the relay. An app that is not a web page can send its client token in a header instead."),
    Row("host_refused", "clients", _CLIENT, 421, None, _NEVER, _WARNING,
        "The relay on loopback does not serve this host name.",
        "Connect to localhost or 127.0.0.1. If a proxy in front of the relay sends the host name of its clients, set "
        "RELAY_TRUSTED_PROXIES to the proxy's address, or add the name to RELAY_ALLOWED_HOSTS, and restart the relay.",
        "If the host name in the log field detail is yours, add it to RELAY_ALLOWED_HOSTS, or set RELAY_TRUSTED_PROXIES to "
        "the address of the proxy in front of the relay, and restart the relay. If it is not, a web page may be "
        "trying to read the relay by DNS rebinding."),
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
        "Add ?model=<name> to the URL, for example ?model=gpt-realtime. A client of GPT-Live connects to /v1/live/sessions "
        "and names the model in session.start.",
        "Find the client by the log fields client and address, and add ?model=<name> to its URL. If every client fails, "
        "correct the proxy in front of the relay that drops the query."),
    Row("live_disabled", "clients", _CLIENT, 404, None, _NEVER, _INFO,
        "The relay does not serve GPT-Live.",
        "Connect to /v1/realtime with a Realtime model, or ask the operator of the relay to set RELAY_LIVE=on.",
        "Set RELAY_LIVE=on and restart the relay if its clients may use GPT-Live."),
    Row("not_a_websocket", "clients", _CLIENT, 426, None, _NEVER, _INFO,
        "This endpoint accepts WebSocket connections only.",
        "Connect with a WebSocket client (RFC 6455, version 13). If the client is one, configure the proxy in front of the "
        "relay to forward the headers 'Upgrade' and 'Connection'.",
        "Configure the proxy in front of the relay to forward the headers 'Upgrade' and 'Connection'. If only one client "
        "fails, correct that client: the log fields client and address name it."),
    Row("path_not_found", "clients", _CLIENT, 404, None, _NEVER, _INFO,
        "The relay serves nothing at this path.",
        "Connect a WebSocket to /v1/realtime, or to /v1/live/sessions for GPT-Live. The relay forwards these WebSockets "
        "only, and no other path of the API.",
        "Correct the URL of the client that the log field address names, or the path rule of the proxy in front of the "
        "relay: clients connect to /v1/realtime, or to /v1/live/sessions for GPT-Live."),
    Row("method_not_allowed", "clients", _CLIENT, 405, None, _NEVER, _INFO,
        "The relay does not accept this method at this path.",
        "Send GET: a WebSocket handshake to /v1/realtime or /v1/live/sessions, or a plain request to /livez, /readyz or "
        "/healthz. The relay forwards no other request of the API.",
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
    Row("budget_exhausted", "clients", _CLIENT, 402, 1008, _LATER, _INFO,
        "This client, or its user, has used up a budget.",
        "Connect again when the budget starts again: a day and a month end at midnight UTC. A budget of one session starts "
        "again with the next session.",
        "Find the client by the log field client; detail names the limit and what was used. If it needs more, raise that "
        "limit of the client in RELAY_CLIENTS_FILE; the relay reads the file by itself."),
    Row("relay_full", "relay", _RELAY, 503, 1013, _LATER, _WARNING,
        "The relay is at its session or dial limit.",
        "Retry in a few seconds. Operator: add a replica, or raise RELAY_MAX_SESSIONS or RELAY_MAX_DIALS.",
        "Add a replica, or raise RELAY_MAX_SESSIONS or RELAY_MAX_DIALS and restart the relay. If the dials are at their "
        "limit, check first whether the provider is slow."),
    Row("store_unavailable", "relay", Blame.OPERATOR, 503, 1013, Retry.NOW, Level.ERROR,
        "The store that the relay shares with other instances does not answer.",
        "Connect again. Operator: run 'python -m service doctor' where the relay runs.",
        "Run 'python -m service doctor' where the relay runs: its step 'store' names the cause. With "
        "RELAY_STORE_FAILURE=open the relay accepts sessions without the store; limits hold for each instance alone."),
    Row("relay_draining", "relay", _RELAY, 503, 1001, _LATER, _INFO,
        "This relay instance is shutting down.",
        "Connect again. Another instance, or this one after its restart, accepts the connection.",
        "No action is needed during a rollout. Otherwise check that another instance is ready, and which program sent "
        "SIGTERM to this one."),
)
# fmt: on
