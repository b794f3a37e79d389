"""service/realtime/events.py."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.events import HEAD_BYTES, ErrorEvent, event_type, parse_error

names = st.from_regex(r"[a-z_]{1,12}(\.[a-z_]{1,12}){0,3}", fullmatch=True)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(10**6), 10**6), st.text(max_size=20))


@given(before=st.dictionaries(names, scalars, max_size=3), kind=names, spaced=st.booleans(), rest=st.text(max_size=900))
def test_event_type_is_found_after_scalar_values(
    before: dict[str, object], kind: str, *, spaced: bool, rest: str
) -> None:
    """Any spacing and order of scalar keys: the type within the first bytes is found, and never another one."""
    before.pop("type", None)
    text = json.dumps(before | {"type": kind, "rest": rest}, separators=None if spaced else (",", ":")).encode()
    prefix = len(json.dumps(before)) + len(kind) + 40
    found = event_type(text[:HEAD_BYTES])

    assert found in {kind, None}
    assert found == kind or prefix > HEAD_BYTES


@given(st.binary(max_size=HEAD_BYTES))
def test_event_type_accepts_any_bytes(head: bytes) -> None:
    """Invalid input gives None or a substring of the input, never an exception."""
    found = event_type(head)

    assert found is None or found.encode() in head


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"[]",
        b'{"session":{"type":"realtime"},"type":"session.update"}',
        b'{"x":"\\"type\\":\\"no\\""}',
        b'{"type":1}',
    ],
)
def test_event_type_ignores_nested_and_quoted_types(head: bytes) -> None:
    """A `type` within a value is not the type of the event."""
    assert event_type(head) is None


def test_error_is_parsed_from_event_and_http_body() -> None:
    """A code outside the closed set gets the label `other`."""
    known = parse_error(b'{"type":"error","error":{"type":"t","code":"invalid_api_key","message":"m"}}')
    unknown = parse_error('{"error":{"code":"sk-made-up","type":5}}')

    assert known == ErrorEvent("t", "invalid_api_key", "m")
    assert known.label == "invalid_api_key"
    assert unknown is not None
    assert unknown.label == "other"


@given(
    st.binary(max_size=200).filter(lambda body: b"{" not in body)
    | st.just(b"[" * 100_000)
    | st.just(b'{"a":' * 100_000)
)
def test_parse_error_returns_none_without_an_error(body: bytes) -> None:
    """HTML, random bytes and deep nesting contain no error and raise nothing."""
    assert parse_error(body) is None
