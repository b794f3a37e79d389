"""What answered at a relay's address: the relay itself, or something on the way. Pure.

Rules of this file:

* The relay is known by its error object (`type` is `relay_error`) and by `X-Health-Status`; whatever else answers is a
  proxy, an ingress, a portal or another program.
* Of a stranger's answer only its status, its kind and the names in `Server` and `Via` are told, short and printable.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from service.doctor.steps import Explanations, StepFailed, step_failed
from service.failures import CATALOGUE, Failure, Phase

UPGRADED: Final = 101
_REDIRECTS: Final = range(300, 400)
_TITLE: Final = re.compile(rb"<title[^>]*>\s*([^<]{1,80})", re.IGNORECASE)
_WORD: Final = re.compile(r"[a-z_]{1,40}")
_WRONG_SCHEME: Final = re.compile(
    rb"plain HTTP request was sent to (an )?HTTPS|HTTP request to an HTTPS server", re.IGNORECASE
)
_GATEWAY: Final = {
    502: "cannot reach the relay",
    503: "has no relay to pass it to",
    504: "waited for the relay in vain",
}

# The catalogue speaks of the provider; between a client and the relay the same reasons mean this.
RELAY_EXPLANATIONS: Final[Explanations] = {
    "dns_failed": (
        "The relay's name cannot be resolved.",
        "Check the host in the URL, and the DNS of the network that this machine is in.",
    ),
    "connect_refused": (
        "The relay's address refused the connection.",
        "Check host and port, and whether the relay runs; RELAY_HOST=127.0.0.1 listens for its own machine only.",
    ),
    "network_unreachable": (
        "There is no route to the relay.",
        "Check the network, the VPN and the firewall of this machine.",
    ),
    "connect_timeout": (
        "The relay could not be reached in time.",
        "Check host and port, and firewalls or security groups that drop silently.",
    ),
    "tls_failed": (
        "No TLS connection to the relay came about.",
        "Check that the port speaks TLS: the relay itself does not, an ingress or proxy in front of it does.",
    ),
    "tls_untrusted": (
        "The certificate at the relay's address is not trusted.",
        "Set SSL_CERT_FILE to the CA that issued it, and check the host name in the URL and the clock.",
    ),
    "bad_reply": (
        "What answered is not the relay.",
        "Check the URL's host, port and path, and the ingress or proxy in front of the relay.",
    ),
    "redirect_refused": (
        "The address answered with a redirect.",
        "Use the final address; WebSocket clients follow no redirect.",
    ),
    "dropped_early": (
        "The connection was dropped before an answer came.",
        "Check the scheme (ws or wss) and the port; look for a firewall or proxy that cuts WebSockets.",
    ),
    "reply_timeout": (
        "No answer to the handshake came in time.",
        "Look at the relay's log: it answers only after it has reached the provider, within RELAY_DIAL_TIMEOUT_SECONDS.",
    ),
    "first_event_timeout": (
        "The socket opened, but no event came in time.",
        "Look for a proxy that answers upgrades itself or buffers; the relay sends the first event right behind its 101.",
    ),
}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to an upgrade, or to a GET."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def relay_error(self) -> Mapping[str, object] | None:
        """The relay's own error object, None if this is not the relay's refusal."""
        return relay_error_in(self.body)

    @property
    def is_html(self) -> bool:
        """Whether a page for people came."""
        return "html" in self.headers.get("Content-Type", "").lower() or b"<html" in self.body[:1024].lower()


def relay_error_in(payload: bytes | Mapping[str, object]) -> Mapping[str, object] | None:
    """The error object of a relay in a body or event."""
    if isinstance(payload, bytes):
        try:
            payload = json.loads(payload)
        except (ValueError, RecursionError):
            return None
    error = payload.get("error") if isinstance(payload, Mapping) else None
    return error if isinstance(error, Mapping) and error.get("type") == "relay_error" else None


def reason_of(error: Mapping[str, object]) -> str:
    """The reason in a relay's error object: a word, whoever sent it; 'unknown' if it is none."""
    code = error.get("code")
    return code if isinstance(code, str) and _WORD.fullmatch(code) else "unknown"


def refused_by_relay(error: Mapping[str, object], *notes: str) -> StepFailed:
    """The relay's own refusal, in the catalogue's words."""
    reason = reason_of(error)
    told = []
    status, session = error.get("upstream_status"), error.get("session_id")
    if isinstance(status, int):
        told.append(f"The provider's answer to the relay: {status}.")
    if isinstance(session, str) and re.fullmatch(r"[0-9a-f]{1,32}", session):
        told.append(f"The relay's log knows this attempt as session_id {session}.")
    if reason not in CATALOGUE:
        return StepFailed("The relay gives a reason that this version does not know.", notes=(reason, *told, *notes))
    return step_failed(Failure(reason), *told, *notes)


def refused_by_other_server(reply: Reply, *, scheme: str) -> StepFailed:
    """What is not the relay has answered the upgrade."""
    notes = [*_who(reply)]
    if reply.status in _REDIRECTS:
        target = _short(reply.headers.get("Location", "").split("?")[0])
        notes.append(f"It leads to {target}.")
        if scheme in {"http", "ws"} and target.startswith("https://"):
            notes.append("This address wants TLS: use https:// or wss://.")
        return _broken("redirect_refused", reply, notes)
    if _WRONG_SCHEME.search(reply.body):
        notes.append("This port speaks TLS: use https:// or wss:// in the URL.")
    elif reply.status == 426:  # noqa: PLR2004 - Upgrade Required
        notes.append("Something on the way drops the headers Upgrade and Connection, or speaks HTTP/2 to the relay.")
    elif reply.status == 400:  # noqa: PLR2004 - Bad Request
        notes.append(
            "A 400 that is not the relay's own often means that a proxy has dropped or spoilt the Upgrade header."
        )
    elif reply.status == 404:  # noqa: PLR2004 - Not Found
        notes.append(
            "Nothing is at this path: the relay serves /v1/realtime; an ingress may serve it elsewhere or not at all."
        )
    elif reply.status in {401, 403}:
        notes.append(
            "That is not the relay's refusal: a proxy or ingress in front of it wants credentials, or forbids."
        )
    elif reply.status in _GATEWAY:
        notes.append(f"The proxy or ingress in front {_GATEWAY[reply.status]}.")
    elif reply.status == 200:  # noqa: PLR2004 - OK
        notes.append("A 200 where a 101 belongs: a portal, a web server or another program answers here.")
    return _broken("bad_reply", reply, notes)


def _broken(reason: str, reply: Reply, notes: list[str]) -> StepFailed:
    return step_failed(Failure(reason, Phase.UPGRADE, http_status=reply.status), *notes, words=RELAY_EXPLANATIONS)


def _who(reply: Reply) -> list[str]:
    notes = []
    if reply.is_html:
        title = _TITLE.search(reply.body[:8192])
        named = f" with the title '{_short(title[1].decode('utf-8', 'replace'))}'" if title else ""
        notes.append(f"A page of HTML came{named}: a proxy, ingress or portal has answered in the relay's place.")
    names = [f"{name}: {_short(reply.headers[name])}" for name in ("Server", "Via") if reply.headers.get(name)]
    if names:
        notes.append(f"It calls itself {', '.join(names)}.")
    return notes


def _short(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable()).strip()[:80]
