"""A locked policy cannot be changed by its client, however the client writes its events: review and scanner."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.closing import CloseCode
from service.realtime.frames import Opcode, build_frame
from service.realtime.intricacy import MAX_SEPARATORS, is_intricate
from service.realtime.policy import Policy
from service.realtime.policy_review import locked_field, review
from service.realtime.policy_scanner import ReviewedScanner
from service.realtime.scanner_items import Chunk, Item, Message, Violation
from service.realtime.scanner_types import INTRICATE_EVENT
from service.realtime.strict_json import folded
from tests.support.messages import pop_payload
from tests.support.policy_events import (
    FIELDS,
    FRAMING,
    LOCKED,
    READERS,
    changes_policy,
    events,
    framed,
    read_by,
    tuple_of,
    written,
)


def passed(frames: bytes, cuts: list[int], policy: Policy = LOCKED) -> bytes:
    """The bytes that reach the provider, of a stream that arrives in pieces, through the fast paths."""
    scanner, out = ReviewedScanner(max_message_bytes=1 << 24), bytearray()
    points = sorted(cut % (len(frames) + 1) for cut in cuts)
    for start, end in zip([0, *points], [*points, len(frames)], strict=True):
        data = frames[start:end]
        if scanner.missing_bytes and data:
            if len(data) < scanner.missing_bytes:
                scanner.add_part(data)
                continue
            data = scanner.complete(data)
        if not data:
            continue
        if scanner.whole_event_type(data) is not None:
            out += data
            continue
        size = scanner.feed_events(data)
        out += data[:size]
        if size < len(data) and not scanner.missing_bytes:
            out += b"".join(allowed(item, policy) for item in scanner.feed(data[size:]))
    return bytes(out)


def allowed(item: Item, policy: Policy) -> bytes:
    """What of an item is forwarded."""
    if isinstance(item, Message):
        return item.raw if review(policy, item.payload) is None else b""
    return item.raw if isinstance(item, Chunk) else b""


@given(st.lists(st.tuples(events(), FRAMING), min_size=1, max_size=4), st.lists(st.integers(0, 3000), max_size=4))
def test_no_client_event_changes_a_locked_policy(
    sequence: list[tuple[str, tuple[bytes, Opcode, int]]], cuts: list[int]
) -> None:
    """Whatever a client sends, however it is cut: no server that reads what passes finds a locked field in it."""
    frames = b"".join(framed(text, *framing) for text, framing in sequence)

    run = bytearray(passed(frames, cuts))
    while run:
        payload = pop_payload(run, masked=True)
        for reader in READERS:
            assert not changes_policy(read_by(reader, payload)), payload


@pytest.mark.parametrize("size", [100, 70_000, 300_000, 3_000_000])
@pytest.mark.parametrize("fragment_bytes", [50, 40_000, 70_000, 4_000_000])
def test_large_event_is_read_to_its_end(size: int, fragment_bytes: int) -> None:
    """A locked field behind anything, in frames of any size: no byte of it passes."""
    padding, pieces = "A" * size, []
    text = f'{{"type":"session.update","session":{{"x":"{padding}","instructions":"x"}}}}'.encode()
    step = max(fragment_bytes, size // 100)
    for start in range(0, len(text), step):
        frame = build_frame(Opcode.CONTINUATION if start else Opcode.TEXT, text[start : start + step], b"abcd")
        is_last = start + step >= len(text)
        pieces.append(frame if is_last else bytes((frame[0] & 0x7F,)) + frame[1:])

    assert b"" == passed(b"".join(pieces), []) == passed(b"".join(pieces), [*range(0, size, max(1, size // 7))])


@given(st.sampled_from(FIELDS), FRAMING, st.data())
def test_each_lock_refuses_its_own_field_only(
    field: Any, framing: tuple[bytes, Opcode, int], data: st.DataObject
) -> None:
    """What the policy does not lock passes unchanged."""
    session: dict[str, dict[str, Any]] = {
        "instructions": {"instructions": "x"}, "voice": {"audio": {"output": {"voice": "ash"}}}, "tools": {"tools": []},
        "max_output_tokens": {"max_output_tokens": 5}, "turn_detection": {"audio": {"input": {"turn_detection": None}}},
    }  # fmt: skip
    policy = Policy(name="p", locked=frozenset({field}))
    chosen = data.draw(st.sampled_from(FIELDS))
    pairs = (("type", "session.update"), ("session", tuple_of({"type": "realtime", **session[chosen]})))
    frame = framed(data.draw(written(pairs)), *framing)

    assert (b"" if chosen == field else frame) == passed(frame, [], policy)


AUDIO = '{"type":"input_audio_buffer.append","audio":"' + "A" * 300 + '"}'


@pytest.mark.parametrize(
    "text",
    [
        AUDIO,
        AUDIO.replace('"}', '","event_id":"e1"}'),
        '{"type":"input_audio_buffer.append","audio":"' + "A" * 90_000 + '"}',
        '{"type":"conversation.item.create","item":{"type":"message","role":"user","content":[]}}',
        '{"type":"conversation.item.create","item":{"type":"function_call_output","call_id":"c","output":"instructions"}}',
        '{"type":"session.update","session":{"type":"realtime","audio":{"output":{"speed":1.1},"input":{"format":null}}}}',
        '{"type":"response.create","response":{"conversation":"none","metadata":{"instructions":"x","prompt":"y"}}}',
        '{"type":"response.create","response":null}',
        '{"type":"response.create"}',
        '{"event_id":"e","type":"response.cancel"}',
    ],
)
def test_what_is_not_locked_passes_unchanged(text: str) -> None:
    """Audio in plain form, unread; everything else after its review."""
    frame = framed(text, b"abcd", Opcode.TEXT, 0)

    assert frame == passed(frame, []) == passed(frame, [5, 60, 100])


@pytest.mark.parametrize(
    ("event", "reason", "param"),
    [
        ({"type": "session.update", "session": {"instructions": ""}}, "instructions_locked", "session.instructions"),
        ({"type": "response.create", "response": {"instructions": ""}}, "instructions_locked", "response.instructions"),
        ({"type": "session.update", "session": {"prompt": {"id": "x"}}}, "instructions_locked", "session.prompt"),
        ({"type": "conversation.item.create", "item": {"role": "system"}}, "instructions_locked", "item.role"),
        ({"type": "response.create", "response": {"input": [{"role": "developer"}]}}, "instructions_locked",
         "response.input[0].role"),
        ({"type": "session.update", "session": {"audio": {"output": {"voice": "ash"}}}}, "field_locked",
         "session.audio.output.voice"),
        ({"type": "session.update", "session": {"voice": "ash"}}, "field_locked", "session.voice"),
        ({"type": "session.update", "session": {"audio": None}}, "field_locked", "session.audio"),
        ({"type": "session.update", "session": {"audio": {"input": None}}}, "field_locked", "session.audio.input"),
        ({"type": "session.update", "session": {"Tools": []}}, "field_locked", "session.tools"),
        ({"type": "response.create", "response": {"max_output_tokens": 9}}, "field_locked", "response.max_output_tokens"),
        ({"type": "session.update", "session": {"type": "transcription"}}, "field_locked", "session.type"),
        ({"type": "session.update", "session": []}, "bad_request", "session"),
        ({"type": "session.future", "session": {}}, "bad_request", "type"),
        ({"type": {}}, "bad_request", "type"),
        ({"type": "response.cancel", "Type": "session.update"}, "bad_request", "type"),
    ],
)  # fmt: skip
def test_refusal_names_lock_and_place(event: Mapping[str, Any], reason: str, param: str) -> None:
    """And the id of the client's event, if it has one."""
    refusal = review(LOCKED, json.dumps({**event, "event_id": "mine"}).encode())

    assert refusal is not None
    assert (reason, param, "mine") == (refusal.reason, refusal.param, refusal.event_id)


