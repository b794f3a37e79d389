"""The input audio buffer and its voice activity detection, without a connection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.simulator.audio import ALAW, PCM16, ULAW, AudioFormat, tone
from service.simulator.vad import InputAudioBuffer, SpeechStarted, SpeechStopped, TurnDetection
from tests.support.simulator_client import silence, speech

SPEECH_AND_SILENCE = silence(500) + speech(400) + silence(500) + speech(300) + silence(400)


def _input_audio_buffer(detection: TurnDetection | None) -> InputAudioBuffer:
    buffer = InputAudioBuffer()
    buffer.configure(PCM16, detection)
    return buffer


def test_speech_is_detected_with_padding() -> None:
    """Starts are 300 ms early, ends 200 ms late, and the audio is exactly what lies between."""
    speech_events = list(_input_audio_buffer(TurnDetection()).append(SPEECH_AND_SILENCE))
    assert speech_events == [
        SpeechStarted(200),
        SpeechStopped(1_100, SPEECH_AND_SILENCE[200 * 48 : 1_100 * 48]),
        SpeechStarted(1_100),
        SpeechStopped(1_900, SPEECH_AND_SILENCE[1_100 * 48 : 1_900 * 48]),
    ]


@given(st.lists(st.integers(1, 9_999), min_size=1, max_size=40))
def test_detection_is_independent_of_append_sizes(sizes: list[int]) -> None:
    """Every split of the same bytes yields the same events with the same audio."""
    buffer, speech_events, at = _input_audio_buffer(TurnDetection()), [], 0
    for size in sizes:
        speech_events += list(buffer.append(SPEECH_AND_SILENCE[at : at + size]))
        at += size
    speech_events += list(buffer.append(SPEECH_AND_SILENCE[at:]))
    assert speech_events == list(_input_audio_buffer(TurnDetection()).append(SPEECH_AND_SILENCE))


def test_silence_is_discarded_except_padding() -> None:
    """An open microphone does not increase memory."""
    buffer = _input_audio_buffer(TurnDetection())
    for _ in range(100):
        assert list(buffer.append(silence(1_000))) == []
    assert buffer.milliseconds <= 400


def test_click_below_60_ms_is_not_speech() -> None:
    """40 ms above the threshold yield no event."""
    assert list(_input_audio_buffer(TurnDetection()).append(silence(200) + speech(40) + silence(500))) == []


def test_buffer_without_turn_detection_keeps_all_audio() -> None:
    """The commit returns it and empties the buffer."""
    buffer = _input_audio_buffer(None)
    assert list(buffer.append(SPEECH_AND_SILENCE)) == []
    assert buffer.commit() == SPEECH_AND_SILENCE
    assert buffer.milliseconds == 0


def test_detection_uses_configured_threshold() -> None:
    """The same audio is speech at 0.3 and not at 0.9."""
    quiet = bytes(byte for sample in [400, -400] * 12_000 for byte in sample.to_bytes(2, "little", signed=True))
    assert list(_input_audio_buffer(TurnDetection(threshold=0.9)).append(quiet)) == []
    assert list(_input_audio_buffer(TurnDetection(threshold=0.3)).append(quiet)) == [SpeechStarted(0)]


@pytest.mark.parametrize(("audio_format", "quiet"), [(ULAW, b"\xff"), (ALAW, b"\xd5"), (PCM16, b"\0\0")])
def test_loudness_separates_tone_from_silence(audio_format: AudioFormat, quiet: bytes) -> None:
    """For the silence byte of each format."""
    assert audio_format.loudness(quiet * 160) < 20
    assert audio_format.loudness(tone(audio_format)) > 1_000


@pytest.mark.parametrize("audio_format", [PCM16, ULAW, ALAW])
def test_durations_and_sizes_are_consistent(audio_format: AudioFormat) -> None:
    """Milliseconds and bytes agree, and half a second of tone is half a second."""
    assert audio_format.duration_ms(audio_format.bytes_for(250)) == 250
    assert audio_format.duration_ms(len(tone(audio_format))) == 500
