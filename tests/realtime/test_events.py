"""service/realtime/events.py."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.events import HEAD_BYTES, ErrorEvent, event_type, parse_error, type_in_head

names = st.from_regex(r"[a-z_]{1,12}(\.[a-z_]{1,12}){0,3}", fullmatch=True)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(10**6), 10**6), st.text(max_size=20))


values = st.recursive(
    scalars | st.sampled_from(["type", '"type":"error"', "\\"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "error", "a"]) | names, inner, max_size=3)
    ),
    max_leaves=8,
)
kinds = st.sampled_from(["error", "response.done", "session.created", "x"]) | names | st.text(min_size=1, max_size=8)


@st.composite
def escaped(draw: st.DrawFn, text: str) -> str:
    """A JSON string, some of its characters written as escapes."""
    return '"' + "".join(f"\\u{ord(c):04x}" if draw(st.booleans()) else c for c in text) + '"'


@st.composite
def event_texts(draw: st.DrawFn) -> bytes:
    """The JSON text of an object whose `type` is anywhere, escaped or repeated, behind values of any kind and length."""
    members = [
        (json.dumps(key), json.dumps(draw(values))) for key in draw(st.lists(names, max_size=4)) if key != "type"
    ]
    if draw(st.booleans()):
        members.append(('"event_id"', json.dumps("e" * draw(st.integers(0, 1200)))))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2]))):
        key = draw(escaped("type"))
        kind = draw(st.sampled_from(["error", "response.done", "session.updated", "a.b"]))
        members.append((key, draw(escaped(kind)) if draw(st.booleans()) else json.dumps(kind)))
    space = draw(st.sampled_from(["", "", " ", "\n\t "]))
    body = f",{space}".join(f"{key}{space}:{space}{value}" for key, value in draw(st.permutations(members)))
    return (draw(st.sampled_from(["", "\ufeff"])) + f"{space}{{{space}{body}{space}}}").encode()


@given(event_texts())
def test_event_type_is_that_of_a_json_parser(payload: bytes) -> None:
    """Any order of keys, spacing, escapes, nesting, length before the type, and number of types."""
    assert json.loads(payload)["type"] == event_type(payload)


@given(before=st.dictionaries(names, values, max_size=3), kind=kinds, spaced=st.booleans(), rest=values)
def test_event_type_is_found_in_dumped_objects(
    before: dict[str, object], kind: str, *, spaced: bool, rest: object
) -> None:
    """As SDKs write them, the type in any place and of any characters."""
    before.pop("type", None)
    payload = json.dumps(before | {"type": kind, "rest": rest}, separators=None if spaced else (",", ":")).encode()

    assert kind == event_type(payload)
    assert type_in_head(payload[:HEAD_BYTES]) in {kind, None}


@given(st.binary(max_size=HEAD_BYTES))
def test_event_type_accepts_any_bytes(payload: bytes) -> None:
    """Invalid input raises nothing."""
    found = event_type(payload)

    assert found is None or len(found) <= len(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b'{"session":{"type":"realtime"}}',
        b'{"x":"\\"type\\":\\"no\\""}',
        b'{"type":1}',
        b'[{"type":"error"}]',
    ],
)
def test_event_type_ignores_nested_and_quoted_types(payload: bytes) -> None:
    """A `type` within a value is not the type of the event."""
    assert event_type(payload) is None


@pytest.mark.parametrize("first", ["session.created", "response.output_audio.delta"])
@pytest.mark.parametrize(
    "second", [b'"type":"error"', b'"type" : "error"', b'"\\u0074ype":"error"', b'"type":"\\u0065rror"']
)
@pytest.mark.parametrize("filler", [0, 5000])
def test_last_of_two_types_counts(first: str, second: bytes, filler: int) -> None:
    """As in JSON parsers, also far behind the first."""
    payload = b'{"type":"%s","delta":"%s",%s}' % (first.encode(), b"A" * filler, second)

    assert "error" == event_type(payload)


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


@pytest.mark.parametrize(
    "values", [b"[0%b]" % (b",0" * 40_000), b"{%b}" % (b'"a":0,' * 20_000 + b'"a":0'), b"[" * 40_000]
)
def test_event_with_too_many_values_is_not_parsed(values: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser would take tens of milliseconds, in which no other session goes on. The type that the head shows counts."""
    parsed: list[object] = []
    monkeypatch.setattr("service.realtime.events.json.loads", parsed.append)
    late, early = b'{"a":%b,"type":"error"}' % values, b'{"type":"error","type":"error","a":%b}' % values

    assert None is event_type(late)
    assert "error" == event_type(early)
    assert None is parse_error(early)
    assert [] == parsed


@pytest.mark.parametrize("text", ["\\u0041" * 9, "caf\\u00e9", '\\"type\\":\\u0022x\\u0022', "\\\\u0074ype"])
def test_escapes_in_a_text_are_no_reason_to_parse_an_event(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an event whose first bytes show its type: to parse a megabyte of them twice delays other sessions."""
    monkeypatch.setattr("service.realtime.events.parse_object", None)

    assert "session.update" == event_type(f'{{"type":"session.update","a":"{text}","type2":{{"b\\u0065":0}}}}'.encode())
