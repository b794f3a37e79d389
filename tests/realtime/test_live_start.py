"""The strict reading of `session.start`: its models are found, as any JSON parser finds them, or it is refused."""

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.live_start import InvalidStart, RequestedModels, parse_start, parse_update
from tests.support.memory_transport import examples

MODELS = st.sampled_from(["gpt-live-1", "gpt-live-1.1", "gpt-5-mini"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@examples(30)  # Hypothesis takes 30 ms to make one
@given(
    model=MODELS,
    backend=MODELS,
    others=st.dictionaries(st.text().filter(lambda key: key not in {"model", "delegation"}), JSON),
)
def test_models_are_found_in_every_valid_start(model: str, backend: str, others: dict[str, Any]) -> None:
    """Beside any other fields, whose keys may need escapes."""
    session = others | {"model": model, "delegation": {"type": "responses", "responses": {"model": backend}}}
    session.pop("triggers", None)
    payload = json.dumps({"type": "session.start", "session": session}).encode()

    assert RequestedModels(model, (backend,)) == parse_start(payload, is_text=True)


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()), st.booleans())
def test_any_bytes_are_refused_or_read(payload: bytes, is_text: bool) -> None:
    """Nothing but InvalidStart is raised."""
    with suppress(InvalidStart):
        parse_start(payload, is_text=is_text)
    with suppress(InvalidStart):
        parse_update(payload)


@pytest.mark.parametrize("depth", [10_000, 200_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    """Python's limit on recursion is no crash."""
    with pytest.raises(InvalidStart):
        parse_start(b'{"type":"session.start","session":' + b"[" * depth + b"]" * depth + b"}", is_text=True)


@pytest.mark.parametrize(
    "key", [b"typ\\u0065", b"s\\u0065ssion", b"\\u006dodel", b"delegatio\\u006e", b"respons\\u0065s"]
)
def test_keys_with_a_meaning_must_be_plain(key: bytes) -> None:
    """Also where the key is not at its place: what the provider makes of it is unknown."""
    with pytest.raises(InvalidStart, match="escapes"):
        parse_start(
            b'{"type":"session.start","session":{"model":"gpt-live-1","input":{"' + key + b'":1}}}', is_text=True
        )


@given(
    key=st.sampled_from(["type", "session", "model", "delegation", "responses", "decisions", "triggers"]),
    written=st.lists(st.sampled_from(["{}", "\\u{:04x}", "\\u{:04X}"]), min_size=10, max_size=10),
    before=st.text(alphabet='\\"u:a', max_size=12),
    space=st.sampled_from(["", " ", "\r\n\t"]),
)
def test_keys_must_be_plain_in_any_spelling(key: str, written: list[str], before: str, space: str) -> None:
    """Behind any text, whose own escapes are none of a key."""
    forms = [form if form != "{}" else letter for form, letter in zip(written, key, strict=False)]
    spelled = "".join(form.format(ord(letter)) for form, letter in zip(forms, key, strict=True))
    text, session = json.dumps(before), '{"model":"gpt-live-1"}'
    payload = f'{{"type":"session.start","session":{session},"a":[{text},{{"{spelled}"{space}:1}},{text}]}}'.encode()
    assert json.loads(payload)["a"][1] == {key: 1}

    if spelled == key:
        assert RequestedModels("gpt-live-1") == parse_start(payload, is_text=True)
    else:
        with pytest.raises(InvalidStart, match="escapes"):
            parse_start(payload, is_text=True)


def test_other_keys_and_values_may_have_escapes() -> None:
    """Python writes the name of a tool's parameter like this."""
    payload = rb'{"type":"session.start","session":{"model":"gpt-live-1","x":{"gr\u00f6\u00dfe":"\u0022model\u0022:"}}}'
    assert RequestedModels("gpt-live-1") == parse_start(payload, is_text=True)


@pytest.mark.parametrize("text", ["\\u00e9" * 30_000, "a" * 200_000 + "\\u00e9", '\\"' * 100_000 + "\\u0041"])
def test_long_text_with_escapes_takes_memory_like_its_length(text: str) -> None:
    """A search that could be tried in another way would keep a hundred bytes for each character, and stall all sessions."""
    payload = f'{{"type":"session.start","session":{{"model":"gpt-live-1","instructions":"{text}"}}}}'.encode()
    tracemalloc.start()
    requested = parse_start(payload, is_text=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert "gpt-live-1" == requested.model
    assert peak < 20 * len(payload)
