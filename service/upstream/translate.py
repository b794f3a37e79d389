"""Translates every answer of upstream and every network error into one reason of the catalogue.

Answers are translated by the table in `service/failures/translation.py`, exceptions here. No text of upstream passes through:
its messages contain pieces of the key, and `repr` of aiohttp's client errors contains the request's headers. Only values that
have the shape of an error code, an identifier or a server's name do. Pure but for the wall clock, to which Retry-After can
refer.
"""

import errno
import re
import ssl
import time
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import aiohttp

from service.failures import Failure, Phase
from service.failures.translation import ERROR_CODES_OF_PROVIDERS, RULES, STEPS, Responder, Rule
from service.realtime.events import ErrorEvent
from service.upstream.answer import UNNAMED, Answer, code_to_keep, describe_events, describe_response, parse_refusal
from service.upstream.certificates import evidence_of
from service.upstream.hints import for_clients
from service.upstream.proxy import HttpProxy
from service.upstream.resolver import FilteredName
from service.upstream.response_head import HEADS_TOO_LARGE

RETRY_AFTER_MAX_SECONDS: Final = 300
EVIDENCE: Final = frozenset({"answered_by", "server", "path", "ray_id", "request_id", "proxy_error", "base_url_from"})
"""The facts of a refusal that are kept for log, health and doctor."""
_PROXY_SCHEMES: Final = {
    "basic": "Basic",
    "digest": "Digest",
    "negotiate": "Negotiate",
    "ntlm": "NTLM",
    "kerberos": "Kerberos",
}

_REASON_BY_ERRNO: Final = {
    errno.ECONNREFUSED: "connect_refused",
    errno.ENETUNREACH: "network_unreachable",
    errno.EHOSTUNREACH: "network_unreachable",
    errno.ENETDOWN: "network_unreachable",
    errno.EACCES: "network_unreachable",
    errno.EPERM: "network_unreachable",
    errno.ETIMEDOUT: "connect_timeout",
}
_AFTER_CONNECT: Final = frozenset({Phase.UPGRADE, Phase.FIRST_EVENT, Phase.SESSION_START})
_CREDENTIALS_REQUIRED: Final = frozenset(
    {HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, HTTPStatus.UNAUTHORIZED}  # tinyproxy answers 401 to wrong ones
)
_CLOSE_REASON_SHAPE: Final = re.compile(r"[a-z][a-z_]{0,59}(\.[a-z0-9][a-z0-9_]{0,59})?")


def from_status(
    status: int,
    error: ErrorEvent | None,
    headers: Mapping[str, str],
    *,
    is_call: bool,
    is_live: bool = False,
    body: bytes = b"",
    facts: Mapping[str, str] | None = None,
) -> Failure:
    """The failure for an HTTP response other than 101, by `service/failures/translation.py`.

    `error` is the error in its body, None if it has not been parsed. `facts` are those of the request; see `hints`.
    """
    error = error or parse_refusal(body)
    answer = describe_response(status, headers, body, error, is_call=is_call, is_live=is_live)
    rule = find_rule(answer)
    is_api = answer.by is Responder.API
    evidence = {**(facts or {}), **answer.facts}
    return Failure(
        rule.reason,
        Phase.UPGRADE,
        http_status=status,
        upstream_code=code_to_keep(error),
        retry_after_seconds=parse_retry_after(headers.get("Retry-After")),
        detail=None if is_api else f"{evidence['server']} answered with {status}, not the API",
        hint=_fill(rule.hint, evidence),
        client_hint=_fill(rule.hint, for_clients(evidence)),
        evidence={name: value for name, value in evidence.items() if name in EVIDENCE and value not in {"", UNNAMED}},
    )


def from_events(
    error: ErrorEvent | None,
    close_code: int | None,
    close_reason: str,
    *,
    phase: Phase = Phase.FIRST_EVENT,
    facts: Mapping[str, str] | None = None,
) -> Failure:
    """The failure for a refusal after the 101: an `error` event, a close frame, or both.

    With the phase `SESSION_START` it is the answer to the client's `session.start`, in which codes have other meanings.
    """
    close_text = close_reason if _CLOSE_REASON_SHAPE.fullmatch(close_reason) else None
    answer = describe_events(error, close_code, close_text, is_start=phase is Phase.SESSION_START)
    rule = find_rule(answer)
    evidence = {**(facts or {}), **answer.facts}
    return Failure(
        rule.reason,
        phase,
        upstream_code=code_to_keep(error) or _code_of_close_text(close_text),
        close_code=close_code,
        close_reason=close_text,
        hint=_fill(rule.hint, evidence),
        client_hint=_fill(rule.hint, for_clients(evidence)),
        evidence={"answered_by": str(answer.by)} if error is not None or close_text else {},
    )