@pytest.mark.parametrize(
    "payload",
    [b"\xff{}", b"[1]", b"{", b'{"type":"response.cancel","type":"response.cancel"}', b'{"type":"response.cancel","x":NaN}',
     b"[" * 100_000, b'{"type":"response.create","response":{"metadata":{"a":1,"\\u0061":2}}}'],
)  # fmt: skip
def test_event_that_parsers_read_differently_is_refused(payload: bytes) -> None:
    """Even one without a locked field."""
    refusal = review(LOCKED, payload)

    assert refusal is not None
    assert ("bad_request", None) == (refusal.reason, refusal.event_id)


def test_nothing_is_reviewed_without_a_lock() -> None:
    """The policy is then a default."""
    assert None is review(
        Policy(name="p", instructions="x"), b'{"type":"session.update","session":{"instructions":""}}'
    )


# -- what a review costs ------------------------------------------------------------------------------------------------

LARGE = 1_900_000
ITEM = b'{"type":"conversation.item.create","item":{"type":"message","role":"user","x":%s}}'
INTRICATE = {
    "objects": b"[" + b"{}," * (LARGE // 3) + b"0]",
    "objects with a key": b"[" + b'{"":0},' * (LARGE // 7) + b"0]",
    "arrays": b"[" + b"[]," * (LARGE // 3) + b"0]",
    "numbers": b"[" + b"1," * (LARGE // 2) + b"0]",
    "strings": b"[" + b'"",' * (LARGE // 3) + b"0]",
    "strings of an escape": b"[" + b'"\\\\",' * (LARGE // 5) + b"0]",
    "keys": b"{" + b",".join(b'"a%d":0' % number for number in range(LARGE // 12)) + b"}",
    "no JSON": b'","' * (LARGE // 3),
    "long integers": b"[" + b",".join([b"7" * 4000] * 475) + b"]",
    "numbers near the smallest": b"[" + b",".join([b"2.22507385850720113605740979670913197593e-308"] * 16_000) + b"]",
    "integers beside a text": b'["' + b'\\\\",' * 1000 + b'",' + b",".join([b"7" * 4000] * 400) + b"]",
}
"""Values of two megabytes that take a parser and a review up to a second."""
SIMPLE = {
    "text": b'"' + b"A" * LARGE + b'"',
    "text of separators": b'"' + b",:[{" * (LARGE // 4) + b'"',
    "JSON as text": b'"' + b'{\\"a\\":\\"b\\",' * (LARGE // 15) + b'"',
    "text that ends with a backslash": b'"' + b"," * LARGE + b'\\\\"',
    "numbers as text": b'["' + b"7" * 4000 + b'"' + b',"7"' * 10_000 + b"]",
    "doubles": b"[" + b",".join([b"-0.1234567890123456e-10"] * 16_000) + b"]",
    "digits as text": b'[1,"' + b"1234567890" * (LARGE // 10) + b'"' + b",1" * 9000 + b"]",
    "as many keys as tools can have": b"{"
    + b",".join(b'"a%d":0' % number for number in range(MAX_SEPARATORS // 2 - 9))
    + b"}",
}


@pytest.mark.parametrize("name", [*INTRICATE, *SIMPLE])
def test_event_with_too_many_values_is_a_violation(name: str) -> None:
    """It ends the session of its client before it is parsed: the others would wait. What strings contain does not count."""
    payload = ITEM % {**INTRICATE, **SIMPLE}[name]
    assert (name in INTRICATE) == is_intricate(payload)

    for cut in (0, 100):
        items = ReviewedScanner(max_message_bytes=1 << 24).feed(framed(payload.decode(), b"abcd", Opcode.TEXT, cut))
        assert ["Violation"] == [type(item).__name__ for item in items] or name in SIMPLE
        assert items[0] == Violation(CloseCode.MESSAGE_TOO_BIG, INTRICATE_EVENT) or name in SIMPLE


def test_review_reads_each_key_once() -> None:
    """However many fields are locked: the keys of a session are the client's."""
    folded = []

    class Key(str):
        __slots__ = ()

        def casefold(self) -> str:
            folded.append(self)
            return super().casefold()

    keys = [Key(f"key_{number}") for number in range(50)]
    assert locked_field(LOCKED, dict.fromkeys(keys, 0), "session") is None
    assert keys == folded


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=99))
def test_keys_are_compared_by_their_letters_and_digits(key: str) -> None:
    """Of ASCII; the provider's fields have no others."""
    assert "".join(filter(str.isalnum, key.lower())) == folded(key)


@pytest.mark.parametrize(
    "key", ["in\u017ftructions", "in\ufb06ructions", "in\u200dstructions", "INSTRUCTION\u017f", "instructions\u00e9"]
)
def test_key_that_looks_like_a_locked_field_is_one(key: str) -> None:
    """Without case in Unicode, and without what is no letter of ASCII."""
    refusal = review(LOCKED, json.dumps({"type": "session.update", "session": {key: "x"}}).encode())

    assert refusal is not None
    assert "instructions_locked" == refusal.reason


def test_key_that_is_longer_than_any_field_is_not_compared() -> None:
    """It costs nothing, and sets nothing."""
    event = {"type": "session.update", "session": {"_" * 200 + "instructions": "x"}}

    assert None is review(LOCKED, json.dumps(event).encode())
