"""The rows for connections to the provider that fail, up to the first event; `catalogue.py` has the rules."""

from typing import Final

from service.failures.row import Blame, Level, Retry, Row, catalogue_of

_CLIENT, _OPERATOR, _PROVIDER, _NETWORK = Blame.CLIENT, Blame.OPERATOR, Blame.PROVIDER, Blame.NETWORK
_NEVER, _NOW, _LATER = Retry.NEVER, Retry.NOW, Retry.LATER
_INFO, _WARNING, _ERROR = Level.INFO, Level.WARNING, Level.ERROR

# fmt: off
DIAL_FAILURES: Final = catalogue_of(
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
        "the address or the API version is wrong; if only one does, its query parameters are."),
    Row("policy_rejected", "clients", _OPERATOR, 424, 1008, _NEVER, _ERROR,
        "The provider rejected the policy that the relay sets for this client.",
        "Ask the operator of the relay to correct the policy of this client.",
        "Correct the policy that the log field detail names in RELAY_CLIENTS_FILE: the voice, the tools or another value is "
        "not valid for the model. The relay reads the file by itself."),
    Row("session_rejected", "clients", _CLIENT, 400, 4000, _NEVER, _WARNING,
        "The provider rejected the session that the client secret was created with.",
        "Correct session in the request that creates the client secret: the voice, the tools or another value is not valid "
        "for the model.",
        "Correct the app that the log field client names: the session of its client secrets is not valid for the model. The "
        "log field detail names the field if the provider does."),
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
        "where the relay runs."),
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
        "server names. The provider's account is not at its limit.",
        "Raise the limits of the proxy, gateway or edge that the log field server names, or find the client that opens "
        "most connections by the log field client. The provider's account is not at its limit."),
    Row("wrong_base_url", "tls-and-proxy", _OPERATOR, 424, 1008, _NEVER, _ERROR,
        "The server at OPENAI_BASE_URL does not serve this API at this path.",
        "Correct the path of OPENAI_BASE_URL (OpenAI: https://api.openai.com/v1) and restart the relay. Run "
        "'python -m service doctor' to see which path was requested and where the setting was read."),
    Row("bad_reply", "tls-and-proxy", _NETWORK, 502, 1013, _NOW, _WARNING,
        "The server at OPENAI_BASE_URL does not speak the provider's API.",
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
# fmt: on