def find_rule(answer: Answer) -> Rule:
    """The first rule of the table that matches an answer; the last one matches every answer."""
    for _, rules in STEPS:
        # Among the rules by code, the code decides before the type, whatever the order of the rules.
        by_code = [(name,) for name in answer.codes] if rules is ERROR_CODES_OF_PROVIDERS else [answer.codes]
        for names in by_code:
            for rule in rules:
                if _matches(rule, answer, names):
                    return rule
    return RULES[-1]


def _matches(rule: Rule, answer: Answer, codes: Iterable[str]) -> bool:
    return (
        (not rule.by or answer.by in rule.by)
        and (not rule.status or answer.status in rule.status)
        and (not rule.close or answer.close_code in rule.close)
        and (not rule.code or any(code in rule.code for code in codes))
        and (not rule.says or any(part in answer.message for part in rule.says))
        and (rule.trait is None or rule.trait in answer.traits)
        and ("{named_host}" not in rule.hint or "named_host" in answer.facts)
    )


def _fill(hint: str, facts: Mapping[str, str]) -> str | None:
    """The hint with its facts; None if there is none, or if a fact is missing."""
    try:
        return hint.format_map(facts).strip() or None
    except KeyError:
        return None


def _code_of_close_text(close_text: str | None) -> str | None:
    code = close_text.rpartition(".")[2] if close_text else None
    return code_to_keep(ErrorEvent("", code, ""))


def from_exception(exc: BaseException, phase: Phase, *, tls: bool, proxy: HttpProxy | None = None) -> Failure:
    """The failure for an exception of aiohttp or the operating system during a dial. None of its text is kept."""
    name = type(exc).__name__
    if proxy is not None and (failure := _from_proxy(exc, phase, proxy)) is not None:
        return failure
    match exc:
        case aiohttp.ClientConnectorCertificateError():
            return from_certificate_error(exc.certificate_error)
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return Failure("tls_failed", Phase.CONNECT, detail=name)
        case aiohttp.ClientConnectorDNSError() if isinstance(exc.os_error, FilteredName):
            return Failure("dns_filtered", Phase.DNS, detail=f"the name resolves to {exc.os_error.addresses}")
        case aiohttp.ClientConnectorDNSError():
            return Failure("dns_failed", Phase.DNS, detail=name)
        case TimeoutError():
            return from_timeout(phase)
        case aiohttp.ServerDisconnectedError():
            return Failure("dropped_early", _at_least_connect(phase), detail=name)
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return Failure("bad_reply", _at_least_connect(phase), detail=_malformed_detail(exc))
        case OSError():
            return _from_os_error(exc, phase, tls=tls)
        case _:
            return Failure("bad_reply", _at_least_connect(phase), detail=name)


def _malformed_detail(exc: BaseException) -> str:
    """Why aiohttp cannot parse a response. Its message quotes the response, so only the start is compared."""
    message = exc.message if isinstance(exc, aiohttp.ClientResponseError) else ""
    if message.startswith("Got more than"):
        return "a header of the response is over 64 kB"
    if message == HEADS_TOO_LARGE:
        return HEADS_TOO_LARGE
    if message.startswith("Too many headers"):
        return "the response has over 128 header lines"
    return type(exc).__name__


def _from_proxy(exc: BaseException, phase: Phase, proxy: HttpProxy) -> Failure | None:
    """The failure if the proxy itself caused the exception, else None."""
    name = type(exc).__name__
    match exc:
        case aiohttp.ClientHttpProxyError():
            values = exc.headers.getall("Proxy-Authenticate", []) if exc.headers is not None else []
            return from_proxy_status(exc.status, values)
        case aiohttp.ClientSSLError() if (exc.host, exc.port) == proxy.address:
            return from_proxy_tls(exc.os_error, proxy)
        case aiohttp.ClientConnectorDNSError():  # of the proxy's name: the proxy resolves the provider's
            return Failure("proxy_failed", Phase.DNS, detail="the name of the proxy cannot be resolved")
        case aiohttp.ClientProxyConnectionError():
            return Failure("proxy_failed", Phase.CONNECT, detail="the proxy cannot be reached")
        case aiohttp.ClientConnectorError():  # after the proxy's 200: which side closed the tunnel is unknown
            return None
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() if phase is Phase.CONNECT:
            return Failure(
                "proxy_failed", Phase.CONNECT, detail=f"the proxy closed the connection without an answer ({name})"
            )
        case aiohttp.ClientResponseError() if phase is Phase.CONNECT and exc.message.startswith("Got more than"):
            return Failure("proxy_failed", Phase.CONNECT, detail="a header of the proxy's answer is over 8 kB")
        case aiohttp.ClientResponseError() if phase is Phase.CONNECT and exc.message == HEADS_TOO_LARGE:
            return Failure("proxy_failed", Phase.CONNECT, detail=f"the proxy's answer to CONNECT: {HEADS_TOO_LARGE}")
        case aiohttp.ClientResponseError() if phase is Phase.CONNECT:
            return Failure(
                "proxy_failed", Phase.CONNECT, detail="the server at the proxy's address is not an HTTP proxy"
            )
        case _:
            return None


