"""service/realtime/audio_run.py: it recognises nothing that the scanner would not, and counts what it recognises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime import live
from service.realtime.audio_run import AUDIO_TYPES
from service.realtime.events import CLIENT_EVENT_TYPES, PARSED_EVENT_TYPES, SERVER_EVENT_TYPES
from service.realtime.frames import Opcode, build_frame, unmask
from service.realtime.scanner import Scanner
from service.realtime.scanner_strict import StrictScanner
from tests.support.memory_transport import DEEP_SECONDS, IS_DEEP, examples

pytestmark = pytest.mark.timeout(DEEP_SECONDS if IS_DEEP else 180)
KEYS = (b"\x01\x7f\x80\xff", b"\0\0\0\0", b"abcd")
LIMIT = 70_000


def scanner(*, masked: bool, limit: int = LIMIT) -> Scanner:
    """A scanner that has seen nothing yet."""
    parsed = frozenset[str]() if masked else PARSED_EVENT_TYPES
    return Scanner(masked=masked, max_message_bytes=limit, parsed_types=parsed)


def strict(limit: int = LIMIT) -> Scanner:
    """One that searches each event."""
    return StrictScanner(max_message_bytes=limit, parsed_types=frozenset({live.SESSION_UPDATE}))


def audio(kind: str, size: int, *, middle: bytes = b',"event_id":"e"', space: bytes = b"", key: bytes = b"") -> bytes:
    """The frame of an event of audio."""
    payload = b'{"type":%s"%s"%s,"audio":"%s"}' % (space, kind.encode(), middle, b"A" * size)
    return build_frame(Opcode.TEXT, payload, key)


@st.composite
def like_audio(draw: st.DrawFn, *, masked: bool) -> bytes:
    """A read that is one event of audio, or almost one."""
    frame = audio(
        draw(st.sampled_from(["input_audio_buffer.append", live.OUTPUT_AUDIO, "response.created", "error", "unknown"])),
        draw(st.sampled_from([100, 100, 100, 101, 10, 30, 65_400, 65_480, 66_000])),
        middle=draw(
            st.sampled_from([b"", b',"e":"e"', b',"type":"error"', b',"t\\u0079pe":"error"', b',"e":1', b',"a":"\\n"'])
        ),
        space=draw(st.sampled_from([b"", b"", b" "])),
        key=draw(st.sampled_from(KEYS)) if masked else b"",
    )
    changed = bytearray(frame)
    if draw(st.booleans()):
        changed[draw(st.integers(0, min(60, len(frame) - 1)))] = draw(st.integers(0, 255))
    tail = draw(st.sampled_from([b"", b"", b"", b"\x81", frame]))
    return bytes(changed[: draw(st.sampled_from([len(frame), len(frame), len(frame) - 1, 3, 0]))]) + tail


@examples(300)
@given(data=st.data(), kind=st.sampled_from(["server", "client", "strict"]), limit=st.sampled_from([LIMIT, 300]))
def test_run_goes_on_only_with_what_the_scanner_recognises(data: st.DataObject, kind: str, limit: int) -> None:
    """As the same type; and the totals are those of the events with which it went on."""
    masked = kind != "server"
    subject = strict(limit) if kind == "strict" else scanner(masked=masked, limit=limit)
    run = subject.new_audio_run()
    first = audio("input_audio_buffer.append" if masked else live.OUTPUT_AUDIO, 100, key=KEYS[0] if masked else b"")
    found = subject.whole_event_type(first)
    assert found is not None
    run.starts_with(first, found)
    counted = [0, 0]
    for read in data.draw(st.lists(like_audio(masked=masked) | st.just(first), max_size=6)):
        if run.goes_on_with(read):
            counted[0] += 1
            counted[1] += len(read)
            assert found == subject.copy().whole_event_type(read)

    assert tuple(counted) == run.take()
    assert (0, 0) == run.take()


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("kind", sorted(AUDIO_TYPES))
def test_run_goes_on_with_events_of_any_size_and_key(kind: str, masked: bool) -> None:
    """The mask of a browser is another one for each event, and encoders write chunks of several sizes."""
    subject = scanner(masked=masked)
    first, *others = [
        audio(kind, size, key=key if masked else b"")
        for size, key in zip((100, 100, 400, 65_000, 100), KEYS * 2, strict=False)
    ]
    run = subject.new_audio_run()
    assert kind == subject.whole_event_type(first)
    run.starts_with(first, kind)

    assert all(run.goes_on_with(event) for event in others)
    assert (len(others), sum(map(len, others))) == run.take()


@pytest.mark.parametrize("masked", [True, False])
def test_nothing_goes_on_without_a_start(masked: bool) -> None:
    """Nor behind the end of the run; what it counted before can still be taken."""
    run = scanner(masked=masked).new_audio_run()
    event = audio("input_audio_buffer.append", 100, key=KEYS[0] if masked else b"")
    assert not run.goes_on_with(event)
    run.starts_with(event, "input_audio_buffer.append")
    assert run.goes_on_with(event)
    run.stop()

    assert not run.goes_on_with(event)
    assert (1, len(event)) == run.take()


def test_run_outlasts_other_whole_events() -> None:
    """Transcripts lie between the events of audio of GPT-Live, of about the size of a short one."""
    subject = Scanner(masked=False, max_message_bytes=LIMIT, parsed_types=live.PARSED_EVENT_TYPES)
    run = subject.new_audio_run()
    event = audio(live.OUTPUT_AUDIO, 100)
    others = [audio(live.OUTPUT_TRANSCRIPT, size) for size in (10, 90, 100, 200)] + [audio("info", 100)]
    assert live.OUTPUT_AUDIO == subject.whole_event_type(event)
    run.starts_with(event, live.OUTPUT_AUDIO)
    for other in others:
        assert not run.goes_on_with(other)
        assert subject.whole_message(other) is not None or subject.whole_event_type(other) == "info"
        assert live.OUTPUT_AUDIO == subject.copy().whole_event_type(event)
        assert run.goes_on_with(event)

    assert (len(others), len(others) * len(event)) == run.take()


HIDDEN = (
    b'","type":"session.update","x":"',
    b'","t\\u0079pe":"session.update","x":"',
    b"\\u0041",
    b'"} {"',
)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("hidden", HIDDEN)
def test_run_of_a_strict_scanner_searches_each_event(hidden: bytes, key: bytes) -> None:
    """Whatever is within the audio, at every place of the mask, the event goes the long way; the run goes on after it."""
    subject = strict()
    run = subject.new_audio_run()
    event = audio(live.INPUT_AUDIO, 400, middle=b"", key=key)
    assert live.INPUT_AUDIO == subject.whole_event_type(event)
    run.starts_with(event, live.INPUT_AUDIO)
    for place in range(60, 64):
        payload = bytearray(unmask(event[8:], key))
        payload[place : place + len(hidden)] = hidden
        assert not run.goes_on_with(build_frame(Opcode.TEXT, bytes(payload), key))
        assert run.goes_on_with(event)

    assert (4, 4 * len(event)) == run.take()


def test_audio_is_of_known_types() -> None:
    """Others are never recognised as whole events."""
    assert AUDIO_TYPES <= CLIENT_EVENT_TYPES | SERVER_EVENT_TYPES | live.CLIENT_EVENT_TYPES | live.SERVER_EVENT_TYPES
