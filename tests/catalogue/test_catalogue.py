"""service/failures: published codes, texts and limits of the catalogue."""

import dataclasses
from typing import cast

import pytest

from monitoring import promql
from service.failures import ADMISSION_FAILURES, CATALOGUE, DIAL_FAILURES, ENDINGS, START_FAILURES, Blame, Failure, Row
from service.failures.row import RunbookPage, catalogue_of
from service.realtime.closing import MAX_REASON_BYTES, is_sendable_close_code

# The published HTTP status and close code of each reason. A change breaks clients and alerts.
PUBLISHED_CODES = {
    "token_missing token_invalid": (401, None),
    "token_expired token_not_yet_valid secret_used secret_expired": (401, 3000),
    "jwks_unavailable": (503, 1013),
    "client_disabled": (401, 1008),
    "origin_refused api_refused policy_unsupported": (403, None),
    "host_refused": (421, None),
    "bad_request model_refused model_missing session_rejected": (400, 4000),
    "not_a_websocket": (426, None),
    "path_not_found": (404, None),
    "method_not_allowed": (405, None),
    "headers_too_large": (431, None),
    "proxy_protocol http_version_refused tls_refused": (400, None),
    "too_many_sessions too_many_connects too_many_secrets": (429, None),
    "budget_exhausted": (402, 1008),
    "relay_full store_unavailable": (503, 1013),
    "relay_draining": (503, 1001),
    "key_missing key_malformed key_rejected key_forbidden": (424, 3000),
    "region_blocked quota_exhausted beta_shape": (424, 1008),
    "account_refused wrong_host network_not_allowed policy_rejected": (424, 1008),
    "dns_filtered proxy_auth_failed blocked_before_api wrong_base_url": (424, 1008),
    "request_rejected": (424, 4000),
    "limited_before_api": (429, 1013),
    "model_not_found call_not_found": (404, 4004),
    "rate_limited": (429, 1013),
    "upstream_overloaded upstream_error": (503, 1013),
    "dns_failed connect_refused network_unreachable proxy_failed bad_reply redirect_refused dropped_early": (502, 1013),
    "tls_failed tls_untrusted": (502, 1008),
    "connect_timeout reply_timeout first_event_timeout": (504, 1013),
    "client_left": (None, None),
    "live_disabled": (404, None),
    "start_invalid": (None, 4000),
    "start_timeout": (None, 1008),
    "start_repeated instructions_locked field_locked too_many_responses": (None, None),
}
# The failures that count against the objective of 99.5 % and fire alerts. `blame` decides: this list shows its effect.
COUNTED = """
    relay_full store_unavailable jwks_unavailable
    key_missing key_malformed key_rejected key_forbidden region_blocked quota_exhausted beta_shape rate_limited
    upstream_overloaded upstream_error dns_failed connect_refused network_unreachable proxy_failed bad_reply redirect_refused
    dropped_early tls_failed tls_untrusted connect_timeout reply_timeout first_event_timeout internal_error
    account_refused wrong_host network_not_allowed dns_filtered proxy_auth_failed blocked_before_api wrong_base_url
    request_rejected limited_before_api policy_rejected
"""
# The failures that fire no alert, because the client caused them. They count as reconnects of the client.
CAUSED_BY_CLIENT = """
    token_missing token_invalid origin_refused host_refused bad_request model_refused model_missing not_a_websocket
    path_not_found method_not_allowed headers_too_large http_version_refused proxy_protocol tls_refused too_many_sessions
    too_many_connects model_not_found call_not_found client_left live_disabled start_invalid start_timeout start_repeated
    client_disabled api_refused budget_exhausted token_expired token_not_yet_valid
    policy_unsupported instructions_locked field_locked secret_used secret_expired too_many_secrets session_rejected
    too_many_responses
"""
FAILURES = ADMISSION_FAILURES | DIAL_FAILURES | START_FAILURES
EXPECTED = {reason: codes for reasons, codes in PUBLISHED_CODES.items() for reason in reasons.split()}


def test_refusals_and_dial_failures_keep_published_codes() -> None:
    """HTTP status and close code of each reason equal PUBLISHED_CODES."""
    assert {r.reason: (r.http_status, r.close_code) for r in FAILURES.values()} == EXPECTED


def test_blame_decides_what_counts() -> None:
    """Draining fires no alert either, but is no failure of the client."""
    assert sorted(COUNTED.split()) == sorted(promql.COUNTED_REASONS)
    assert sorted([*CAUSED_BY_CLIENT.split(), "relay_draining"]) == sorted(promql.CAUSED_BY_CLIENT)
    assert sorted(CAUSED_BY_CLIENT.split()) == sorted(r for r, row in FAILURES.items() if row.blame is Blame.CLIENT)


def test_unknown_page_is_named() -> None:
    """A row is refused when the catalogue is made, with the pages that exist."""
    row = dataclasses.replace(CATALOGUE["bad_request"], page=cast("RunbookPage", "odd"))

    with pytest.raises(ValueError, match=r"^bad_request: the page is 'odd'; write one of key, account, "):
        catalogue_of(row)


@pytest.mark.parametrize("row", CATALOGUE.values(), ids=lambda row: str(row.reason))
def test_row_fits_every_surface(row: Row) -> None:
    """The close text fits a close frame, the close code may be sent, sentence and remedy end with a full stop."""
    assert len(row.close_text.encode()) <= MAX_REASON_BYTES
    assert row.close_code is None or is_sendable_close_code(row.close_code)
    assert row.sentence.endswith(".")
    assert row.remedy.endswith(".")


def test_definite_failures_have_no_retried_status() -> None:
    """Official clients do not retry the status or close code of a definite failure, except 502 of a TLS failure."""
    for row in CATALOGUE.values():
        if row.is_definite:
            assert row.http_status not in {408, 429, 500, 503, 504}
            assert row.close_code not in {1011, 1012, 1013}


def test_endings_have_no_http_status() -> None:
    """An ending follows the 101, so it has no HTTP status."""
    assert {row.http_status for row in ENDINGS.values()} == {None}


def test_failure_text_is_catalogue_sentence() -> None:
    """`str` of a failure does not include its detail."""
    assert str(Failure("key_rejected", detail="x")) == CATALOGUE["key_rejected"].sentence
