"""What a connection or request is that no route serves: the reason, the evidence and the action. Pure.

Nothing of the request is repeated: a hint names one of the relay's own paths, a detail is one of the texts of this module.
The one exception is the host name of `host_refused`, which an operator has to know, in its detail.
"""

import difflib
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong, TransferEncodingError

from service.failures import Failure
from service.realtime.escaping import escaped
from service.realtime.names import host_of
from service.realtime.secret_request import MAX_BODY_BYTES

FIRST_BYTES: Final = 16
"""The number of a connection's first bytes that identify a protocol."""
REALTIME_PATHS: Final = ("/v1/realtime", "/realtime", "/openai/v1/realtime", "/openai/realtime")
WEBSOCKET_PATHS: Final = (
    *REALTIME_PATHS,
    "/v1/realtime/translations",
    "/v1/live/sessions",
    "/openai/v1/live/sessions",
    "/live/sessions",
)
CLIENT_SECRET_PATHS: Final = tuple(f"{path}/client_secrets" for path in REALTIME_PATHS)
_SHORT_ALIASES: Final = {"/realtime": "/v1/realtime", "/live/sessions": "/v1/live/sessions"}
_PROBE_PATHS: Final = ("/healthz", "/livez", "/readyz")
_INTERNAL_PATHS: Final = frozenset({"/metrics", "/version"})
_OPERATOR_PATHS: Final = frozenset({"/", "/api/overview"})
_MAX_PATH: Final = 256  # that is compared with the relay's paths
_NOT_RELAYED: Final = re.compile(
    r"/(chat|completions|responses|models|audio|embeddings|files|images|assistants|threads|moderations|batches|organization)"
    r"(/|$)|/realtime/(calls|sessions|transcription_sessions|translations/client_secrets)(/|$)"
    r"|/live/client_secrets(/|$)|/live/sessions/[^/]+/(fork|accept|reject|refer|hangup|content)(/|$)"
)

# The signature of a protocol's first bytes, its reason, and a detail. At least 5 bytes of a signature identify it: an HTTP
# request may follow up to two empty lines.
_PROTOCOLS: Final = (
    (b"PROXY TCP", "proxy_protocol", "PROXY protocol, version 1"),
    (b"PROXY UNKNOWN", "proxy_protocol", "PROXY protocol, version 1"),
    (b"\r\n\r\n\x00\r\nQUIT\n", "proxy_protocol", "PROXY protocol, version 2"),
    (b"PRI * HTTP/2.0\r\n", "http_version_refused", "HTTP/2 with prior knowledge"),
    (b"SSH-", "bad_request", "the client speaks SSH"),
    (b"RTSP", "bad_request", "the client speaks RTSP"),
)
_SHORT_SIGNATURES: Final = (
    (b"\x16\x03", "tls_refused", "TLS ClientHello"),
    (b"\x05", "bad_request", "the client speaks SOCKS 5; the relay is no proxy"),
    (b"\x04\x01", "bad_request", "the client speaks SOCKS 4; the relay is no proxy"),
    (b"\x81", "bad_request", "a WebSocket frame without an opening handshake"),
    (b"\x82", "bad_request", "a WebSocket frame without an opening handshake"),
    (b"*", "bad_request", "the client speaks Redis's protocol"),
)
_MIN_PREFIX: Final = 5
_MIN_LETTERS: Final = 3
_SSL2_BYTES: Final = 4
_SSL2_FIRST: Final = b"\x80"  # of a message below 256 bytes
_INCOMPLETE: Final = "incomplete head"
# The starts of aiohttp's messages (_http_parser.pyx in 3.14.5), whose ends repeat the request.
_PARSER_MESSAGES: Final = {
    "Duplicate '": "Host, User-Agent, Content-Length or another header that may occur once is repeated",
    "Missing 'Host'": "the header Host is missing",
    "Invalid HTTP header": "a header has invalid characters",
}
_NOT_HTTP_HINT: Final = (
    "Send an HTTP/1.1 request. If a proxy or load balancer is in front of the relay, let it forward HTTP/1.1 unchanged."
)


