"""What leads to a reason: the ordered table by which a refusal of the provider becomes a reason. Data only.

`service/upstream/translate.py` applies it, `docs/failures.md` shows it. The first rule that matches decides, in this order:

1. Who answered. A server that is not the API proves nothing about key, account or model.
2. The provider's error code, or its error type.
3. Known sentences of its message.
4. The HTTP status or close code.

Every reason here is a dial failure of the catalogue. A reason that blames the key has the API's own word in its conditions.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Responder(StrEnum):
    """The kind of server that sent a refusal."""

    API = "api"  # the provider's error object, or one of its own headers
    EDGE = "edge"  # the content delivery network before the API, such as Cloudflare
    PROXY = "proxy"  # a proxy or web filter of the company
    OTHER = "other server"  # a gateway or another program
    UNKNOWN = "unknown"  # neither body nor telling header


class Trait(StrEnum):
    """A fact about a refusal beside status, code and message."""

    CHALLENGE = "a challenge for browsers"
    CALL = "the request names a call or a session"
    LIVE = "the request is for GPT-Live"
    START = "the answer to `session.start`"
    UNKNOWN_CODE = "an error code that the relay does not know"
    ERROR = "an error object"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table: all conditions that are set have to hold.

    `says` are parts of the message in lower case; one of them is enough. `hint` replaces the remedy of the catalogue; names
    in braces are facts that the relay inserts, and without one of them the remedy of the catalogue applies.
    """

    reason: str
    by: Collection[Responder] = ()
    status: Collection[int] = ()
    close: Collection[int] = ()
    code: Collection[str] = ()
    says: Collection[str] = ()
    trait: Trait | None = None
    hint: str = ""


_API: Final = (Responder.API,)
_BETWEEN: Final = (Responder.EDGE, Responder.PROXY, Responder.OTHER)
_NOT_API: Final = (*_BETWEEN, Responder.UNKNOWN)
_CLIENT_ERRORS: Final = range(400, 500)
_SERVER_ERRORS: Final = range(500, 1000)

_PATH_HINT: Final = (
    "The 404 for {path} is not an API error. Correct OPENAI_BASE_URL (from {base_url_from}): {base_form}. {path_advice}"
)
_BLOCKED_HINT: Final = (
    "{server} refused the request with status {status} before the API saw it. Check which public address the relay's traffic "
    "uses, and the rules of that server. If OPENAI_BASE_URL names a gateway, check which key it requires. {trace_advice}"
)
_LIVE_PATH_HINT: Final = (
    "The server at OPENAI_BASE_URL (from {base_url_from}) has no GPT-Live at {path}. Check whether it offers GPT-Live; if it "
    "does, correct the path of OPENAI_BASE_URL: {base_form}. Sessions of the Realtime API can work all the same."
)
_NETWORK_HINT: Final = (
    "Connect from an allowed network: use the resource's private endpoint, whose name has to resolve to its private address "
    "where the relay runs, or add the relay's public address to the firewall rules of the resource."
)
_BILLING_HINT: Final = (
    "Activate billing for the account of this key: add a payment method and pay open invoices on the provider's billing "
    "page. Waiting does not help."
)
_VERSION_HINT: Final = (
    "Correct the API version in OPENAI_BASE_URL. For Azure OpenAI use https://<resource>.openai.azure.com/openai/v1, which "
    "takes no api-version, and check that the deployment is a Realtime model."
)
_NO_KEY_HINT: Final = (
    "The provider received a request without a key. If the relay has one (log event key.found), a proxy or gateway on the "
    "way removes the header Authorization: exclude the provider's host from it, or correct its rule."
)
_FORBIDDEN_HINT: Final = (
    "'forbidden' after session.start has three causes. An unknown voice: set session.audio.output.voice to one of GPT-Live, "
    "such as marin; fable, onyx and nova are none. A project without access to GPT-Live: give the project of the key access "
    "to the model. An OAuth token of ChatGPT or Codex as the key: set OPENAI_API_KEY to a key of a project. If other "
    "sessions of GPT-Live start with this key, the voice is the cause."
)
_DELEGATION_SCOPE_HINT: Final = (
    "Delegation of the type responses requires the permission api.responses.write: give it to the key, or send session.start "
    "without this delegation."
)
_START_HINT: Final = (
    "The provider rejected a field of the client's session.start. Correct the field that the error event names; "
    "upstream_code has its code. Limits: instructions 16,384 tokens; input 128 messages and 8,192 tokens."
)
_UNKNOWN_FIELD_HINT: Final = (
    "Remove the field that the provider does not know from the client's session.start; the error event names it. Voice and "
    "format of GPT-Live are session.audio.output.voice and session.audio.format; fields of the Realtime API do not apply."
)
_MISSING_FIELD_HINT: Final = (
    "Add the missing field to the client's session.start; the error event names it. session.model is required."
)
_VOICE_HINT: Final = (
    "Set session.audio.output.voice in the client's session.start to a voice of GPT-Live, such as marin."
)
_INSTRUCTIONS_HINT: Final = (
    "Shorten session.instructions in the client's session.start: at most 16,384 tokens. Put data for a single turn into "
    "session.thinking.append."
)

