"""Judges a response from a relay's address: whether the relay sent it, or something else on the route. Pure.

* A response is the relay's if its body is the relay's error object (`type` is `relay_error`), or if it has `X-Health-Status`.
* Of any other response, only status, content type, title and the headers `Server` and `Via` are printed, shortened.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from service.doctor.steps import Explanation, Explanations, StepFailed, requested_model
from service.failures import CATALOGUE, Failure, Phase

UPGRADED: Final = 101
_REDIRECTS: Final = range(300, 400)
_TITLE: Final = re.compile(rb"<title[^>]*>\s*([^<]{1,80})", re.IGNORECASE)
ROUTE_REASONS: Final = frozenset(
    {
        "host_refused",
        "not_a_websocket",
        "path_not_found",
        "method_not_allowed",
        "headers_too_large",
        "proxy_protocol",
        "http_version_refused",
        "tls_refused",
    }
)
"""Refusals of the relay that concern the route to it: no request, or another one than the doctor sent, has arrived."""
_REASON: Final = re.compile(r"[a-z_]{1,40}")
# As nginx and Apache or Go answer a plain HTTP request on a TLS port.
_NEEDS_TLS: Final = re.compile(
    rb"plain HTTP request was sent to (an )?HTTPS|HTTP request to an HTTPS server", re.IGNORECASE
)
_OTHER_PROTOCOL: Final = (
    "If the relay runs, look for proxy_protocol, http_version_refused and tls_refused in its log: the proxy then does not "
    "speak plain HTTP/1.1 to it."
)
_STATUS_NOTES: Final = {
    200: "A 200 instead of a 101 means that a captive portal, a web server or another program answers here.",
    400: "This 400 is not the relay's. Often a proxy has removed or changed the Upgrade header.",
    401: "This 401 is not the relay's: a proxy or ingress in front of it requires its own credentials.",
    403: "This 403 is not the relay's: a proxy or ingress in front of it forbids the request.",
    404: "Nothing is served at this path. The relay serves /v1/realtime; check which path the ingress forwards.",
    426: "A proxy on the route removes the headers Upgrade and Connection, or speaks HTTP/2 to the relay.",
    502: f"The proxy or ingress cannot connect to the relay. {_OTHER_PROTOCOL}",
    503: f"The proxy or ingress has no relay to forward to. {_OTHER_PROTOCOL}",
    504: "The proxy or ingress got no answer from the relay in time.",
}

RELAY_EXPLANATIONS: Final[Explanations] = {
    "dns_failed": Explanation(
        "The relay's host name could not be resolved.",
        "Check the host in the URL, and the DNS servers of this machine.",
    ),
    "connect_refused": Explanation(
        "The relay's address refused the TCP connection.",
        "Check host and port, and that the relay runs. RELAY_HOST=127.0.0.1 accepts connections from its own machine only.",
    ),
    "network_unreachable": Explanation(
        "This machine has no network route to the relay.",
        "Check the network, the VPN and the firewall of this machine.",
    ),
    "connect_timeout": Explanation(
        "The connection to the relay timed out.",
        "Check host and port, and check for a firewall or security group that drops packets.",
    ),
    "tls_failed": Explanation(
        "The TLS handshake with the relay failed.",
        "Use a port that speaks TLS: an ingress or proxy in front of the relay does, the relay itself does not.",
    ),
    "tls_untrusted": Explanation(
        "The certificate at the relay's address is not trusted.",
        "Set SSL_CERT_FILE to the certificate of its CA, and check the host in the URL and the clock of this machine.",
    ),
    "bad_reply": Explanation(
        "The server at this address is not the relay.",
        "Check host, port and path of the URL, and the ingress or proxy in front of the relay.",
    ),
    "redirect_refused": Explanation(
        "The address answers with a redirect.",
        "Use the final address; WebSocket clients follow no redirect.",
    ),
    "dropped_early": Explanation(
        "The connection was lost before the relay answered.",
        "Check scheme (ws or wss) and port, and check for a firewall or proxy that cuts WebSocket connections.",
    ),
    "reply_timeout": Explanation(
        "The relay did not answer the opening handshake in time.",
        "Check the relay's log: it answers once it has reached the provider, within RELAY_DIAL_TIMEOUT_SECONDS.",
    ),
    "first_event_timeout": Explanation(
        "The WebSocket opened, but the relay sent no event in time.",
        "Check for a proxy that answers upgrades itself or buffers: the relay sends the first event directly after its 101.",
    ),
}
"""Explanations where the peer is a relay; those of the catalogue are about the provider."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP response."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def relay_error(self) -> Mapping[str, object] | None:
        """The relay's error object, None if the body holds none."""
        return relay_error_in(self.body)

    @property
    def is_html(self) -> bool:
        """Whether the body is an HTML page."""
        return "html" in self.headers.get("Content-Type", "").lower() or b"<html" in self.body[:1024].lower()