def foreign_protocol(first: bytes) -> Failure | None:
    """The failure for the first bytes of a connection that are another protocol's; None if they can be HTTP/1.1."""
    for signature, reason, detail in _PROTOCOLS:
        if first.startswith(signature[:FIRST_BYTES]) or (len(first) >= _MIN_PREFIX and signature.startswith(first)):
            return _not_http(reason, detail)
    for signature, reason, detail in _SHORT_SIGNATURES:
        if first.startswith(signature) or (first and signature.startswith(first)):  # no request begins with their bytes
            return _not_http(reason, detail)
    if first[:1] == _SSL2_FIRST or (len(first) >= _SSL2_BYTES and first[0] & 0x80):
        is_hello = b"\x01\x03".startswith(first[2:4])
        return _not_http("tls_refused", "TLS ClientHello in the form of SSL 2.0") if is_hello else None
    return None


def _begun_protocol(first: bytes, exc: BaseException | None) -> Failure | None:
    """The failure for a connection whose few bytes begin a protocol's signature, and are no beginning of a request.

    They have not been parsed as a method, or are all that has arrived. Two letters can still begin a method.
    """
    is_all = isinstance(exc, HttpProcessingError) and exc.message == _INCOMPLETE
    if not first.strip(b"\r\n") or (is_all and len(first) < _MIN_LETTERS):
        return None
    begun = (known for known in _PROTOCOLS if known[0].startswith(first))
    return next((_not_http(reason, detail) for _, reason, detail in begun), None)


def _not_http(reason: str, detail: str) -> Failure:
    return Failure(reason, detail=detail, hint=_NOT_HTTP_HINT if reason == "bad_request" else None)


def unparsed_request(first: bytes, exc: BaseException | None) -> Failure:
    """The failure for a request that cannot be parsed. `first` are the first bytes of its connection."""
    failure = foreign_protocol(first) or _begun_protocol(first, exc)
    if failure is not None:
        return failure
    if isinstance(exc, LineTooLong):
        return Failure("headers_too_large", detail="over 64 kB")
    if isinstance(exc, HttpProcessingError) and exc.message.startswith("HTTP/2"):
        return Failure("http_version_refused", detail=exc.message)
    if isinstance(exc, HttpProcessingError) and exc.message == _INCOMPLETE:
        hint = "Send the whole head at once. If a proxy or load balancer sent it, check the client in front of it."
        return Failure("bad_request", detail="the head is incomplete after 15 s", hint=hint)
    if isinstance(exc, HttpProcessingError) and exc.message.startswith("too many bytes"):
        hint = "Send no body with an opening handshake, and no further request before its answer."
        return Failure("bad_request", detail="over 4 kB after a request that is not answered", hint=hint)
    if isinstance(exc, HttpProcessingError) and exc.message.startswith("Too many headers"):
        return Failure("headers_too_large", detail="over 128 header lines")
    if isinstance(exc, HttpProcessingError) and exc.message == "path too long":
        hint = "Correct the path: the relay serves none of this length."
        return Failure("path_not_found", detail="a path over 1 kB", hint=hint)
    if isinstance(exc, TransferEncodingError):
        hint = "Send no body with an opening handshake, or a valid one."
        return Failure("bad_request", detail="the chunked body is malformed", hint=hint)
    message = exc.message if isinstance(exc, HttpProcessingError) else ""
    for start, detail in _PARSER_MESSAGES.items():
        if message.startswith(start):
            return Failure("bad_request", detail=detail, hint=_NOT_HTTP_HINT)
    name = type(exc).__name__ if isinstance(exc, HttpProcessingError) else "unknown error"
    return Failure("bad_request", detail=f"the request is not valid HTTP/1.1 ({name})", hint=_NOT_HTTP_HINT)


def unsupported_expectation() -> Failure:
    """The failure for an `Expect` header other than 100-continue."""
    return Failure(
        "bad_request",
        detail="an unknown Expect header",
        hint="Remove the header 'Expect', or send 'Expect: 100-continue'.",
    )


def host_refused(authority: str | None) -> Failure:
    """The failure for a request to a host name that the listener does not serve; None is a target of another host."""
    if authority is None:
        return Failure("host_refused", detail="the request names another host in its target")
    host = host_of(authority)
    if host is None:
        return Failure("host_refused", detail="the header Host is malformed")
    return Failure("host_refused", detail=f"Host: {escaped(host)}")


def address_has_its_share(maximum: int) -> Failure:
    """The failure for a request behind a trusted proxy whose client has as many connections as one address may have."""
    return Failure(
        "too_many_connects",
        detail=f"{maximum} of {maximum} connections of one address in use",
        hint="Close connections, or wait until their requests are answered. Operator: half of the limit on open files "
        "(ulimit -n) is for one address; X-Forwarded-For names it.",
    )


