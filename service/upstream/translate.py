"""The border: what upstream and the network say, translated once into a row of the catalogue.

Pure but for naming aiohttp's exceptions. No text from upstream passes: its messages carry pieces of the key, and
`repr` of aiohttp's client errors carries the request's headers. Only the provider's known error codes do.
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

# The provider's error codes, and types where a code is absent, as published or seen on the wire in 2024-2026.
_BY_CODE: Final = {
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
_BY_STATUS: Final = {
    401: "key_rejected",
    402: "quota_exhausted",
    403: "key_forbidden",
    407: "proxy_failed",
    429: "rate_limited",
    451: "region_blocked",
    503: "upstream_overloaded",
    529: "upstream_overloaded",
}
_BY_CLOSE: Final = {
    3000: "key_rejected",
    4004: "model_not_found",
    1001: "upstream_overloaded",
    1012: "upstream_overloaded",
    1013: "upstream_overloaded",
    1008: "key_forbidden",
}
_BY_ERRNO: Final = {
    errno.ECONNREFUSED: "connect_refused",
    errno.ENETUNREACH: "network_unreachable",
    errno.EHOSTUNREACH: "network_unreachable",
    errno.ENETDOWN: "network_unreachable",
    errno.EACCES: "network_unreachable",
    errno.EPERM: "network_unreachable",
    errno.ETIMEDOUT: "connect_timeout",
}
_MISTAKES: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY})
_REASON_SHAPE: Final = re.compile(r"[a-z][a-z_]{0,59}(\.[a-z0-9][a-z0-9_]{0,59})?")


def from_status(status: int, error: ErrorEvent | None, headers: Mapping[str, str], *, is_call: bool) -> Failure:
    """A refused upgrade: its HTTP status, the error in its body if one was understood, its headers."""
    reason = _reason_of_error(error)
    if reason is None and error is not None and status in _MISTAKES:
        reason = "bad_request"  # the provider understood the request, and took something in it for a mistake
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
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status == HTTPStatus.NOT_FOUND:
        return "call_not_found" if is_call else "model_not_found"
    if 300 <= status < 400:  # noqa: PLR2004 - the redirects
        return "redirect_refused"
    if status >= 500 or status == HTTPStatus.REQUEST_TIMEOUT:  # noqa: PLR2004 - server errors, the edge's 52x included
        return "upstream_error"
    return "bad_reply"


def from_events(error: ErrorEvent | None, close_code: int | None, close_reason: str) -> Failure:
    """A refusal behind the 101: the first event, the CLOSE behind it, or only one of the two."""
    shape = close_reason if _REASON_SHAPE.fullmatch(close_reason) else None
    reason = _reason_of_error(error) or _reason_of_close_text(shape)
    if reason is None and close_code is not None:
        reason = _BY_CLOSE.get(close_code)
    if reason is None and error is not None and error.type == "invalid_request_error":
        reason = "bad_request"  # something in this caller's query, not what every caller would meet
    if reason is None:
        reason = "upstream_error" if error is not None else "dropped_early"
    return Failure(
        reason,
        Phase.FIRST_EVENT,
        upstream_code=_known_code(error) or _code_of_close_text(shape),
        close_code=close_code,
        close_reason=shape,
    )


def _reason_of_error(error: ErrorEvent | None) -> str | None:
    if error is None:
        return None
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    # Sentences that come with a null code; matched, never passed on.
    if "Missing scopes" in error.message or "insufficient permissions" in error.message:
        return "key_forbidden"
    if error.message.startswith("Missing bearer"):
        return "key_missing"
    return _BY_CODE.get(error.type)


def _code_of_close_text(shape: str | None) -> str | None:
    code = shape.rpartition(".")[2] if shape else None
    return code if code in ERROR_CODES else None


def _reason_of_close_text(shape: str | None) -> str | None:
    if shape is None:
        return None
    kind, _, code = shape.partition(".")
    return _BY_CODE.get(code) or _BY_CODE.get(kind)


def _known_code(error: ErrorEvent | None) -> str | None:
    if error is None:
        return None
    return next((name for name in (error.code, error.type) if name in ERROR_CODES), None)


def from_exception(exc: BaseException, phase: Phase, *, tls: bool, proxied: bool = False) -> Failure:
    """What aiohttp or the operating system raised while reaching upstream. Nothing of its text is kept."""
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
            return Failure("dropped_early", _reached(phase), detail=name)
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return Failure("bad_reply", _reached(phase), detail=name)
        case OSError():
            return _from_os_error(exc, phase, tls=tls)
        case _:
            return Failure("bad_reply", _reached(phase), detail=name)


def _from_proxy(exc: BaseException, phase: Phase) -> Failure | None:
    """What went wrong with the proxy itself, None if it did its part."""
    name = type(exc).__name__
    match exc:
        case aiohttp.ClientHttpProxyError():
            return Failure("proxy_failed", Phase.CONNECT, http_status=exc.status, detail=_proxy_detail(exc.status))
        case aiohttp.ClientConnectorDNSError():  # the provider's name is for the proxy to resolve
            return Failure("proxy_failed", Phase.DNS, detail="the proxy's own name cannot be resolved")
        case aiohttp.ClientProxyConnectionError():
            return Failure("proxy_failed", Phase.CONNECT, detail="the proxy cannot be reached")
        case aiohttp.ClientConnectorError():  # behind the proxy's 200: who cut the tunnel cannot be known
            return None
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() if phase is Phase.CONNECT:
            return Failure("proxy_failed", Phase.CONNECT, detail=f"the proxy hung up instead of answering ({name})")
        case aiohttp.ClientResponseError() if phase is Phase.CONNECT:
            return Failure("proxy_failed", Phase.CONNECT, detail="what answers at the proxy's address is no HTTP proxy")
        case _:
            return None


def _from_os_error(exc: OSError, phase: Phase, *, tls: bool) -> Failure:
    number = exc.errno
    cause = getattr(exc, "os_error", exc)  # aiohttp's own errors carry asyncio's, whose resets may have no number
    detail = errno.errorcode.get(number, type(exc).__name__) if number is not None else type(cause).__name__
    if phase in {Phase.UPGRADE, Phase.FIRST_EVENT}:
        return Failure("dropped_early", phase, detail=detail)
    if isinstance(cause, ConnectionResetError | ConnectionAbortedError | BrokenPipeError):
        # Connected, then cut. With TLS the handshake was under way; a load balancer that restarts does this, too.
        return Failure("dropped_early", Phase.CONNECT, detail=f"{detail} during the TLS handshake" if tls else detail)
    reason = _BY_ERRNO.get(number, "network_unreachable") if number is not None else "network_unreachable"
    return Failure(reason, Phase.CONNECT, detail=detail)


def from_timeout(phase: Phase) -> Failure:
    """The dial's budget ran out in this phase."""
    match phase:
        case Phase.FIRST_EVENT:
            return Failure("first_event_timeout", phase)
        case Phase.UPGRADE:
            return Failure("reply_timeout", phase)
        case Phase.DNS:
            return Failure("connect_timeout", phase, detail="no answer from DNS")
        case _:
            return Failure("connect_timeout", Phase.CONNECT)


