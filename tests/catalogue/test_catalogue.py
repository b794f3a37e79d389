"""service/failures.py: published codes, texts and limits of the catalogue."""

import pytest

from service.failures import CATALOGUE, DIAL_FAILURES, ENDINGS, REFUSALS, Failure, Row
from service.realtime.closing import MAX_REASON_BYTES, is_sendable_close_code

# The published HTTP status and close code of each reason. A change breaks clients and alerts.
PUBLISHED_CODES = {
    "token_missing token_invalid": (401, None),
    "origin_refused": (403, None),
    "bad_request model_refused model_missing": (400, 4000),
    "not_a_websocket": (426, None),
    "too_many_sessions too_many_connects": (429, None),
    "relay_full": (503, 1013),
    "relay_draining": (503, 1001),
    "key_missing key_malformed key_rejected key_forbidden": (424, 3000),
    "region_blocked quota_exhausted beta_shape": (424, 1008),
    "model_not_found call_not_found": (404, 4004),
    "rate_limited": (429, 1013),
    "upstream_overloaded upstream_error": (503, 1013),
    "dns_failed connect_refused network_unreachable proxy_failed bad_reply redirect_refused dropped_early": (502, 1013),
    "tls_failed tls_untrusted": (502, 1008),
    "connect_timeout reply_timeout first_event_timeout": (504, 1013),
    "client_left": (None, None),
}
EXPECTED = {reason: codes for reasons, codes in PUBLISHED_CODES.items() for reason in reasons.split()}


def test_refusals_and_dial_failures_keep_published_codes() -> None:
    """HTTP status and close code of each reason equal PUBLISHED_CODES."""
    assert {r.reason: (r.http_status, r.close_code) for r in (REFUSALS | DIAL_FAILURES).values()} == EXPECTED


@pytest.mark.parametrize("row", CATALOGUE.values(), ids=lambda row: str(row.reason))
def test_row_fits_every_surface(row: Row) -> None:
    """The close text fits a close frame, the close code may be sent, sentence and remedy end with a full stop."""
    assert len(row.close_text.encode()) <= MAX_REASON_BYTES
    assert row.close_code is None or is_sendable_close_code(row.close_code)
    assert row.sentence.endswith(".")
    assert row.remedy.endswith(".")


def test_permanent_failures_have_no_retried_status() -> None:
    """If `retry` is `never`, official clients do not retry the status or close code, except 502 of a TLS failure."""
    for row in CATALOGUE.values():
        if row.retry == "never":
            assert row.http_status not in {408, 429, 500, 503, 504}
            assert row.close_code not in {1011, 1012, 1013}


def test_endings_have_no_http_status() -> None:
    """An ending follows the 101, so it has no HTTP status."""
    assert {row.http_status for row in ENDINGS.values()} == {None}


def test_failure_text_is_catalogue_sentence() -> None:
    """`str` of a failure does not include its detail."""
    assert str(Failure("key_rejected", detail="x")) == CATALOGUE["key_rejected"].sentence
