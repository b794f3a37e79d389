"""THE catalogue: every way a connection fails or a session ends, one row each.

Rules of this file:

* A reason exists here or not at all. HTTP bodies, error events, close frames, log lines, metric labels, health reports
  and `docs/failures.md` all take their words from these rows, so that a person reads the same cause everywhere.
* A sentence says what happened, a remedy what to do next. Both are static: nothing from outside is ever put into them.
* HTTP 424 (Failed Dependency) stands for what only the operator can mend. Official clients retry 408, 429 and 5xx, and
  official sockets retry 1011 and 1013; a cause that will not pass must arrive, and must not be hammered.
* `reason: sentence` fits a close frame (123 bytes, RFC 6455 section 5.5).
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final


class Blame(StrEnum):
    """Whose move it is."""

    CLIENT = "client"
    OPERATOR = "operator"
    PROVIDER = "provider"
    NETWORK = "network"
    RELAY = "relay"
    NOBODY = "nobody"  # an ordinary ending


class Retry(StrEnum):
    """Whether the same attempt can succeed without anybody changing anything."""

    NEVER = "never"
    NOW = "now"
    LATER = "later"


class Level(IntEnum):
    """The log level of a row, as `logging` numbers it: ERROR lost service, WARNING operator can act, INFO life cycle."""

    INFO = 20
    WARNING = 30
    ERROR = 40


@dataclass(frozen=True, slots=True)
class Row:
    """One way to fail or to end.

    `http_status` is what a plain client gets instead of its 101, None where no HTTP answer can be given any more;
    `close_code` is for the client's socket, None where a refusal is always an HTTP status or the peer's own code holds.
    """

    reason: str
    blame: Blame
    http_status: int | None
    close_code: int | None
    retry: Retry
    level: Level
    sentence: str
    remedy: str

    @property
    def close_text(self) -> str:
        """The reason of a close frame: static, at most 123 bytes."""
        return f"{self.reason}: {self.sentence}"

    @property
    def anchor(self) -> str:
        """Where `docs/failures.md` speaks of this row."""
        return f"docs/failures.md#{self.reason}"

    @property
    def runbook(self) -> str:
        """Where an operator who was woken by this row reads on."""
        return f"docs/runbooks/{RUNBOOKS[self.reason]}.md#{self.reason}"


def _rows(*rows: Row) -> dict[str, Row]:
    table = {row.reason: row for row in rows}
    if len(table) != len(rows):
        raise ValueError("a reason stands twice in the catalogue")
    return table


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
REFUSALS: Final = _rows(  # by the relay itself, before anything is dialled
    Row("token_missing", _CLIENT, 401, None, _NEVER, _INFO,
        "The relay was given no token.",
        "Send one of the relay's client tokens as 'Authorization: Bearer <token>', as 'api-key: <token>', or as the "
        "subprotocol 'openai-insecure-api-key.<token>'. A token in the URL is not taken, because URLs are logged."),
    Row("token_invalid", _CLIENT, 401, None, _NEVER, _INFO,
        "The relay does not know this token.",
        "Use a token listed in RELAY_CLIENT_TOKENS of the relay. It is not the provider's key: the relay holds that."),
    Row("origin_refused", _CLIENT, 403, None, _NEVER, _INFO,
        "Pages of this origin may not use the relay.",
        "Add the page's exact origin (scheme, host and port, as in https://app.example.com) to RELAY_ALLOWED_ORIGINS."),
    Row("bad_request", _CLIENT, 400, 4000, _NEVER, _INFO,
        "The request is malformed.",
        "Send each of model, intent and call_id at most once, no more than 16 other query parameters in 2 kB, and a "
        "valid WebSocket handshake."),
    Row("model_refused", _CLIENT, 400, 4000, _NEVER, _INFO,
        "The relay does not allow this model.",
        "Ask for a model listed in RELAY_ALLOWED_MODELS, or add this one to the list."),
    Row("model_missing", _CLIENT, 400, 4000, _NEVER, _INFO,
        "The request names no model.",
        "Add ?model=<name> to the URL, for example ?model=gpt-realtime."),
    Row("not_a_websocket", _CLIENT, 426, None, _NEVER, _INFO,
        "This address speaks WebSocket only.",
        "Connect with a WebSocket client, version 13. If you did, a proxy on the way drops the headers 'Upgrade' and "
        "'Connection'."),
    Row("too_many_sessions", _CLIENT, 429, None, _LATER, _INFO,
        "This client has too many sessions open.",
        "Close a session, or wait for one to end, before you open another. Operator: RELAY_MAX_SESSIONS_PER_CLIENT."),
    Row("too_many_connects", _CLIENT, 429, None, _LATER, _INFO,
        "This client connects too often.",
        "Keep one session open instead of opening one after another; look for a start that is triggered twice, or a loop "
        "that connects again without a pause. Operator: RELAY_MAX_RECONNECTS_PER_MINUTE."),
    Row("relay_full", _RELAY, 503, 1013, _LATER, _WARNING,
        "The relay carries as many sessions as it may.",
        "Try again shortly. Operator: add a replica, or raise RELAY_MAX_SESSIONS or RELAY_MAX_DIALS."),
    Row("relay_draining", _RELAY, 503, 1001, _LATER, _INFO,
        "This instance of the relay is shutting down.",
        "Connect again: another instance, or this one's successor, takes over."),
)

DIAL_FAILURES: Final = _rows(  # reaching the provider, up to its first event
    Row("key_missing", _OPERATOR, 424, 3000, _NEVER, _ERROR,
        "The relay holds no provider key.",
        "Set OPENAI_API_KEY (or OPENAI_API_KEY_FILE) for the relay's process, by environment or in .env of its working "
        "directory, and restart the relay; 'python -m service doctor' shows where it looked."),
    Row("key_malformed", _OPERATOR, 424, 3000, _NEVER, _ERROR,
        "The relay's provider key cannot be right.",
        "Look at OPENAI_API_KEY for quotes, blanks, line ends, 'Bearer ', a placeholder or another vendor's key; the "
        "relay's log names the problem."),
    Row("key_rejected", _OPERATOR, 424, 3000, _NEVER, _ERROR,
        "The provider does not accept the relay's key.",
        "Compare the key's fingerprint in the relay's log with the key you meant; make a new key at "
        "https://platform.openai.com/api-keys if it was revoked. Put it into the file of OPENAI_API_KEY_FILE, which needs "
        "no restart, or into the environment, and restart the relay."),
    Row("key_forbidden", _OPERATOR, 424, 3000, _NEVER, _ERROR,
        "The relay's key is known, but may not do this.",
        "Give the key the Realtime permission (restricted keys), check its project, organization and role, and any IP "
        "allow-list at the provider."),
    Row("region_blocked", _OPERATOR, 424, 1008, _NEVER, _ERROR,
        "The provider does not serve this country or network.",
        "Run the relay in a supported country, or check which address its traffic leaves from."),
    Row("quota_exhausted", _OPERATOR, 424, 1008, _NEVER, _ERROR,
        "The provider account has no credit left.",
        "Add credit or raise the spend limit at https://platform.openai.com/settings/organization/billing; waiting "
        "does not help."),
    Row("beta_shape", _OPERATOR, 424, 1008, _NEVER, _ERROR,
        "The provider refused a beta-style connection.",
        "The beta interface is gone. The relay sends no beta header: look for a proxy that adds 'OpenAI-Beta', or an "
        "OPENAI_BASE_URL that points at a beta route."),
    Row("model_not_found", _CLIENT, 404, 4004, _NEVER, _WARNING,
        "The provider does not offer this model to this key.",
        "Check the spelling, whether the model was retired, and whether the key's project may use it; on Azure the "
        "name is the deployment's. A wrong path in OPENAI_BASE_URL looks the same."),
    Row("call_not_found", _CLIENT, 404, 4004, _NEVER, _INFO,
        "The provider knows no such call.",
        "Connect while the call lasts, with the call_id from its Location header; just after creating it, try once "
        "more."),
    Row("rate_limited", _PROVIDER, 429, 1013, _LATER, _WARNING,
        "The provider limits the rate of this account.",
        "Wait as long as Retry-After says, then connect again more slowly."),
    Row("upstream_overloaded", _PROVIDER, 503, 1013, _LATER, _WARNING,
        "The provider is overloaded.",
        "Try again with growing pauses; see https://status.openai.com."),
    Row("upstream_error", _PROVIDER, 503, 1013, _LATER, _WARNING,
        "The provider failed to open the session.",
        "Try again with growing pauses; see https://status.openai.com."),
    Row("dns_failed", _NETWORK, 502, 1013, _NOW, _WARNING,
        "The provider's name cannot be resolved.",
        "Check OPENAI_BASE_URL and the relay's DNS: 'getent hosts api.openai.com' where the relay runs."),
    Row("connect_refused", _NETWORK, 502, 1013, _NOW, _WARNING,
        "The provider's address refused the connection.",
        "Check host and port of OPENAI_BASE_URL, and firewalls that answer with a reset."),
    Row("network_unreachable", _NETWORK, 502, 1013, _NOW, _WARNING,
        "There is no route to the provider.",
        "Check the relay's network, its default route and its NetworkPolicy for egress to port 443."),
    Row("proxy_failed", _NETWORK, 502, 1013, _NOW, _WARNING,
        "A proxy on the way to the provider refused.",
        "Check the proxy's credentials and whether it lets WebSockets through to the provider's host."),
    Row("bad_reply", _NETWORK, 502, 1013, _NOW, _WARNING,
        "What answered does not speak the Realtime API.",
        "Check the path of OPENAI_BASE_URL, and for a captive portal or proxy that answers in the provider's place."),
    Row("redirect_refused", _NETWORK, 502, 1013, _NOW, _WARNING,
        "The provider's address answered with a redirect.",
        "Set OPENAI_BASE_URL to the final address. The relay follows no redirect, since that would hand on its key."),
    Row("dropped_early", _NETWORK, 502, 1013, _NOW, _WARNING,
        "The provider dropped the connection before its first event.",
        "Try again; if it stays, look for a firewall or proxy that cuts WebSockets."),
    Row("tls_failed", _NETWORK, 502, 1008, _NEVER, _ERROR,
        "No TLS connection to the provider came about.",
        "Check that OPENAI_BASE_URL names a TLS port that speaks TLS 1.2 or newer."),
    Row("tls_untrusted", _NETWORK, 502, 1008, _NEVER, _ERROR,
        "The provider's certificate is not trusted.",
        "Behind a company proxy that opens TLS, set SSL_CERT_FILE to its CA bundle; else check host name and clock."),
    Row("connect_timeout", _NETWORK, 504, 1013, _NOW, _WARNING,
        "The provider could not be reached in time.",
        "Check firewalls that drop silently, DNS, and RELAY_DIAL_TIMEOUT_SECONDS."),
    Row("reply_timeout", _PROVIDER, 504, 1013, _NOW, _WARNING,
        "The provider did not answer the handshake in time.",
        "Try again; if it stays, look for a proxy that holds WebSocket handshakes back."),
    Row("first_event_timeout", _PROVIDER, 504, 1013, _NOW, _WARNING,
        "The provider opened the socket but sent no event in time.",
        "Try again; for a compatible server that sends none, set RELAY_FIRST_EVENT=optional."),
    Row("client_left", _CLIENT, None, None, _NOW, _INFO,
        "The client gave up while the provider was being reached.",
        "Give the client an open timeout longer than RELAY_DIAL_TIMEOUT_SECONDS."),
)

ENDINGS: Final = _rows(  # of a session that was open
    Row("client_closed", Blame.NOBODY, None, None, _NOW, _INFO,
        "The client closed the session.",
        "Nothing to do."),
    Row("client_lost", _NETWORK, None, None, _NOW, _INFO,
        "The client's connection was lost.",
        "Nothing to do for one; for many, look at the network or proxy in front of the relay."),
    Row("client_too_slow", _CLIENT, None, 1008, _NOW, _WARNING,
        "The client did not read what was sent to it.",
        "Read the socket without pause; move slow work, such as playing audio, off the reading loop."),
    Row("client_protocol_error", _CLIENT, None, 1002, _NEVER, _WARNING,
        "The client broke the WebSocket protocol.",
        "Use a WebSocket library that obeys RFC 6455 and sends no extension that was not agreed."),
    Row("message_too_big", _CLIENT, None, 1009, _NEVER, _WARNING,
        "A message was larger than the relay allows.",
        "Send audio in pieces of a second or less, or raise RELAY_MAX_MESSAGE_BYTES."),
    Row("rate_exceeded", _CLIENT, None, 1008, _LATER, _WARNING,
        "The client sent more than it may.",
        "Send audio at the pace it is spoken, in pieces of 20 to 100 ms."),
    Row("idle_timeout", _CLIENT, None, 1001, _NOW, _INFO,
        "Nothing was said in either direction for too long.",
        "Connect again when there is something to say, or raise RELAY_IDLE_TIMEOUT_SECONDS."),
    Row("max_duration", _OPERATOR, None, 1001, _NOW, _INFO,
        "The session reached the relay's longest duration.",
        "Connect again, or raise RELAY_MAX_SESSION_SECONDS."),
    Row("upstream_closed", _PROVIDER, None, None, _NOW, _INFO,
        "The provider closed the session.",
        "See the provider's close code and the error event before it."),
    Row("upstream_lost", _NETWORK, None, 1011, _NOW, _WARNING,
        "The connection to the provider was lost.",
        "Connect again; the conversation has to be set up anew."),
    Row("upstream_too_slow", _PROVIDER, None, 1011, _NOW, _WARNING,
        "The provider stopped taking what was sent.",
        "Connect again; see https://status.openai.com if it stays."),
    Row("upstream_protocol_error", _PROVIDER, None, 1011, _NOW, _ERROR,
        "The provider broke the WebSocket protocol.",
        "Connect again; if it stays, look for a proxy that changes WebSocket frames."),
    Row("session_expired", _PROVIDER, None, 1001, _NOW, _INFO,
        "The session reached the provider's longest duration.",
        "Connect again and set the conversation up anew; the provider ends every session after a fixed time."),
    Row("internal_error", _RELAY, None, 1011, _LATER, _ERROR,
        "The relay failed; this is its own fault.",
        "Try again; please report the session_id with the relay's log."),
)
# fmt: on

CATALOGUE: Final = {**REFUSALS, **DIAL_FAILURES, **ENDINGS}

_RUNBOOKS: Final = {
    "key": ("key_missing", "key_malformed", "key_rejected", "key_forbidden"),
    "account": ("quota_exhausted", "rate_limited", "region_blocked"),
    "model": ("model_not_found", "call_not_found", "beta_shape", "model_missing", "model_refused"),
    "network": ("dns_failed", "connect_refused", "network_unreachable", "connect_timeout", "dropped_early", "upstream_lost"),
    "tls-and-proxy": ("tls_failed", "tls_untrusted", "proxy_failed", "bad_reply", "redirect_refused", "reply_timeout"),
    "provider": (
        "upstream_overloaded", "upstream_error", "first_event_timeout", "upstream_closed", "upstream_too_slow",
        "upstream_protocol_error", "session_expired",
    ),
    "clients": (
        "token_missing", "token_invalid", "origin_refused", "bad_request", "not_a_websocket", "too_many_sessions",
        "too_many_connects", "client_left", "client_closed", "client_lost", "client_too_slow", "client_protocol_error",
        "message_too_big", "rate_exceeded", "idle_timeout",
    ),
    "relay": ("relay_full", "relay_draining", "max_duration", "internal_error"),
}  # fmt: skip
RUNBOOKS: Final = {reason: page for page, reasons in _RUNBOOKS.items() for reason in reasons}
"""The page under `docs/runbooks/` that helps with a reason."""


class Phase(StrEnum):
    """How far a connection came: the `phase` label of `connection_failures_total`."""

    ACCESS = "access"
    DNS = "dns"
    CONNECT = "connect"
    UPGRADE = "upgrade"
    FIRST_EVENT = "first_event"
    BREAKER = "breaker"


@dataclass(slots=True)
class Failure(Exception):
    """A connection that did not come about: a row of the catalogue and what the wire said.

    `http_status` and `close_code` are what upstream sent, None for what it did not send. `upstream_code` is one
    of the provider's own error codes that the catalogue knows, never free text. `close_reason` is kept only in the
    provider's own shape (`type.code`). `detail` is for the log alone: static or made from facts, never upstream text.
    """

    reason: str
    phase: Phase = Phase.ACCESS
    http_status: int | None = None
    close_code: int | None = None
    upstream_code: str | None = None
    close_reason: str | None = None
    retry_after_seconds: int | None = None
    detail: str | None = None

    @property
    def row(self) -> Row:
        """The catalogue's row."""
        return CATALOGUE[self.reason]

    @property
    def wire_status(self) -> int | None:
        """What upstream answered: its close code if it sent one, else its HTTP status."""
        return self.close_code if self.close_code is not None else self.http_status

    def __str__(self) -> str:
        return self.row.sentence