def _reached(phase: Phase) -> Phase:
    return phase if phase in {Phase.UPGRADE, Phase.FIRST_EVENT} else Phase.CONNECT


def _proxy_detail(status: int) -> str:
    """What the proxy's answer to CONNECT means."""
    match status:
        case HTTPStatus.PROXY_AUTHENTICATION_REQUIRED | HTTPStatus.UNAUTHORIZED:  # tinyproxy says 401 to wrong ones
            return f"the proxy wants other credentials ({status})"
        case HTTPStatus.FORBIDDEN | HTTPStatus.METHOD_NOT_ALLOWED:
            return f"the proxy does not allow this host or port ({status})"
        case status if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return f"the proxy cannot reach the provider ({status})"
        case _:
            return f"the proxy answered CONNECT with {status}"


def _certificate_detail(exc: Exception) -> str:
    """OpenSSL's own sentence, such as 'certificate has expired'; it holds no secret and no text of the peer's."""
    message = getattr(exc, "verify_message", None)
    return message if isinstance(message, str) else type(exc).__name__


def parse_retry_after(value: str | None, now: float | None = None) -> int | None:
    """Seconds to wait, from a Retry-After header (RFC 9110 section 10.2.3), held within 1 to 300; None if it is no use."""
    if value is None or len(value) > 64:  # noqa: PLR2004 - no date is longer
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        seconds = float(text)
    else:
        try:
            when = parsedate_to_datetime(text).timestamp()
        except (ValueError, OverflowError, OSError):
            return None
        seconds = when - (time.time() if now is None else now)
    return int(min(max(seconds, 1), RETRY_AFTER_MAX_SECONDS))
