"""service/realtime/scanner.py, frames.py and closing.py."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.closing import (
    CloseCode,
    close_code_to_forward,
    close_payload,
    is_sendable_close_code,
    parse_close,
)
from service.realtime.events import CLIENT_EVENT_TYPES, SERVER_EVENT_TYPES
from service.realtime.frames import Opcode, build_frame, unmask
from service.realtime.scanner import MAX_HELD_BYTES, Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Item, Message, MessageEnd, Violation
from service.realtime.scanner_runs import MAX_BUFFERED_FRAME_BYTES

SIZE_LIMIT = 300_000
KEY = b"\x01\x7f\x80\xff"


def scanner(*, masked: bool = False, limit: int = SIZE_LIMIT) -> Scanner:
    """A scanner that yields `error` events as messages."""
    return Scanner(masked=masked, max_message_bytes=limit, parsed_types=frozenset({"error"}))


def joined(items: list[Item]) -> list[Item]:
    """The items with adjacent chunks joined: their borders are all that slicing may change."""
    result: list[Item] = []
    chunk, completed = Chunk(b""), list[Item]()
    for item in [*items, None]:
        if isinstance(item, Chunk):
            chunk = Chunk(chunk.raw + item.raw, item.mid_frame)
        elif isinstance(item, MessageEnd):
            completed.append(item)
        else:
            result += [chunk, *completed] if chunk.raw else completed
            result += [item] if item is not None else []
            chunk, completed = Chunk(b""), []
    return result


def fragment(opcode: Opcode, payload: bytes, *, fin: bool, key: bytes = b"") -> bytes:
    """A frame with the given FIN bit."""
    frame = build_frame(opcode, payload, key)
    return frame if fin else bytes((frame[0] & 0x7F,)) + frame[1:]


def event(kind: str, filler: int = 0) -> bytes:
    """The JSON of an event."""
    return json.dumps({"type": kind, "filler": "x" * filler}, separators=(",", ":")).encode()


payloads = st.one_of(
    st.binary(max_size=300),
    st.sampled_from(
        [event("error"), event("response.done", 200), event("error", 1000), event("error", MAX_HELD_BYTES)]
    ),
    st.integers(0, 3).map(lambda extra: event("session.updated", MAX_BUFFERED_FRAME_BYTES - 40 + extra * 40)),
)


@st.composite
def streams(draw: st.DrawFn, *, masked: bool) -> bytes:
    """Messages, some fragmented, with control frames between them, and random bytes at the end."""
    key = KEY if masked else b""
    parts: list[bytes] = []
    for _ in range(draw(st.integers(0, 4))):
        payload = draw(payloads)
        opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.BINARY]))
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=3)))
        pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for number, piece in enumerate(pieces):
            if draw(st.booleans()):
                parts.append(build_frame(draw(st.sampled_from([Opcode.PING, Opcode.PONG])), b"abc", key))
            kind = opcode if number == 0 else Opcode.CONTINUATION
            parts.append(fragment(kind, piece, fin=number == len(pieces) - 1, key=key))
    if draw(st.booleans()):
        parts.append(build_frame(Opcode.CLOSE, close_payload(4000, "a.b"), key))
    parts.append(draw(st.binary(max_size=20)))
    return b"".join(parts)


@given(data=st.data(), masked=st.booleans())
def test_scanner_items_do_not_depend_on_slicing(data: st.DataObject, *, masked: bool) -> None:
    """Any slicing of a stream into reads gives the same items."""
    stream = data.draw(streams(masked=masked))
    whole = joined(scanner(masked=masked).feed(stream))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    sliced = scanner(masked=masked)
    items: list[Item] = []
    for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        items += sliced.feed(stream[a:b])

    assert whole == joined(items)


@given(data=st.data(), masked=st.booleans(), max_frames=st.integers(1, 3))
def test_limited_number_of_frames_changes_no_item(data: st.DataObject, *, masked: bool, max_frames: int) -> None:
    """What `feed` leaves behind the limit gives the same items when it is fed next."""
    stream = data.draw(streams(masked=masked))
    limited, items, rest = scanner(masked=masked), list[Item](), stream
    while rest:
        items += limited.feed(rest, max_frames)
        before, rest = rest, limited.take_rest()
        assert rest == b"" or (len(rest) < len(before) and before.endswith(rest))

    assert joined(scanner(masked=masked).feed(stream)) == joined(items)


@given(stream=st.binary(max_size=200), masked=st.booleans())
def test_scanner_accepts_any_bytes(stream: bytes, *, masked: bool) -> None:
    """Random bytes, whole and one by one, give the same items and no exception."""
    one_by_one = scanner(masked=masked)
    items = [item for byte in stream for item in one_by_one.feed(bytes((byte,)))]

    assert joined(scanner(masked=masked).feed(stream)) == joined(items)


@given(st.lists(payloads, max_size=5))
def test_scanner_forwards_data_frames_verbatim(messages: list[bytes]) -> None:
    """Chunks and messages together are the input, byte for byte."""
    stream = b"".join(build_frame(Opcode.TEXT, payload, KEY) for payload in messages)
    items = scanner(masked=True).feed(stream)

    assert stream == b"".join(item.raw for item in items if isinstance(item, Chunk | Message))
    assert [len(payload) for payload in messages] == [item.size for item in items if isinstance(item, MessageEnd)]


HEADS = [b'{"type":"', b'{"type": "', b'{"event_id":"e","type":"', b'{"type" :"', b"["]
KNOWN = sorted(CLIENT_EVENT_TYPES | SERVER_EVENT_TYPES)
KINDS = [*KNOWN, *(f"{kind}XYZ" for kind in KNOWN), "error", "x", "", "session.update\\", "response.done.more"]


@st.composite
def near_events(draw: st.DrawFn, *, masked: bool) -> bytes:
    """A read that is one whole event, or almost one."""
    filler = draw(st.integers(0, 300) | st.sampled_from([65_440, 65_535 - 40]))
    payload = draw(st.sampled_from(HEADS)) + draw(st.sampled_from(KINDS)).encode() + b'","audio":"' + b"A" * filler
    opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.TEXT, Opcode.BINARY]))
    key = draw(st.binary(min_size=4, max_size=4)) if masked else b""
    frame = fragment(opcode, payload, fin=draw(st.sampled_from([True, True, False])), key=key)
    changed = bytearray(frame)
    if draw(st.booleans()):
        at = draw(st.integers(0, min(30, len(frame) - 1)))
        changed[at] = draw(st.integers(0, 255))
    return bytes(changed[: draw(st.sampled_from([len(frame), len(frame), len(frame) - 1]))]) + draw(
        st.sampled_from([b"", b"", b"", b"\x81", frame])
    )


@given(data=st.data(), masked=st.booleans(), limit=st.sampled_from([SIZE_LIMIT, 200]))
def test_whole_event_type_agrees_with_feed(data: st.DataObject, *, masked: bool, limit: int) -> None:
    """If it returns a type, `feed` yields one forwarded message of that type; if it returns None, it changed nothing."""
    read = data.draw(near_events(masked=masked))
    fast, slow = scanner(masked=masked, limit=limit), scanner(masked=masked, limit=limit)
    kind = fast.whole_event_type(read)
    items = slow.feed(read)

    if kind is None:
        assert items == fast.feed(read)
    else:
        assert [Chunk(read), MessageEnd(kind, len(read) - (8 if masked else 4))] == items
        assert kind != "error"
        assert (fast.mid_frame, fast.at_message_boundary) == (False, True)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("prefix", [b"\x01", b"\x81", b"\x88"], ids=["message", "frame", "close"])
def test_whole_event_type_is_none_within_a_message(prefix: bytes, masked: bool) -> None:
    """Also within a frame, after a close frame, and for an empty read."""
    key = KEY if masked else b""
    frame = build_frame(Opcode.TEXT, event("response.created", 200), key)
    start = {
        b"\x01": fragment(Opcode.TEXT, b"{", fin=False, key=key),
        b"\x81": frame[:20],
        b"\x88": build_frame(Opcode.CLOSE, b"", key),
    }[prefix]
    subject = scanner(masked=masked)
    assert "response.created" == subject.whole_event_type(frame)
    subject.feed(start)

    assert (None, None) == (subject.whole_event_type(frame), subject.whole_event_type(b""))


def test_whole_event_type_knows_every_event_type() -> None:
    """The longest name fits into the searched bytes; a requested type is never returned."""
    for kind in CLIENT_EVENT_TYPES | SERVER_EVENT_TYPES:
        for masked in (True, False):
            frame = build_frame(Opcode.TEXT, event(kind, 200), KEY if masked else b"")
            assert (None if kind == "error" else kind) == scanner(masked=masked).whole_event_type(frame)


def test_type_of_a_masked_message_is_found() -> None:
    """The frame is forwarded with its mask."""
    frame = build_frame(Opcode.TEXT, event("response.create"), KEY)

    assert [Chunk(frame), MessageEnd("response.create", len(event("response.create")))] == scanner(masked=True).feed(
        frame
    )


def test_requested_message_is_yielded_whole() -> None:
    """An `error` in three fragments with a ping between them is one message, its frames unchanged."""
    payload = event("error", 40)
    first = fragment(Opcode.TEXT, payload[:3], fin=False)
    rest = fragment(Opcode.CONTINUATION, payload[3:20], fin=False) + fragment(
        Opcode.CONTINUATION, payload[20:], fin=True
    )
    ping = build_frame(Opcode.PING, b"hi")

    assert [
        ControlFrame(Opcode.PING, b"hi"),
        Message("error", payload, first + rest),
        MessageEnd("error", len(payload)),
    ] == scanner().feed(first + ping + rest)


@pytest.mark.parametrize(
    ("frame", "masked", "code"),
    [
        pytest.param(build_frame(Opcode.TEXT, b"x"), True, CloseCode.PROTOCOL_ERROR, id="unmasked client"),
        pytest.param(build_frame(Opcode.TEXT, b"x", KEY), False, CloseCode.PROTOCOL_ERROR, id="masked server"),
        pytest.param(b"\xc1\x00", False, CloseCode.PROTOCOL_ERROR, id="rsv1"),
        pytest.param(b"\xa1\x00", False, CloseCode.PROTOCOL_ERROR, id="rsv2"),
        pytest.param(b"\x91\x00", False, CloseCode.PROTOCOL_ERROR, id="rsv3"),
        pytest.param(b"\x83\x00", False, CloseCode.PROTOCOL_ERROR, id="opcode 3"),
        pytest.param(b"\x8b\x00", False, CloseCode.PROTOCOL_ERROR, id="opcode 11"),
        pytest.param(b"\x80\x00", False, CloseCode.PROTOCOL_ERROR, id="continuation first"),
        pytest.param(b"\x01\x00\x81\x00", False, CloseCode.PROTOCOL_ERROR, id="text inside fragments"),
        pytest.param(b"\x09\x00", False, CloseCode.PROTOCOL_ERROR, id="fragmented ping"),
        pytest.param(b"\x89\x7e", False, CloseCode.PROTOCOL_ERROR, id="ping of 126 bytes"),
        pytest.param(b"\x81\x7e\x00\x7d", False, CloseCode.PROTOCOL_ERROR, id="long form of 125"),
        pytest.param(
            b"\x81\x7f" + (65535).to_bytes(8, "big"), False, CloseCode.PROTOCOL_ERROR, id="longest form of 65535"
        ),
        pytest.param(
            b"\x81\x7f" + (SIZE_LIMIT + 1).to_bytes(8, "big"), False, CloseCode.MESSAGE_TOO_BIG, id="above the limit"
        ),
        pytest.param(b"\x81\x7f" + (2**62).to_bytes(8, "big"), False, CloseCode.MESSAGE_TOO_BIG, id="2^62"),
        pytest.param(b"\x81\x7f" + (2**63 + 5).to_bytes(8, "big"), False, CloseCode.MESSAGE_TOO_BIG, id="2^63+5"),
        pytest.param(b"\x88\x01\x03", False, CloseCode.PROTOCOL_ERROR, id="half a close code"),
        pytest.param(b"\x88\x02\x03\xee", False, CloseCode.PROTOCOL_ERROR, id="close 1006"),
        pytest.param(b"\x88\x02\x13\x88", False, CloseCode.PROTOCOL_ERROR, id="close 5000"),
        pytest.param(b"\x88\x03\x03\xe8\xff", False, CloseCode.INVALID_PAYLOAD, id="close reason not UTF-8"),
    ],
)
def test_forbidden_frame_is_a_violation(frame: bytes, masked: bool, code: CloseCode) -> None:
    """The violation has the close code of RFC 6455, and later bytes are ignored."""
    subject = scanner(masked=masked)
    items = subject.feed(frame)

    assert isinstance(items[-1], Violation)
    assert code == items[-1].close_code
    assert [] == subject.feed(build_frame(Opcode.TEXT, b"x", KEY if masked else b""))


def test_bytes_after_a_close_frame_are_ignored() -> None:
    """Only the close frame is yielded."""
    close = build_frame(Opcode.CLOSE, close_payload(1000))

    assert [ControlFrame(Opcode.CLOSE, close_payload(1000))] == scanner().feed(close + build_frame(Opcode.TEXT, b"x"))


@given(st.binary(max_size=400), st.binary(min_size=4, max_size=4))
def test_unmask_is_its_own_inverse(payload: bytes, key: bytes) -> None:
    """Masking twice with the same key gives the payload."""
    assert payload == unmask(unmask(payload, key), key)


@given(st.integers(0, 5000) | st.none(), st.text(max_size=200))
def test_close_payload_is_valid_for_any_code_and_reason(code: int | None, reason: str) -> None:
    """It is short enough, has a permitted code, and a scanner accepts it."""
    payload = close_payload(close_code_to_forward(code), reason)
    items = scanner().feed(build_frame(Opcode.CLOSE, payload))

    assert [ControlFrame(Opcode.CLOSE, payload)] == items
    sent, text = parse_close(payload)
    assert sent is not None
    assert is_sendable_close_code(sent)
    assert reason.encode("utf-8", "replace").decode().startswith(text)
