"""The input buffer and its ear, without a socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.simulator.audio import ALAW, PCM16, ULAW, AudioFormat, tone
from service.simulator.vad import InputAudioBuffer, SpeechStarted, SpeechStopped, TurnDetection
from tests.support.simulator_client import silence, voice

TALK = silence(500) + voice(400) + silence(500) + voice(300) + silence(400)


def _buffer(detection: TurnDetection | None) -> InputAudioBuffer:
    buffer = InputAudioBuffer()
    buffer.configure(PCM16, detection)
    return buffer


def test_speech_is_found_with_its_padding() -> None:
    """Starts are 300 ms early, ends 200 ms late, and the audio is exactly what lies between."""
    heard = list(_buffer(TurnDetection()).append(TALK))
    assert heard == [
        SpeechStarted(200),
        SpeechStopped(1_100, TALK[200 * 48 : 1_100 * 48]),
        SpeechStarted(1_100),
        SpeechStopped(1_900, TALK[1_100 * 48 : 1_900 * 48]),
    ]


@given(st.lists(st.integers(1, 9_999), min_size=1, max_size=40))
def test_how_the_audio_is_cut_does_not_matter(sizes: list[int]) -> None:
    """Any cutting of the same bytes gives the same events with the same audio."""
    buffer, heard, at = _buffer(TurnDetection()), [], 0
    for size in sizes:
        heard += list(buffer.append(TALK[at : at + size]))
        at += size
    heard += list(buffer.append(TALK[at:]))
    assert heard == list(_buffer(TurnDetection()).append(TALK))


def test_an_open_microphone_costs_no_memory() -> None:
    """Silence is forgotten but for the padding."""
    buffer = _buffer(TurnDetection())
    for _ in range(100):
        assert list(buffer.append(silence(1_000))) == []
    assert buffer.milliseconds <= 400


def test_a_click_is_not_speech() -> None:
    """Less than 60 ms above the threshold start nothing."""
    assert list(_buffer(TurnDetection()).append(silence(200) + voice(40) + silence(500))) == []


def test_without_turn_detection_everything_is_kept() -> None:
    """All that was appended is handed over once."""
    buffer = _buffer(None)
    assert list(buffer.append(TALK)) == []
    assert buffer.commit() == TALK
    assert buffer.milliseconds == 0


def test_the_threshold_is_honoured() -> None:
    """A higher threshold does not hear what a lower one does."""
    quiet = bytes(byte for sample in [400, -400] * 12_000 for byte in sample.to_bytes(2, "little", signed=True))
    assert list(_buffer(TurnDetection(threshold=0.9)).append(quiet)) == []
    assert list(_buffer(TurnDetection(threshold=0.3)).append(quiet)) == [SpeechStarted(0)]


@pytest.mark.parametrize(("audio_format", "quiet"), [(ULAW, b"\xff"), (ALAW, b"\xd5"), (PCM16, b"\0\0")])
def test_every_format_tells_loud_from_quiet(audio_format: AudioFormat, quiet: bytes) -> None:
    """The tone is speech to the ear, the silence of each format is not."""
    assert audio_format.loudness(quiet * 160) < 20
    assert audio_format.loudness(tone(audio_format)) > 1_000


@pytest.mark.parametrize("audio_format", [PCM16, ULAW, ALAW])
def test_lengths_are_whole_samples(audio_format: AudioFormat) -> None:
    """Milliseconds and bytes agree, and half a second of tone is half a second."""
    assert audio_format.duration_ms(audio_format.bytes_for(250)) == 250
    assert audio_format.duration_ms(len(tone(audio_format))) == 500
