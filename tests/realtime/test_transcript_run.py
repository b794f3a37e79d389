"""service/realtime/transcript_run.py: it recognises nothing but transcripts that the scanner would return as messages."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime import live
from service.realtime.frames import Opcode, build_frame
from service.realtime.live_events import Transcript, is_possible, parse_live_event
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Message, MessageEnd
from service.realtime.scanner_strict import StrictScanner
from service.realtime.transcript_run import MAX_TRANSCRIPT_BYTES, MAX_TRANSCRIPTS, TranscriptRun
from tests.support.memory_transport import DEEP_SECONDS, IS_DEEP, examples

pytestmark = pytest.mark.timeout(DEEP_SECONDS if IS_DEEP else 180)
LIMIT = 70_000
KINDS = (live.INPUT_TRANSCRIPT, live.OUTPUT_TRANSCRIPT)
AUDIO = build_frame(Opcode.TEXT, b'{"type":"%s","delta":"%s"}' % (live.OUTPUT_AUDIO.encode(), b"A" * 3000))


def scanner(*, limit: int = LIMIT) -> Scanner:
    """A scanner of upstream that has seen nothing yet."""
    return Scanner(masked=False, max_message_bytes=limit, parsed_types=live.PARSED_EVENT_TYPES)


def payload(kind: str = KINDS[0], text: str = " hello", /, *, spaces: bool = False, **fields: object) -> bytes:
    """A transcript as the provider writes it."""
    body = {"type": kind, "event_id": "event_1", "delta": text, "start_ms": 200, "end_ms": 400, **fields}
    return json.dumps(body, separators=None if spaces else (",", ":"), ensure_ascii=spaces).encode()


def frame(*args: str, spaces: bool = False, **fields: object) -> bytes:
    """Its frame."""
    return build_frame(Opcode.TEXT, payload(*args, spaces=spaces, **fields))


FIELDS: tuple[dict[str, Any], ...] = (
    {}, {}, {"type": "error"}, {"a": "b"}, {"start_ms": -1}, {"end_ms": 1.5}, {"e": {}}, {"kind": 1},
)  # fmt: skip


@st.composite
def like_transcripts(draw: st.DrawFn) -> bytes:
    """A read that is one transcript, or almost one."""
    kind = draw(st.sampled_from([*KINDS, *KINDS, "session.input_transcript.delt", "error", live.OUTPUT_AUDIO]))
    text = draw(
        st.sampled_from([" hi", " hello", '"', "\\", "\n", '","type":"error', "é 中", "}", "A" * 30, "A" * 900])
    )
    fields = draw(st.sampled_from(FIELDS))
    body = payload(kind, text, spaces=draw(st.booleans()), **fields)
    swaps = [
        (b"", b""),
        (b'"delta"', b'"type"'),
        (b'"delta"', b'"t\\u0079pe"'),
        (b'"end_ms"', b'"type"'),
        (b"200", b"20 0"),
    ]
    body = body.replace(*draw(st.sampled_from(swaps)))
    found = bytearray(build_frame(draw(st.sampled_from([Opcode.TEXT, Opcode.TEXT, Opcode.BINARY])), body))
    if draw(st.integers(0, 2)) == 0:
        found[draw(st.integers(0, min(60, len(found) - 1)))] = draw(st.integers(0, 255))
    tail = draw(st.sampled_from([b"", b"", b"", b"\x81", AUDIO, bytes(found)]))
    return bytes(found[: draw(st.sampled_from([len(found), len(found), len(found) - 1, 3, 1, 0]))]) + tail


@examples(500)
@given(data=st.data(), limit=st.sampled_from([LIMIT, 150, 125, 100]))
def test_run_goes_on_only_with_transcripts_that_the_scanner_returns(data: st.DataObject, limit: int) -> None:
    """As messages of that type; what is taken are their times and bytes, in order."""
    run = TranscriptRun(max_message_bytes=limit)
    kept = [read for read in data.draw(st.lists(like_transcripts(), max_size=8)) if run.goes_on_with(read)]
    expected: list[Transcript] = []
    for read in kept:
        message, end = scanner(limit=limit).feed(read)
        assert isinstance(message, Message)
        assert isinstance(end, MessageEnd)
        assert message.type in KINDS
        event = parse_live_event(message.type, message.payload)
        expected += [event.transcript] if event.transcript is not None else []
    transcripts, size = run.take()

    assert expected == [transcript for transcript in transcripts if is_possible(transcript)]
    assert (len(kept), sum(map(len, kept))) == (len(transcripts), size)
    assert ([], 0) == run.take()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spaces", [False, True])
@pytest.mark.parametrize("size", range(100))
def test_transcripts_of_any_size_go_on(kind: str, spaces: bool, size: int) -> None:
    """Of those that are short, the header has two bytes; a JSON library may write a space behind commas and colons."""
    run = TranscriptRun(max_message_bytes=LIMIT)

    assert run.goes_on_with(frame(kind, "x" * size, spaces=spaces))
    assert [Transcript("user" if kind == KINDS[0] else "assistant", 200, 400)] == run.take()[0]


def test_further_strings_go_on_and_other_members_do_not() -> None:
    """What the provider may add is read by the scanner, which parses it."""
    run = TranscriptRun(max_message_bytes=LIMIT)
    before_times = payload().replace(b'"delta"', b'"item_id":"item_1","delta"')

    assert run.goes_on_with(build_frame(Opcode.TEXT, before_times))
    assert run.goes_on_with(frame(delta='a"b", "c": "'))
    for other in (frame(channel=1), frame(start_ms=None), frame(type="error"), frame(start_ms=10**8)):
        assert not run.goes_on_with(other)


def test_what_is_kept_is_bounded() -> None:
    """A flood of transcripts, and long ones, take the long way."""
    run = TranscriptRun(max_message_bytes=LIMIT)
    assert not run.goes_on_with(frame(delta="x" * MAX_TRANSCRIPT_BYTES))
    assert MAX_TRANSCRIPTS == sum(run.goes_on_with(frame()) for _ in range(2 * MAX_TRANSCRIPTS))
    run.take()

    assert run.goes_on_with(frame())


def test_scanner_of_upstream_recognises_transcripts_behind_audio_only() -> None:
    """Where they are parsed: they are events of GPT-Live. Not before the first audio, and not behind the end of the run."""
    subject = scanner()
    run = subject.new_audio_run()
    assert run.transcripts is not None
    assert not run.goes_on_with(frame())
    found = subject.whole_event_type(AUDIO)
    assert found is not None
    run.starts_with(AUDIO, found)
    assert run.goes_on_with(frame())
    assert run.goes_on_with(AUDIO)
    run.stop()
    assert not run.goes_on_with(frame())
    assert (1, len(AUDIO)) == run.take()
    assert 1 == len(run.transcripts.take()[0])

    strict = StrictScanner(max_message_bytes=LIMIT, parsed_types=frozenset(KINDS))
    others = [strict, Scanner(masked=True, max_message_bytes=LIMIT), Scanner(masked=False, max_message_bytes=LIMIT)]
    assert [None] * 3 == [other.new_audio_run().transcripts for other in others]