def relay_error_in(payload: bytes | Mapping[str, object]) -> Mapping[str, object] | None:
    """The relay's error object in a body or an event, None if there is none."""
    if isinstance(payload, bytes):
        try:
            payload = json.loads(payload)
        except (ValueError, RecursionError):
            return None
    error = payload.get("error") if isinstance(payload, Mapping) else None
    return error if isinstance(error, Mapping) and error.get("type") == "relay_error" else None


def reason_of(error: Mapping[str, object]) -> str:
    """The reason in a relay's error object, 'unknown' if it does not have the shape of a reason."""
    code = error.get("code")
    return code if isinstance(code, str) and _REASON.fullmatch(code) else "unknown"


_MAX_REMEDY_CHARACTERS: Final = 1000


def _remedy_in(error: Mapping[str, object]) -> str | None:
    """The remedy that the relay chose by its evidence; None if it is no plain text of a usual length."""
    remedy = error.get("remedy")
    is_plain = (
        isinstance(remedy, str) and remedy.isprintable() and remedy.isascii() and len(remedy) <= _MAX_REMEDY_CHARACTERS
    )
    return str(remedy) if is_plain else None


def refused_by_relay(error: Mapping[str, object], *notes: str, model: str | None = None) -> StepFailed:
    """Explain a refusal of the relay by the catalogue. `model` is the model of the request."""
    reason = reason_of(error)
    details = requested_model(reason, model)
    status, session = error.get("upstream_status"), error.get("session_id")
    if isinstance(status, int):
        details.append(f"The provider answered the relay with {status}.")
    if isinstance(session, str) and re.fullmatch(r"[0-9a-f]{1,32}", session):
        details.append(f"The relay's log has this attempt as session_id {session}.")
    if reason not in CATALOGUE:
        return StepFailed(
            "The relay refused with a reason that this version does not know.",
            remedy="Run the doctor of the relay's version.",
            notes=(f"Reason: {reason}.", *details, *notes),
        )
    return StepFailed.from_failure(Failure(reason, hint=_remedy_in(error)), *details, *notes)


def refused_by_other_server(reply: Reply, *, scheme: str) -> StepFailed:
    """Explain a response to the upgrade that is not the relay's."""
    notes = _server_notes(reply)
    if reply.status in _REDIRECTS:
        location = _shorten(reply.headers.get("Location", "").split("?")[0])
        notes.append(f"The redirect points to {location}.")
        if scheme in {"http", "ws"} and location.startswith("https://"):
            notes.append("This address requires TLS: use https:// or wss://.")
        return _failed("redirect_refused", reply, notes)
    if _NEEDS_TLS.search(reply.body):
        notes.append("This port speaks TLS: use https:// or wss:// in the URL.")
    elif reply.status in _STATUS_NOTES:
        notes.append(_STATUS_NOTES[reply.status])
    return _failed("bad_reply", reply, notes)


def _failed(reason: str, reply: Reply, notes: list[str]) -> StepFailed:
    failure = Failure(reason, Phase.UPGRADE, http_status=reply.status)
    return StepFailed.from_failure(failure, *notes, explanations=RELAY_EXPLANATIONS)


def _server_notes(reply: Reply) -> list[str]:
    notes = []
    if reply.is_html:
        title = _TITLE.search(reply.body[:8192])
        titled = f" with the title '{_shorten(title[1].decode('utf-8', 'replace'))}'" if title else ""
        notes.append(f"The response is an HTML page{titled}: a proxy, ingress or portal answered instead of the relay.")
    names = [f"{name}: {_shorten(reply.headers[name])}" for name in ("Server", "Via") if reply.headers.get(name)]
    if names:
        notes.append(f"The server identifies itself as {', '.join(names)}.")
    return notes


def _shorten(text: str) -> str:
    return "".join(character for character in text if character.isprintable()).strip()[:80]
