"""The scanner's limits: large messages, those that must be read whole, and what is held meanwhile."""

import pytest

from service.realtime.closing import (
    CloseCode,
)
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import MAX_EVENT_BYTES, MAX_HELD_BYTES, Scanner
from service.realtime.scanner_items import Chunk, Message, MessageEnd, Violation
from service.realtime.scanner_runs import MAX_BUFFERED_FRAME_BYTES
from service.realtime.scanner_types import UNREADABLE_EVENT, TypeRules, payload_of
from tests.realtime.test_scanner import SIZE_LIMIT, event, fragment, joined, scanner


def test_requested_message_above_64_kib_is_yielded_whole() -> None:
    """Of any number of bytes up to `MAX_EVENT_BYTES` nothing is yielded before the end."""
    payload = event("error", MAX_BUFFERED_FRAME_BYTES * 2)
    frame = build_frame(Opcode.TEXT, payload)
    subject = scanner()

    assert [] == subject.feed(frame[:-1])
    assert [Message("error", payload, frame), MessageEnd("error", len(payload))] == subject.feed(frame[-1:])


@pytest.mark.parametrize("kind", ["error", None])
@pytest.mark.parametrize("is_fragmented", [True, False])
def test_message_that_must_be_read_and_exceeds_the_limit_is_a_violation(kind: str | None, is_fragmented: bool) -> None:
    """An `error`, or an event whose type is not shown: no byte of it is yielded, because it may hold a key."""
    payload = b'{"type":"error","message":"' if kind else b'{"error":{"message":"'
    frames = [fragment(Opcode.TEXT, payload + b"x" * 60_000, fin=False)]
    frames += [fragment(Opcode.CONTINUATION, b"x" * 60_000, fin=False)] * 20
    if not is_fragmented:
        frames = [build_frame(Opcode.TEXT, payload.ljust(MAX_EVENT_BYTES, b"x"))]
    subject = scanner(limit=1 << 24)
    items = [item for frame in frames for item in subject.feed(frame)]

    assert [Violation(CloseCode.POLICY_VIOLATION, UNREADABLE_EVENT.format(1))] == items
    assert subject.at_message_boundary


@pytest.mark.parametrize("is_fragmented", [True, False])
def test_requested_event_that_is_too_large_to_be_read_passes_unread(is_fragmented: bool) -> None:
    """Unless it must be read, as an `error`; the type that its first bytes show is counted."""
    payload = b'{"type":"response.done","x":"'.ljust(MAX_EVENT_BYTES, b"x")
    stream = build_frame(Opcode.TEXT, payload)
    if is_fragmented:
        parts = [payload[start : start + 60_000] for start in range(0, len(payload), 60_000)]
        stream = fragment(Opcode.TEXT, parts[0], fin=False)
        stream += b"".join(fragment(Opcode.CONTINUATION, part, fin=False) for part in parts[1:])
        stream += fragment(Opcode.CONTINUATION, b"", fin=True)
    subject = scanner(limit=1 << 24)
    items = [item for start in range(0, len(stream), 50_000) for item in subject.feed(stream[start : start + 50_000])]

    assert stream == b"".join(item.raw for item in items if isinstance(item, Chunk))
    assert [MessageEnd("response.done", len(payload))] == [item for item in items if not isinstance(item, Chunk)]


def test_large_frame_is_forwarded_as_it_arrives() -> None:
    """A frame above 64 KiB is forwarded before it is complete, and `mid_frame` is true meanwhile."""
    frame = build_frame(Opcode.TEXT, event("session.updated", MAX_BUFFERED_FRAME_BYTES))
    subject = scanner()
    first = subject.feed(frame[:5000])

    assert Chunk(frame[:5000], mid_frame=True) == joined(first)[0]
    assert subject.mid_frame
    assert not subject.at_message_boundary

    subject.feed(frame[5000:])

    assert not subject.mid_frame
    assert subject.at_message_boundary


def test_empty_fragments_are_held_within_the_limit() -> None:
    """Empty fragments never show a type. They are forwarded at the limit if no type is requested, else refused."""
    start, rest = fragment(Opcode.TEXT, b"", fin=False), fragment(Opcode.CONTINUATION, b"", fin=False) * 20_000
    forwarding, reading = Scanner(masked=False, max_message_bytes=SIZE_LIMIT), scanner()

    assert any(isinstance(item, Chunk) for item in forwarding.feed(start + rest))
    assert forwarding._held_size <= MAX_HELD_BYTES
    assert [Violation(CloseCode.POLICY_VIOLATION, UNREADABLE_EVENT.format(1))] == reading.feed(start + rest)
    assert reading._held_size == 0


def test_size_limit_applies_to_the_whole_message() -> None:
    """Fragments are added up, and the declared length counts before the payload arrives."""
    subject = scanner(limit=100)

    assert [] == [i for i in subject.feed(fragment(Opcode.TEXT, b"x" * 100, fin=False)) if isinstance(i, Violation)]
    items = subject.feed(b"\x80\x01")
    detail = "the message has at least 101 bytes; the limit is 100 bytes"
    assert [Violation(CloseCode.MESSAGE_TOO_BIG, detail)] == items


def test_fragments_of_a_message_are_joined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, of a byte each: joining thousands of them would delay other sessions."""
    joined_frames: list[int] = []

    def count(frames: list[bytes], *, masked: bool) -> bytes:
        joined_frames.append(len(frames))
        return payload_of(frames, masked=masked)

    monkeypatch.setattr("service.realtime.scanner.payload_of", count)
    payload = event("error", 600)
    frames = [
        fragment(Opcode.CONTINUATION if at else Opcode.TEXT, payload[at : at + 1], fin=False) for at in range(600)
    ]
    frames.append(fragment(Opcode.CONTINUATION, payload[600:], fin=True))

    assert [Message("error", payload, b"".join(frames)), MessageEnd("error", len(payload))] == scanner().feed(
        b"".join(frames)
    )
    assert [601] == joined_frames


def test_type_is_searched_for_only_while_fragments_show_more_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fragments behind the searched bytes, or without any, cost no search each."""
    heads: list[bytes] = []
    monkeypatch.setattr(TypeRules, "type_in_head", lambda _, head: heads.append(head))
    subject = Scanner(masked=False, max_message_bytes=SIZE_LIMIT)
    subject.feed(fragment(Opcode.TEXT, b'{"a":"' + b"x" * 600, fin=False))
    subject.feed(fragment(Opcode.CONTINUATION, b"", fin=False) * 20)
    subject.feed(fragment(Opcode.CONTINUATION, b"x", fin=False) * 20)

    assert len(heads) <= 2