# fmt: off
WHO_ANSWERED: Final = (
    Rule("blocked_before_api", trait=Trait.CHALLENGE,
         hint="{server} demands a check that only browsers pass. Run the relay from another public address. {trace_advice}"),
    Rule("proxy_auth_failed", status=(407,)),
    Rule("redirect_refused", status=range(300, 400)),
    Rule("call_not_found", by=(Responder.UNKNOWN,), status=(404,), trait=Trait.CALL),
    Rule("wrong_base_url", by=_NOT_API, status=(404, 410), trait=Trait.LIVE, hint=_LIVE_PATH_HINT),
    Rule("wrong_base_url", by=_NOT_API, status=(404, 410), hint=_PATH_HINT),
    Rule("limited_before_api", by=_BETWEEN, status=(429,)),
    Rule("region_blocked", by=(Responder.UNKNOWN,), status=(451,)),
    Rule("blocked_before_api", by=_NOT_API, status=(401, 403, 451, 511), hint=_BLOCKED_HINT),
    Rule("proxy_failed", by=(Responder.PROXY,), status=_SERVER_ERRORS,
         hint="The proxy cannot reach the provider. Check that it resolves the provider's name and may connect to port 443."),
)

CODES_AFTER_START: Final = (
    Rule("key_forbidden", code=("forbidden",), trait=Trait.START, hint=_FORBIDDEN_HINT),
    Rule("key_forbidden", code=("missing_scope",), trait=Trait.START, hint=_DELEGATION_SCOPE_HINT),
    Rule("request_rejected", code=("unknown_parameter",), trait=Trait.START, hint=_UNKNOWN_FIELD_HINT),
    Rule("request_rejected", code=("missing_required_parameter",), trait=Trait.START, hint=_MISSING_FIELD_HINT),
    Rule("request_rejected", code=("invalid_voice",), trait=Trait.START, hint=_VOICE_HINT),
    Rule("request_rejected", code=("invalid_value", "invalid_parameter", "invalid_event"), trait=Trait.START,
         hint=_START_HINT),
)
ERROR_CODES_OF_PROVIDERS: Final = (
    *CODES_AFTER_START,
    Rule("wrong_host", code=("incorrect_hostname",),
         hint="Set OPENAI_BASE_URL to https://{named_host}/v1, the host of the key's region, and restart the relay."),
    Rule("wrong_host", code=("incorrect_hostname",)),
    Rule("network_not_allowed", code=("ip_not_authorized", "publicnetworkaccessdisabled")),
    Rule("account_refused", code=("no_organization", "invalid_organization", "invalid_project", "organization_restricted",
                                  "account_deactivated", "organization_deactivated", "access_terminated")),
    Rule("key_rejected", code=("invalid_api_key", "expired_api_key", "api_key_expired", "revoked_api_key", "invalid_key",
                               "invalid_authentication", "authentication_error", "auth_error", "token_not_found_in_db")),
    Rule("key_missing", code=("missing_authorization",), hint=_NO_KEY_HINT),
    Rule("key_forbidden", code=("mismatched_organization", "mismatched_project"),
         hint="Set OPENAI_ORG_ID and OPENAI_PROJECT_ID to the organization and project of the key, or remove both, "
              "and restart the relay."),
    Rule("key_forbidden", code=("authenticationtypedisabled",),
         hint="The resource accepts no keys. Enable key access for it (Azure: disableLocalAuth=false), or put a gateway that "
              "uses Entra ID at OPENAI_BASE_URL."),
    Rule("key_forbidden", code=("insufficient_permissions", "no_matching_rule", "permissiondenied", "missing_scope")),
    Rule("quota_exhausted", code=("billing_not_active",), hint=_BILLING_HINT),
    Rule("quota_exhausted", code=("insufficient_quota", "credit_balance_exhausted", "billing_hard_limit_reached",
                                  "organization_spend_limit_exceeded", "project_spend_limit_exceeded", "budget_exceeded",
                                  "insufficient_user_quota", "quota_exceeded")),
    Rule("rate_limited", code=("rate_limit_exceeded", "inference_rate_limit_exceeded", "rate_limit_error")),
    Rule("beta_shape", code=("beta_api_shape_disabled",)),
    Rule("model_not_found", code=("invalid_model", "model_not_found", "deploymentnotfound", "deployment_not_found",
                                  "model_not_allowed", "key_model_access_denied")),
    Rule("request_rejected", code=("missing_model",),
         hint="Send ?model=<name>, or ?intent=transcription without a model, as the provider requires."),
    Rule("call_not_found", code=("call_id_not_found", "session_id_not_found")),
    Rule("region_blocked", code=("unsupported_country_region_territory", "request_forbidden")),
    Rule("request_rejected", code=("operationnotsupported", "unsupportedapiversion", "invalidapiversionparameter"),
         hint=_VERSION_HINT),
    Rule("request_rejected", code=("invalid_intent",)),
    Rule("upstream_overloaded", code=("server_is_overloaded", "overloaded_error", "slow_down", "engine_overloaded")),
    Rule("upstream_overloaded", code=("server_error",), status=(503,)),
    Rule("upstream_error", code=("server_error",)),
)

