"""A scanner that no client can deceive about the type of an event."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner_items import Chunk, Item, Message, MessageEnd
from service.realtime.scanner_strict import StrictScanner

REQUESTED = frozenset({"session.update"})
TYPES = st.sampled_from(["session.update", "session.input_audio.append", "session.close", "unknown.type"])
KEYS = st.sampled_from(["type", "t\\u0079pe", "audio", "session"])
VALUES = TYPES.map(json.dumps) | st.sampled_from(['"' + "A" * 700 + '"', '{"type":"x"}', "1", '"session.upd\\u0061te"'])


def strict() -> StrictScanner:
    """A scanner for `session.update`."""
    return StrictScanner(max_message_bytes=1 << 24, parsed_types=REQUESTED)


def feed(frames: bytes, cuts: list[int]) -> list[Item]:
    """The items of a stream that arrives in pieces, through the fast paths."""
    scanner, items = strict(), list[Item]()
    pieces = [frames[start:end] for start, end in zip([0, *cuts], [*cuts, len(frames)], strict=True)]
    for piece in pieces:
        if not piece:
            continue
        data = piece
        if scanner.missing_bytes:
            if len(data) < scanner.missing_bytes:
                scanner.add_part(data)
                continue
            data = scanner.complete(data)
        found = scanner.whole_event_type(data)
        if found is not None:
            items += [Chunk(data), MessageEnd(found, 0)]
            continue
        size = scanner.feed_events(data)
        items += [Chunk(data[:size])] + [MessageEnd(name, 0) for name in scanner.event_types] if size else []
        if size < len(data) and not scanner.missing_bytes:
            items += scanner.feed(data[size:])
    return items


def type_for_a_parser(text: str) -> Any:
    """What a JSON parser, which takes the last of several keys, sees."""
    return json.loads(text).get("type")


@given(
    st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=5),
    st.binary(min_size=4, max_size=4),
    st.lists(st.integers(0, 3000), max_size=4),
    st.booleans(),
)
def test_requested_event_is_always_read_whole(
    pairs: list[tuple[str, str]], key: bytes, cuts: list[int], is_fragmented: bool
) -> None:
    """Whatever its keys and their order, however the bytes arrive, alone or in fragments; and all bytes come out."""
    text = "{" + ",".join(f'"{name}":{value}' for name, value in pairs) + "}"
    payload = text.encode()
    if is_fragmented and len(payload) > 1:
        first = bytearray(build_frame(Opcode.TEXT, payload[: len(payload) // 2], key))
        first[0] &= 0x7F
        frames = bytes(first) + bytes([0x80]) + build_frame(Opcode.TEXT, payload[len(payload) // 2 :], key)[1:]
    else:
        frames = build_frame(Opcode.TEXT, payload, key)
    items = feed(frames, sorted(min(cut, len(frames)) for cut in cuts))

    raw = b"".join(item.raw for item in items if isinstance(item, Chunk | Message))
    assert frames == raw
    if type_for_a_parser(text) == "session.update":
        assert [payload] == [item.payload for item in items if isinstance(item, Message)]
        assert not any(isinstance(item, Chunk) and item.raw for item in items)


def test_audio_takes_the_fast_path() -> None:
    """An event of a type and one string without escapes is not unmasked."""
    frame = build_frame(
        Opcode.TEXT, b'{"type":"session.input_audio.append","audio":"' + b"A" * 6400 + b'"}', b"\x01\xff\x22\x5c"
    )
    assert "session.input_audio.append" == strict().whole_event_type(frame)
