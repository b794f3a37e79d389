"""Who may use the operator's page and `/api`, and the refusals of both.

* On loopback everybody on the machine may read. Elsewhere nothing is shown before RELAY_OPERATOR_TOKEN is set and sent.
* What changes something needs the header `Relay-Operator: 1`, which a page of another origin cannot send without a CORS
  preflight, and, where a token is set, that in the header Authorization (RFC 6750).
* A browser that opens a page can send a password only. For reading, the token is accepted as that, under any user name
  (RFC 7617).
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from multidict import CIMultiDict

from service.access.hosts import all_on_loopback
from service.realtime.keys import Secret

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; media-src 'self' "
        "blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every response of a console, refusals included."""
OPERATOR_HEADER: Final = "Relay-Operator"
_REALM: Final = 'realm="realtime-relay operator"'


@dataclass(frozen=True, slots=True)
class ConsoleProblem:
    """A request that the console does not carry out. `remedy` is in the imperative."""

    status: int
    code: str
    message: str
    remedy: str

    def response(self, headers: CIMultiDict[str] | None = None) -> web.Response:
        """The response, in the shape of every error of the relay."""
        error = {"type": "relay_error", "code": self.code, "message": self.message, "remedy": self.remedy}
        return web.json_response(
            {"error": error},
            status=self.status,
            headers=CIMultiDict([*HEADERS.items(), ("Cache-Control", "no-store"), *(headers or {}).items()]),
        )


_TOKEN_UNSET: Final = ConsoleProblem(
    403,
    "operator_token_unset",
    "The internal port is not bound to loopback, and no operator token is set.",
    "Set RELAY_OPERATOR_TOKEN or RELAY_OPERATOR_TOKEN_FILE and restart the relay, then send the token as 'Authorization: "
    "Bearer <token>'; or set RELAY_INTERNAL_HOST=127.0.0.1.",
)
_TOKEN_MISSING: Final = ConsoleProblem(
    401,
    "operator_token_missing",
    "The request carries no operator token.",
    "Send RELAY_OPERATOR_TOKEN as 'Authorization: Bearer <token>'. In a browser, enter it as the password; any user name is "
    "accepted.",
)
_TOKEN_INVALID: Final = ConsoleProblem(
    401,
    "operator_token_invalid",
    "The operator token is wrong.",
    "Send the value of RELAY_OPERATOR_TOKEN. Client tokens and the provider's key are not accepted.",
)
_HEADER_MISSING: Final = ConsoleProblem(
    403,
    "operator_header_missing",
    "The request changes something and lacks the header Relay-Operator.",
    "Send the header 'Relay-Operator: 1'.",
)


class ConsoleAccess:
    """Decides on each request. Everything is refused until `bound` has been called with the listener's addresses."""

    def __init__(self, token: Secret | None) -> None:
        self._digest = None if token is None else _digest(token.reveal())
        self._is_on_loopback = False

    def bound(self, addresses: Sequence[str]) -> None:
        """The internal listener is bound to these addresses."""
        self._is_on_loopback = all_on_loopback(addresses)

    def refusal(self, request: web.Request, *, changes: bool) -> web.Response | None:
        """The response to a request that is refused; None for one that is allowed. `changes`: it changes something."""
        if self._digest is None and not self._is_on_loopback:
            return _TOKEN_UNSET.response()
        if self._digest is not None and (changes or not self._is_on_loopback):
            token = _token_of(request, accepts_basic=not changes)
            if token is None or not hmac.compare_digest(_digest(token), self._digest):
                return _unauthenticated(request, _TOKEN_MISSING if token is None else _TOKEN_INVALID)
        if changes and request.headers.getall(OPERATOR_HEADER, []) != ["1"]:
            return _HEADER_MISSING.response()
        return None


def _unauthenticated(request: web.Request, problem: ConsoleProblem) -> web.Response:
    challenges = CIMultiDict([("WWW-Authenticate", f"Bearer {_REALM}")])
    if not request.path.startswith(
        "/api/"
    ):  # for the page only: a browser would open a dialogue for each of its requests
        challenges.add("WWW-Authenticate", f'Basic {_REALM}, charset="UTF-8"')
    return problem.response(challenges)


def _token_of(request: web.Request, *, accepts_basic: bool) -> str | None:
    """The token of a request; None if it has none, an empty text if it has several."""
    values = request.headers.getall("Authorization", [])
    if len(values) != 1:
        return "" if values else None
    scheme, _, credentials = values[0].strip().partition(" ")
    match scheme.lower():
        case "bearer":
            return credentials.strip()
        case "basic" if accepts_basic:
            return _password(credentials.strip())
        case _:
            return None


def _password(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def _digest(token: str) -> bytes:
    # surrogatepass encodes every string, and no two alike; a header that is not UTF-8 arrives with lone surrogates.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