SENTENCES: Final = (
    Rule("wrong_host", says=("incorrect regional hostname",),
         hint="Set OPENAI_BASE_URL to https://{named_host}/v1, the host of the key's region, and restart the relay."),
    Rule("network_not_allowed", hint=_NETWORK_HINT,
         says=("virtual network", "private endpoint", "public access is disabled", "firewall rules")),
    Rule("network_not_allowed", says=("ip address is not", "ip not authorized", "not allowed from your ip")),
    Rule("request_rejected", says=("api version not supported", "api-version"), hint=_VERSION_HINT),
    Rule("account_refused", says=("must be a member of an organization", "no such organization", "no such project",
                                  "has been archived", "has been deactivated")),
    Rule("quota_exhausted", says=("account is not active",), hint=_BILLING_HINT),
    Rule("quota_exhausted", says=("exceeded your current quota",)),
    Rule("region_blocked", says=("country, region, or territory not supported",)),
    Rule("wrong_base_url", by=_API, status=(404,), trait=Trait.LIVE, hint=_LIVE_PATH_HINT,
         says=("invalid url", "resource not found")),
    Rule("wrong_base_url", by=_API, status=(404,), hint=_PATH_HINT, says=("invalid url", "resource not found")),
    Rule("model_not_found", says=("deployment for this resource does not exist", "does not have access to model",
                                  "does not exist or you do not have access", "is not supported in realtime mode")),
    Rule("request_rejected", says=("instructions",), trait=Trait.START, hint=_INSTRUCTIONS_HINT),
    Rule("key_forbidden", says=("missing scopes", "insufficient permissions")),
    Rule("key_missing", says=("missing bearer", "didn't provide an api key", "missing subscription key")),
    Rule("key_rejected", says=("incorrect api key", "invalid api key", "invalid subscription key")),
)