def max_body_bytes(message: RawRequestMessage) -> int:
    """How long the body of a request may be: only one whose length is known, at a path that takes one."""
    path = message.path.partition("?")[0]
    takes_body = message.method == "POST" and path in CLIENT_SECRET_PATHS and not message.chunked
    return MAX_BODY_BYTES if takes_body else 0


def secret_method_not_allowed(method: str) -> Failure:
    """The failure for a request for a client secret with a method other than POST."""
    hint = (
        "Create client secrets on the server of the app, and let the page request them from there: the relay answers no CORS "
        "preflight."
        if method == "OPTIONS"
        else "Send POST, with a client token of the relay, from the server of the app."
    )
    return Failure("method_not_allowed", detail="a request for a client secret", hint=hint)


def method_not_allowed(method: str, *, is_internal: bool = False) -> Failure:
    """The failure for a path of the relay that is requested with a method other than GET."""
    hints = {
        "OPTIONS": "Open a WebSocket in the page instead of a request by fetch. A WebSocket needs no CORS preflight.",
        "POST": "Open a WebSocket with GET, or create a client secret with POST to /v1/realtime/client_secrets. The relay "
        "forwards no WebRTC (an SDP offer) and no POST of the API; send those to the provider.",
    }
    known = method if method in {"CONNECT", "DELETE", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"} else "other"
    hint = "Send GET: the internal port serves probes, metrics and documents." if is_internal else hints.get(method)
    return Failure("method_not_allowed", detail=f"method {known}", hint=hint)


def internal_path_not_found() -> Failure:
    """The failure for a path that the internal port does not serve."""
    listed = ", ".join(sorted({*_PROBE_PATHS, *_INTERNAL_PATHS, *_OPERATOR_PATHS}))
    return Failure(
        "path_not_found",
        detail="no path of the internal port",
        hint=f"Request one of the paths of the internal port: {listed}. Clients connect to the public port, RELAY_PORT.",
    )


def path_not_found(method: str, path: str) -> Failure:
    """The failure for a path that no route serves, with the nearest path of the relay where there is one."""
    if method == "CONNECT":
        return Failure(
            "path_not_found",
            detail="a request to a forward proxy",
            hint="Remove the relay from HTTP_PROXY, HTTPS_PROXY and ALL_PROXY of the client: the relay is no forward proxy. "
            "Connect a WebSocket to /v1/realtime of the relay.",
        )
    path = _normalize(path)
    if path in _INTERNAL_PATHS or f"{path}/".startswith("/api/"):
        return Failure(
            "path_not_found",
            detail="a path of the internal port",
            hint="Request it from the internal port, RELAY_INTERNAL_PORT (9464 by default).",
        )
    if _NOT_RELAYED.search(path):
        return Failure(
            "path_not_found",
            detail="an API that the relay does not forward",
            hint="Send this request to the provider. The relay forwards only WebSockets, at /v1/realtime, "
            "/v1/realtime/translations and /v1/live/sessions, and creates client secrets for /v1/realtime only: no WebRTC "
            "calls, forks, chat completions or other REST endpoints.",
        )
    nearest = nearest_path(path)
    if nearest is None:
        return Failure("path_not_found", detail="no path of the relay resembles it")
    return Failure(
        "path_not_found",
        detail=f"the nearest path is {nearest}",
        hint=f"Use {nearest}, the nearest path: check the base URL of the client for a path that is repeated, missing or "
        "misspelt or a trailing slash, and a proxy in front of the relay for a prefix that it has to remove.",
    )


def nearest_path(path: str) -> str | None:
    """The path of the relay that a wrong path resembles, or None."""
    path = _normalize(path)
    if "secret" in path:
        return CLIENT_SECRET_PATHS[0]
    for known in (*WEBSOCKET_PATHS, *_PROBE_PATHS):
        if path == known or path.endswith(known):  # with a prefix that a proxy has not removed, or repeated
            return _SHORT_ALIASES.get(known, known)
    if "/realtime/" in path:  # such as /v1/realtime/ws
        return "/v1/realtime"
    if "/live/" in path or path.endswith("/v1/live"):  # Azure's reference also names /openai/v1/live
        return "/v1/live/sessions"
    close: Iterable[str] = difflib.get_close_matches(path, (*WEBSOCKET_PATHS, *_PROBE_PATHS), n=1, cutoff=0.75)
    return next(iter(close), None)


def _normalize(path: str) -> str:
    """The path in lower case, unquoted, without repeated and trailing slashes."""
    return re.sub(r"/+", "/", f"/{unquote(path[:_MAX_PATH])}").lower().rstrip("/ ") or "/"