def from_proxy_status(status: int, challenges: Iterable[str]) -> Failure:
    """The failure for a proxy's answer to CONNECT. `challenges` are the values of its Proxy-Authenticate headers."""
    words = [part.split()[0].lower() for value in challenges for part in value.split(",") if part.strip()]
    schemes = list(dict.fromkeys(_PROXY_SCHEMES[word] for word in words if word in _PROXY_SCHEMES))
    if status not in _CREDENTIALS_REQUIRED:
        return Failure("proxy_failed", Phase.CONNECT, http_status=status, detail=_proxy_detail(status))
    detail = _proxy_detail(status)
    if not schemes or "Basic" in schemes:
        return Failure("proxy_auth_failed", Phase.CONNECT, http_status=status, detail=detail)
    names = " and ".join(schemes)
    return Failure(
        "proxy_auth_failed",
        Phase.CONNECT,
        http_status=status,
        detail=f"{detail}; it offers only {names}",
        hint=(
            f"This proxy asks for {names}; the relay knows only Basic. Run a local helper proxy that speaks {names}, such as "
            "px or cntlm, and set RELAY_UPSTREAM_PROXY to its address."
        ),
    )


def _from_os_error(exc: OSError, phase: Phase, *, tls: bool) -> Failure:
    number = exc.errno
    cause = getattr(exc, "os_error", exc)  # aiohttp's errors wrap asyncio's, whose resets may have no errno
    detail = errno.errorcode.get(number, type(exc).__name__) if number is not None else type(cause).__name__
    if phase in _AFTER_CONNECT:
        return Failure("dropped_early", phase, detail=detail)
    if isinstance(cause, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        # Reset after the TCP handshake, with TLS during its own; a load balancer that restarts also causes this.
        return Failure("dropped_early", Phase.CONNECT, detail=f"{detail} during the TLS handshake" if tls else detail)
    reason = _REASON_BY_ERRNO.get(number, "network_unreachable") if number is not None else "network_unreachable"
    return Failure(reason, Phase.CONNECT, detail=detail)


def from_timeout(phase: Phase) -> Failure:
    """The failure for a timeout in this phase of a dial."""
    match phase:
        case Phase.FIRST_EVENT | Phase.SESSION_START:
            return Failure("first_event_timeout", phase)
        case Phase.UPGRADE:
            return Failure("reply_timeout", phase)
        case Phase.DNS:
            return Failure("connect_timeout", phase, detail="no answer from DNS")
        case _:
            return Failure("connect_timeout", Phase.CONNECT)


def _at_least_connect(phase: Phase) -> Phase:
    return phase if phase in _AFTER_CONNECT else Phase.CONNECT


def _proxy_detail(status: int) -> str:
    match status:
        case HTTPStatus.PROXY_AUTHENTICATION_REQUIRED | HTTPStatus.UNAUTHORIZED:
            return f"the proxy requires valid credentials ({status})"
        case HTTPStatus.FORBIDDEN | HTTPStatus.METHOD_NOT_ALLOWED:
            return f"the proxy does not allow this host or port ({status})"
        case status if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return f"the proxy cannot reach the provider ({status})"
        case _:
            return f"the proxy answered CONNECT with {status}"


def from_certificate_error(exc: BaseException) -> Failure:
    """The failure for a certificate that OpenSSL refuses. Its message contains no secret and no text of the peer."""
    message = getattr(exc, "verify_message", None)
    detail = message if isinstance(message, str) and message else type(exc).__name__
    return Failure("tls_untrusted", Phase.CONNECT, detail=detail, evidence=evidence_of(exc))


def from_proxy_tls(exc: OSError, proxy: HttpProxy) -> Failure:
    """The failure for a TLS handshake with an https:// proxy."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        failure = from_certificate_error(exc)
        detail = f"the certificate of the proxy is not trusted: {failure.detail}"
        return Failure("proxy_failed", Phase.CONNECT, detail=detail, evidence=failure.evidence)
    return Failure(
        "proxy_failed",
        Phase.CONNECT,
        detail="the TLS handshake with the proxy failed",
        hint=f"Write http:// in place of https:// in {proxy.origin}, and restart the relay: most proxies speak plain HTTP "
        "with their clients. If this one speaks TLS, check its port.",
    )


def parse_retry_after(value: str | None, now: float | None = None) -> int | None:
    """The seconds of a Retry-After header (RFC 9110 section 10.2.3), limited to 1 to 300; None if it cannot be parsed.

    `now` is the wall clock, for dates.
    """
    if value is None or len(value) > 64:  # noqa: PLR2004 - longer than any date
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text)
    else:
        try:
            date = parsedate_to_datetime(text).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
        seconds = date - (time.time() if now is None else now)
    return int(min(max(seconds, 1), RETRY_AFTER_MAX_SECONDS))