STATUSES: Final = (
    Rule("account_refused", by=_API, status=(401, 403), trait=Trait.UNKNOWN_CODE),
    Rule("account_refused", by=_API, close=(3000,), trait=Trait.UNKNOWN_CODE),
    Rule("key_rejected", by=_API, status=(401,)),
    Rule("key_rejected", by=_API, close=(3000,)),
    Rule("key_forbidden", by=_API, status=(403,)),
    Rule("quota_exhausted", status=(402,)),
    Rule("call_not_found", by=_API, status=(404,), trait=Trait.CALL),
    Rule("wrong_base_url", by=_API, status=(404,), trait=Trait.LIVE, hint=_LIVE_PATH_HINT),
    Rule("model_not_found", by=_API, status=(404,)),
    Rule("model_not_found", close=(4004,)),
    Rule("rate_limited", status=(429,)),
    Rule("region_blocked", status=(451,)),
    Rule("upstream_overloaded", status=(503, 529)),
    Rule("upstream_overloaded", close=(1001, 1012, 1013)),
    Rule("upstream_error", status=(408, *_SERVER_ERRORS)),
    Rule("request_rejected", by=_API, status=_CLIENT_ERRORS),
    Rule("request_rejected", close=(1008, 4000), trait=Trait.START, hint=_START_HINT),
    Rule("request_rejected", close=(1008, 4000)),
    Rule("bad_reply", close=(1009,)),
    Rule("request_rejected", code=("invalid_request_error",), trait=Trait.START, hint=_START_HINT),
    Rule("request_rejected", code=("invalid_request_error",)),
    Rule("bad_reply", status=range(1000)),
    Rule("upstream_error", trait=Trait.ERROR),
    Rule("dropped_early"),
)
# fmt: on

STEPS: Final = (
    ("Who answered", WHO_ANSWERED),
    ("Code of the provider", ERROR_CODES_OF_PROVIDERS),
    ("Sentence of the provider", SENTENCES),
    ("Status", STATUSES),
)
RULES: Final = tuple(rule for _, rules in STEPS for rule in rules)
KNOWN_CODES: Final = frozenset(code for rule in ERROR_CODES_OF_PROVIDERS if rule.trait is None for code in rule.code)

NETWORK_ERRORS: Final = {
    "dns_failed": "The resolver returns an error.",
    "dns_filtered": "The resolver returns only 0.0.0.0 or :: for the host name.",
    "connect_refused": "ECONNREFUSED.",
    "network_unreachable": "ENETUNREACH, EHOSTUNREACH, ENETDOWN, EACCES, EPERM, or another error of the operating system.",
    "connect_timeout": "No answer from DNS, TCP or TLS within the timeout, or ETIMEDOUT.",
    "reply_timeout": "No HTTP response within the timeout.",
    "first_event_timeout": "No event within the timeout, or no `session.started` after `session.start`.",
    "dropped_early": "The connection is closed or reset before the first event.",
    "tls_failed": "The TLS handshake fails.",
    "tls_untrusted": "The certificate is not trusted.",
    "proxy_failed": "The proxy is unreachable, or refuses CONNECT with a status other than 401 and 407.",
    "proxy_auth_failed": "The proxy answers CONNECT with 401 or 407.",
    "bad_reply": "The response is not valid HTTP, the 101 violates RFC 6455, or the first frames do.",
}
"""Causes that are no refusal of the provider, for the reference."""
