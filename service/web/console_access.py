"""Who may use the operator's page and `/api`, and the refusals of both.

* On loopback every user of the machine may read. Elsewhere nothing is shown before RELAY_OPERATOR_TOKEN is set and sent.
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

import structlog
from aiohttp import web
from multidict import CIMultiDict
from prometheus_client import Counter

from service.access.hosts import all_on_loopback
from service.realtime.keys import Secret
from service.telemetry.log_limit import LogLimit

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=(), display-capture=()",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every response of a console, refusals included."""
OPERATOR_HEADER: Final = "Relay-Operator"
_UNAUTHORIZED: Final = 401
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
    """Decides on each request, and counts refusals. Everything is refused until `bound` names the listener's addresses.

    A wrong token is not slowed down: one of 16 characters or more cannot be guessed, and a limit for each address would
    lock operators out behind a proxy, or behind an open page with an older token.
    """

    def __init__(self, token: Secret | None, refused: Counter) -> None:
        self._digest = None if token is None else _digest(token.reveal())
        self._is_on_loopback = False
        self._refused = refused
        for problem in (_TOKEN_UNSET, _TOKEN_MISSING, _TOKEN_INVALID, _HEADER_MISSING):
            refused.labels(problem.code)
        self._log_limit = LogLimit()

    def bound(self, addresses: Sequence[str]) -> None:
        """The internal listener is bound to these addresses."""
        self._is_on_loopback = all_on_loopback(addresses)

    def refusal(self, request: web.Request, *, changes: bool) -> web.Response | None:
        """The response to a request that is refused; None for one that is allowed. `changes`: it changes something."""
        problem = self._problem(request, changes=changes)
        if problem is None:
            return None
        self._refused.labels(problem.code).inc()
        if problem is _TOKEN_INVALID and (omitted := self._log_limit.omitted_before(problem.code)) is not None:
            structlog.get_logger().warning(
                "console.refused",
                reason=problem.code,
                message=problem.message,
                address=request.remote,
                omitted_lines=omitted,
            )
        return problem.response(_challenges(request) if problem.status == _UNAUTHORIZED else None)

    def _problem(self, request: web.Request, *, changes: bool) -> ConsoleProblem | None:
        if self._digest is None and not self._is_on_loopback:
            return _TOKEN_UNSET
        if self._digest is not None and (changes or not self._is_on_loopback):
            token = _token_of(request, accepts_basic=not changes)
            if token is None or not hmac.compare_digest(_digest(token), self._digest):
                return _TOKEN_MISSING if token is None else _TOKEN_INVALID
        if changes and request.headers.getall(OPERATOR_HEADER, []) != ["1"]:
            return _HEADER_MISSING
        return None


def _challenges(request: web.Request) -> CIMultiDict[str]:
    challenges = CIMultiDict([("WWW-Authenticate", f"Bearer {_REALM}")])
    if not request.path.startswith("/api"):  # a browser would open a dialogue for each request of the page
        challenges.add("WWW-Authenticate", f'Basic {_REALM}, charset="UTF-8"')
    return challenges


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
