"""Who answered a request, and the facts of its answer: the input of the translation table. Pure.

The provider's edge adds its headers to the API's own answers too, so the body decides before them: only the API sends its
error object. Headers decide where the body does not.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from service.failures.translation import KNOWN_CODES, Responder, Trait
from service.realtime.events import ERROR_CODES, ErrorEvent, parse_object
from service.realtime.redaction import redact

_NO_STATUSES: Final = frozenset(
    {"bad_request", "badrequest", "unauthorized", "forbidden", "access_denied", "invalid_request_error"}
)
"""Codes that only repeat the status or the kind of error."""
_CODE: Final = re.compile(r"(?:\d{3}|[A-Za-z]{2,24}(?:_[A-Za-z]{1,24}|_\d{1,4}){0,7}|[A-Z][A-Za-z]{1,39})")
_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,79}")
_SERVER: Final = re.compile(r"[A-Za-z][A-Za-z0-9 ./()_-]{0,39}")
_NAMED_HOST: Final = re.compile(r"\b((?:[a-z]{2,6}\.)?api\.openai\.com)\b")
_CHALLENGE_TITLES: Final = (b"<title>just a moment", b"/cdn-cgi/challenge-platform/")
_MAX_MESSAGE: Final = 4096
UNNAMED: Final = "A server without a name"

# Headers that only the API sends, with an empty body too; for Azure those of its gateway.
_API_HEADERS: Final = ("openai-processing-ms", "openai-version", "x-openai-proxy-wasm", "apim-request-id")
# Header, part of its value in lower case ("" for any), name for people. In this order. `Via` is not among them: a proxy that
# intercepts TLS adds it to the API's own answers.
_PROXIES: Final = (
    ("X-Squid-Error", "", "Squid"),
    ("Proxy-Authenticate", "", "an HTTP proxy"),
    ("Server", "squid", "Squid"),
    ("Server", "zscaler", "Zscaler"),
    ("Server", "bluecoat", "Blue Coat"),
    ("Server", "proxysg", "Blue Coat"),
    ("Server", "netskope", "Netskope"),
    ("Server", "mcafee", "McAfee Web Gateway"),
    ("Server", "fortigate", "FortiGate"),
    ("Server", "xxxxxxxx-xxxxx", "FortiGate"),
    ("Server", "tinyproxy", "tinyproxy"),
    ("Server", "privoxy", "Privoxy"),
)
_OWN_ERRORS_OF_PROXIES: Final = ("X-Squid-Error", "Proxy-Authenticate")
_EDGES: Final = (
    ("cf-mitigated", "", "Cloudflare"),
    ("CF-RAY", "", "Cloudflare"),
    ("Server", "cloudflare", "Cloudflare"),
    ("X-Amz-Cf-Id", "", "CloudFront"),
    ("Server", "cloudfront", "CloudFront"),
    ("Server", "akamai", "Akamai"),
    ("X-Azure-Ref", "", "Azure Front Door"),
    ("X-Iinfo", "", "Imperva"),
    ("X-Sucuri-Id", "", "Sucuri"),
    ("Server", "awselb", "AWS load balancer"),
    ("X-Served-By", "cache-", "Fastly"),
)
_PAGES_OF_PROXIES: Final = (
    (b"fortiguard", "FortiGuard"),
    (b"zscaler", "Zscaler"),
    (b"zscloud", "Zscaler"),
    (b"netskope", "Netskope"),
    (b"forcepoint", "Forcepoint"),
    (b"websense", "Forcepoint"),
    (b"blue coat", "Blue Coat"),
    (b"cisco umbrella", "Cisco Umbrella"),
    (b"squid", "Squid"),
)
_REQUEST_IDS: Final = ("x-request-id", "apim-request-id", "x-ms-request-id", "x-amzn-requestid")


@dataclass(frozen=True, slots=True)
class Answer:
    """A refusal, as the table sees it. `codes` are the error code and the error type; `facts` fill hints and logs."""

    by: Responder
    status: int | None = None
    close_code: int | None = None
    codes: tuple[str, ...] = ()
    message: str = ""
    traits: frozenset[Trait] = frozenset()
    facts: Mapping[str, str] = field(default_factory=dict)


def describe_response(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    error: ErrorEvent | None,
    *,
    is_call: bool,
    is_live: bool = False,
) -> Answer:
    """Describe an HTTP response other than 101. `error` is an error that was parsed before, if any."""
    error = error or parse_refusal(body)
    by, name = _responder(headers, body, error)
    if by is not Responder.API:
        error = None
    traits = _error_traits(error)
    page = body[:_MAX_MESSAGE].lower()
    if by is not Responder.API and (
        headers.get("cf-mitigated") or (by is Responder.EDGE and any(title in page for title in _CHALLENGE_TITLES))
    ):
        traits |= {Trait.CHALLENGE}
    if is_call and (error is not None or not body):
        traits |= {Trait.CALL}
    if is_live:
        traits |= {Trait.LIVE}
    trace = _trace_of(headers)
    facts = (
        {"answered_by": str(by), "status": str(status), "server": name if by is not Responder.API else ""}
        | trace
        | _facts_of(error)
    )
    ray_id = trace.get("ray_id")
    facts["trace_advice"] = f"Quote the ray id {ray_id} to the support of the provider." if ray_id else ""
    return Answer(by, status, None, _codes_of(error), _message_of(error), frozenset(traits), facts)


def describe_events(
    error: ErrorEvent | None, close_code: int | None, close_text: str | None, *, is_start: bool = False
) -> Answer:
    """Describe a refusal after the 101: only the API's endpoint sends one. `is_start`: it answers `session.start`."""
    error_type, _, code = (close_text or "").partition(".")
    codes = tuple(dict.fromkeys(filter(None, (*_codes_of(error), code.lower(), error_type.lower()))))
    traits = _error_traits(error)
    if error is None and code and code.lower() not in KNOWN_CODES:
        traits |= {Trait.UNKNOWN_CODE}
    if is_start:
        traits |= {Trait.START}
    facts = {"answered_by": str(Responder.API)} | _facts_of(error)
    return Answer(Responder.API, None, close_code, codes, _message_of(error), frozenset(traits), facts)


