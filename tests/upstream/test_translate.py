"""Translation of errors into reasons, and targets."""

import errno
import re

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from service.failures import CATALOGUE, Failure, Phase
from service.realtime.events import ErrorEvent, parse_error
from service.realtime.keys import Secret
from service.upstream import translate
from service.upstream.proxy import HttpProxy
from service.upstream.target import DialRequest, Target


def os_error(number: int | None) -> OSError:
    """An error of the operating system."""
    return OSError(number, "text with CANARY") if number is not None else OSError("text with CANARY")


@pytest.mark.parametrize(
    ("number", "phase", "tls", "reason"),
    [
        (errno.ECONNREFUSED, Phase.CONNECT, True, "connect_refused"),
        (errno.ENETUNREACH, Phase.CONNECT, True, "network_unreachable"),
        (errno.EHOSTUNREACH, Phase.CONNECT, False, "network_unreachable"),
        (errno.ETIMEDOUT, Phase.CONNECT, True, "connect_timeout"),
        (errno.ECONNRESET, Phase.CONNECT, True, "dropped_early"),
        (errno.ECONNRESET, Phase.UPGRADE, True, "dropped_early"),
        (errno.EPIPE, Phase.CONNECT, False, "dropped_early"),
        (None, Phase.CONNECT, True, "network_unreachable"),
    ],
)
def test_network_error_maps_to_reason(number: int | None, phase: Phase, tls: bool, reason: str) -> None:
    """None of its text is kept."""
    failure = translate.from_exception(os_error(number), phase, tls=tls)

    assert reason == failure.reason
    assert "CANARY" not in repr(failure)


def test_refusal_by_the_proxy_maps_to_proxy_failed() -> None:
    """By exception and by status 407."""
    request = aiohttp.RequestInfo(URL("http://x"), "GET", {}, URL("http://x"))  # type: ignore[arg-type]  # any mapping does
    error = aiohttp.ClientHttpProxyError(request, (), status=403)

    assert (
        translate.from_exception(error, Phase.CONNECT, tls=True, proxy=HttpProxy("http://proxy:3128", "x")).reason
        == "proxy_failed"
    )
    assert translate.from_status(407, None, {}, is_call=False).reason == "proxy_auth_failed"


@given(
    status=st.integers(100, 999),
    body=st.binary(max_size=100)
    | st.sampled_from([b'{"error":{"code":"insufficient_quota"}}', b'{"error":{"code":5}}']),
    code=st.none() | st.integers(0, 70_000),
    reason=st.text(max_size=130),
)
def test_any_refusal_maps_to_a_reason_of_the_catalogue(status: int, body: bytes, code: int | None, reason: str) -> None:
    """Of the provider's text only known codes and close reasons of the known form are kept."""
    error = parse_error(body)
    for failure in (
        translate.from_status(status, error, {"Retry-After": reason}, is_call=False),
        translate.from_events(error, code, reason),
    ):
        assert failure.reason in CATALOGUE
        assert re.fullmatch(r"[a-z][a-z0-9_.]*", failure.close_reason or "none")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("mismatched_organization", "key_forbidden"),
        ("billing_hard_limit_reached", "quota_exhausted"),
        ("project_spend_limit_exceeded", "quota_exhausted"),
        ("inference_rate_limit_exceeded", "rate_limited"),
        ("missing_model", "request_rejected"),
        ("call_id_not_found", "call_not_found"),
        ("something_new", "request_rejected"),
    ],
)
def test_error_code_maps_to_reason(code: str, reason: str) -> None:
    """An unknown code of an invalid_request_error is a rejected request."""
    assert reason == translate.from_events(ErrorEvent("invalid_request_error", code, ""), None, "").reason


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7),
        ("0", 1),
        ("-1", None),
        ("1000000000", 300),
        ("Thu, 01 Jan 1970 00:00:30 GMT", 20),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 1),
        ("soon", None),
        ("1" * 10_000, None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_parsed_and_limited(value: str | None, seconds: int | None) -> None:
    """Seconds and dates, limited to 1 to 300."""
    assert seconds == translate.parse_retry_after(value, now=10.0)


@given(st.text(max_size=80))
def test_retry_after_never_raises_and_never_exceeds_five_minutes(value: str) -> None:
    """For any header value."""
    assert translate.parse_retry_after(value) in {None, *range(1, 301)}


@pytest.mark.parametrize(
    ("url", "label", "header"),
    [
        ("https://api.openai.com/v1", "openai", "Authorization"),
        ("https://eu.api.openai.com/v1", "openai", "Authorization"),
        ("https://openai.com.evil.example/v1", "compatible", "Authorization"),
        ("https://res.openai.azure.com/openai/v1", "azure", "api-key"),
        ("http://127.0.0.1:9/v1", "compatible", "Authorization"),
    ],
)
def test_target_derives_provider_and_key_header_from_the_host(url: str, label: str, header: str) -> None:
    """The query is encoded again, so that a value cannot add a parameter."""
    target = Target(url, Secret("k"))

    assert label == target.label
    assert {"Authorization", "api-key"} & target.headers().keys() == {header}
    request = DialRequest(query=(("model", "a&b=c"), ("x", "y z")))
    assert str(target.socket_url(request)).startswith(f"{url}/realtime?model=a%26b%3Dc&x=y")
    assert isinstance(Failure("bad_reply"), Exception)
