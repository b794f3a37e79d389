"""Translates every answer of upstream and every network error into one reason of the catalogue.

No text of upstream passes through it: its messages contain pieces of the key, and `repr` of aiohttp's client errors contains
the request's headers. Only error codes from a closed set do. Pure but for the wall clock, to which Retry-After can refer.
"""

import errno
import re
import ssl
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import aiohttp

from service.failures import Failure, Phase
from service.realtime.events import ERROR_CODES, ErrorEvent

RETRY_AFTER_MAX_SECONDS: Final = 300

# The provider's error codes, and types for errors without a code, as published or observed in 2024-2026.
_REASON_BY_CODE: Final = {
    "invalid_api_key": "key_rejected",
    "account_deactivated": "key_rejected",
    "insufficient_permissions": "key_forbidden",
    "mismatched_organization": "key_forbidden",
    "no_matching_rule": "key_forbidden",
    "insufficient_quota": "quota_exhausted",
    "credit_balance_exhausted": "quota_exhausted",
    "billing_hard_limit_reached": "quota_exhausted",
    "organization_spend_limit_exceeded": "quota_exhausted",
    "project_spend_limit_exceeded": "quota_exhausted",
    "rate_limit_exceeded": "rate_limited",
    "inference_rate_limit_exceeded": "rate_limited",
    "beta_api_shape_disabled": "beta_shape",
    "invalid_model": "model_not_found",
    "model_not_found": "model_not_found",
    "missing_model": "model_missing",
    "call_id_not_found": "call_not_found",
    "unsupported_country_region_territory": "region_blocked",
    "request_forbidden": "region_blocked",
    "invalid_intent": "bad_request",
    "server_error": "upstream_error",
}
_REASON_BY_STATUS: Final = {
    401: "key_rejected",
    402: "quota_exhausted",
    403: "key_forbidden",
    407: "proxy_failed",
    429: "rate_limited",
    451: "region_blocked",
    503: "upstream_overloaded",
    529: "upstream_overloaded",
}
_REASON_BY_CLOSE_CODE: Final = {
    3000: "key_rejected",
    4004: "model_not_found",
    1001: "upstream_overloaded",
    1012: "upstream_overloaded",
    1013: "upstream_overloaded",
    1008: "key_forbidden",
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
_BAD_REQUEST_STATUSES: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
_CLOSE_REASON_SHAPE: Final = re.compile(r"[a-z][a-z_]{0,59}(\.[a-z0-9][a-z0-9_]{0,59})?")


def from_status(status: int, error: ErrorEvent | None, headers: Mapping[str, str], *, is_call: bool) -> Failure:
    """The failure for an HTTP response other than 101. `error` is the error in its body, None if it has none that parses."""
    reason = _reason_of_error(error)
    if reason is None and error is not None and status in _BAD_REQUEST_STATUSES:
        reason = "bad_request"  # the provider parsed the request and found a mistake in it
    if reason is None:
        reason = _reason_of_status(status, is_call=is_call)
    elif reason == "upstream_error" and status == HTTPStatus.SERVICE_UNAVAILABLE:
        reason = "upstream_overloaded"
    return Failure(
        reason,
        Phase.UPGRADE,
        http_status=status,
        upstream_code=_known_code(error),
        retry_after_seconds=parse_retry_after(headers.get("Retry-After")),
    )


def _reason_of_status(status: int, *, is_call: bool) -> str:
    if status in _REASON_BY_STATUS:
        return _REASON_BY_STATUS[status]
    if status == HTTPStatus.NOT_FOUND:
        return "call_not_found" if is_call else "model_not_found"
    if 300 <= status < 400:  # noqa: PLR2004 - the redirects
        return "redirect_refused"
    if status >= 500 or status == HTTPStatus.REQUEST_TIMEOUT:  # noqa: PLR2004 - server errors, the edge's 52x included
        return "upstream_error"
    return "bad_reply"


def from_events(error: ErrorEvent | None, close_code: int | None, close_reason: str) -> Failure:
    """The failure for a refusal after the 101: an `error` event, a close frame, or both."""
    close_text = close_reason if _CLOSE_REASON_SHAPE.fullmatch(close_reason) else None
    reason = _reason_of_error(error) or _reason_of_close_text(close_text)
    if reason is None and close_code is not None:
        reason = _REASON_BY_CLOSE_CODE.get(close_code)
    if reason is None and error is not None and error.type == "invalid_request_error":
        reason = "bad_request"  # a mistake in this client's query, which does not affect other clients
    if reason is None:
        reason = "upstream_error" if error is not None else "dropped_early"
    return Failure(
        reason,
        Phase.FIRST_EVENT,
        upstream_code=_known_code(error) or _code_of_close_text(close_text),
        close_code=close_code,
        close_reason=close_text,
    )


def _reason_of_error(error: ErrorEvent | None) -> str | None:
    if error is None:
        return None
    if error.code in _REASON_BY_CODE:
        return _REASON_BY_CODE[error.code]
    # Messages of errors without a code. They are matched and not passed on.
    if "Missing scopes" in error.message or "insufficient permissions" in error.message:
        return "key_forbidden"
    if error.message.startswith("Missing bearer"):
        return "key_missing"
    return _REASON_BY_CODE.get(error.type)


def _code_of_close_text(close_text: str | None) -> str | None:
    code = close_text.rpartition(".")[2] if close_text else None
    return code if code in ERROR_CODES else None


def _reason_of_close_text(close_text: str | None) -> str | None:
    if close_text is None:
        return None
    error_type, _, code = close_text.partition(".")
    return _REASON_BY_CODE.get(code) or _REASON_BY_CODE.get(error_type)


def _known_code(error: ErrorEvent | None) -> str | None:
    if error is None:
        return None
    return next((name for name in (error.code, error.type) if name in ERROR_CODES), None)


def from_exception(exc: BaseException, phase: Phase, *, tls: bool, proxied: bool = False) -> Failure:
    """The failure for an exception of aiohttp or the operating system during a dial. None of its text is kept."""
    name = type(exc).__name__
    if proxied and (failure := _from_proxy(exc, phase)) is not None:
        return failure
    match exc:
        case aiohttp.ClientConnectorCertificateError():
            return Failure("tls_untrusted", Phase.CONNECT, detail=_certificate_detail(exc.certificate_error))
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return Failure("tls_failed", Phase.CONNECT, detail=name)
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
    if message.startswith("Too many headers"):
        return "the response has over 128 header lines"
    return type(exc).__name__


def _from_proxy(exc: BaseException, phase: Phase) -> Failure | None:
    """The failure if the proxy itself caused the exception, else None."""
    name = type(exc).__name__
    match exc:
        case aiohttp.ClientHttpProxyError():
            return Failure("proxy_failed", Phase.CONNECT, http_status=exc.status, detail=_proxy_detail(exc.status))
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
        case aiohttp.ClientResponseError() if phase is Phase.CONNECT:
            return Failure(
                "proxy_failed", Phase.CONNECT, detail="the server at the proxy's address is not an HTTP proxy"
            )
        case _:
            return None


def _from_os_error(exc: OSError, phase: Phase, *, tls: bool) -> Failure:
    number = exc.errno
    cause = getattr(exc, "os_error", exc)  # aiohttp's errors wrap asyncio's, whose resets may have no errno
    detail = errno.errorcode.get(number, type(exc).__name__) if number is not None else type(cause).__name__
    if phase in {Phase.UPGRADE, Phase.FIRST_EVENT}:
        return Failure("dropped_early", phase, detail=detail)
    if isinstance(cause, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        # Reset after the TCP handshake, with TLS during its own; a load balancer that restarts also causes this.
        return Failure("dropped_early", Phase.CONNECT, detail=f"{detail} during the TLS handshake" if tls else detail)
    reason = _REASON_BY_ERRNO.get(number, "network_unreachable") if number is not None else "network_unreachable"
    return Failure(reason, Phase.CONNECT, detail=detail)


def from_timeout(phase: Phase) -> Failure:
    """The failure for a timeout in this phase of a dial."""
    match phase:
        case Phase.FIRST_EVENT:
            return Failure("first_event_timeout", phase)
        case Phase.UPGRADE:
            return Failure("reply_timeout", phase)
        case Phase.DNS:
            return Failure("connect_timeout", phase, detail="no answer from DNS")
        case _:
            return Failure("connect_timeout", Phase.CONNECT)


def _at_least_connect(phase: Phase) -> Phase:
    return phase if phase in {Phase.UPGRADE, Phase.FIRST_EVENT} else Phase.CONNECT


def _proxy_detail(status: int) -> str:
    match status:
        case HTTPStatus.PROXY_AUTHENTICATION_REQUIRED | HTTPStatus.UNAUTHORIZED:  # tinyproxy answers 401 to wrong ones
            return f"the proxy requires valid credentials ({status})"
        case HTTPStatus.FORBIDDEN | HTTPStatus.METHOD_NOT_ALLOWED:
            return f"the proxy does not allow this host or port ({status})"
        case status if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return f"the proxy cannot reach the provider ({status})"
        case _:
            return f"the proxy answered CONNECT with {status}"


def _certificate_detail(exc: Exception) -> str:
    """OpenSSL's message, such as 'certificate has expired'. It contains no secret and no text of the peer."""
    message = getattr(exc, "verify_message", None)
    return message if isinstance(message, str) else type(exc).__name__


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