def parse_refusal(body: bytes) -> ErrorEvent | None:
    """The error of a refused request: `{"error": {...}}`, or Azure's flat `{"code" or "statusCode", "message"}`."""
    parsed = parse_object(body)
    nested = parsed.get("error")
    if isinstance(nested, Mapping):
        return _error_of(nested)
    is_flat = isinstance(parsed.get("message"), str) and ("code" in parsed or "statusCode" in parsed)
    return _error_of(parsed) if is_flat and "cloudflare_error" not in parsed else None


def code_to_keep(error: ErrorEvent | None) -> str | None:
    """The provider's code, or else its type, if it has the shape of one; it may be unknown."""
    if error is None:
        return None
    names = [name for name in (error.code or "", error.type) if name != "invalid_request_error"]
    return next((name for name in names if name in ERROR_CODES), None) or next(
        (name for name in names if _CODE.fullmatch(name) and redact(name) == name), None
    )


def _error_of(parsed: Mapping[str, Any]) -> ErrorEvent:
    def text(value: object) -> str:
        is_number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10_000  # noqa: PLR2004 - a code
        return str(value) if is_number else value if isinstance(value, str) else ""

    code = text(parsed.get("code")) or text(parsed.get("statusCode"))
    return ErrorEvent(text(parsed.get("type")), code or None, text(parsed.get("message")))


def _responder(headers: Mapping[str, str], body: bytes, error: ErrorEvent | None) -> tuple[Responder, str]:
    proxy = _named_in(headers, _PROXIES)
    edge = _named_in(headers, _EDGES)
    is_own_page = any(name in headers for name in _OWN_ERRORS_OF_PROXIES)
    if error is not None and not is_own_page:
        return Responder.API, "The API"
    page = body[:_MAX_MESSAGE].lower()
    is_page = "html" in headers.get("Content-Type", "").lower() or b"<html" in page or b"<title" in page
    if is_page and proxy is None:
        proxy = next((name for mark, name in _PAGES_OF_PROXIES if mark in page), None)
    if proxy is not None:
        return Responder.PROXY, proxy
    if not is_page and not body and any(name in headers for name in _API_HEADERS):
        return Responder.API, "The API"
    if edge is not None:
        return Responder.EDGE, edge
    server = headers.get("Server", "").strip()
    if server and _SERVER.fullmatch(server) and redact(server) == server:
        return Responder.OTHER, server
    return (Responder.OTHER if body or server else Responder.UNKNOWN), UNNAMED


def _named_in(headers: Mapping[str, str], table: tuple[tuple[str, str, str], ...]) -> str | None:
    for header, part, name in table:
        value = headers.get(header)
        if value is not None and part in value.lower():
            return name
    return None


def _error_traits(error: ErrorEvent | None) -> set[Trait]:
    if error is None:
        return set()
    code = (error.code or "").lower()
    is_unknown = bool(code) and not code.isdigit() and code not in _NO_STATUSES and code not in KNOWN_CODES
    return {Trait.ERROR, Trait.UNKNOWN_CODE} if is_unknown else {Trait.ERROR}


def _codes_of(error: ErrorEvent | None) -> tuple[str, ...]:
    return () if error is None else tuple(name.lower() for name in (error.code, error.type) if name)


def _message_of(error: ErrorEvent | None) -> str:
    return "" if error is None else error.message[:_MAX_MESSAGE].lower()


def _facts_of(error: ErrorEvent | None) -> dict[str, str]:
    found = _NAMED_HOST.search(_message_of(error))
    return {"named_host": found[1]} if found else {}


def _trace_of(headers: Mapping[str, str]) -> dict[str, str]:
    """The identifiers that the support of an edge, a proxy or the provider asks for."""
    squid = headers.get("X-Squid-Error", "").split(" ")[0]
    values = {
        "ray_id": headers.get("CF-RAY", ""),
        "request_id": next((headers[name] for name in _REQUEST_IDS if headers.get(name)), ""),
        "proxy_error": squid,
    }
    return {name: value for name, value in values.items() if _IDENTIFIER.fullmatch(value) and redact(value) == value}
