"""The input audio buffer and its voice activity detection, without a connection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.simulator.audio import ALAW, PCM16, ULAW, AudioFormat, tone
from service.simulator.numbered import merged, numbered_audio, sample_ranges
from service.simulator.vad import IdleTimeout, InputAudioBuffer, SpeechStarted, SpeechStopped, TurnDetection
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


def test_idle_timeout_follows_the_answer_that_is_played_out() -> None:
    """It yields the silence once; speech before prevents it. Times are positions in the audio."""
    buffer = _input_audio_buffer(TurnDetection(idle_timeout_ms=5_000))
    assert list(buffer.append(silence(6_000))) == []  # nothing is expected before an answer
    buffer.expect_speech(1_000)
    (idle,) = buffer.append(silence(20_000))
    assert isinstance(idle, IdleTimeout)
    assert (idle.audio_start_ms, idle.audio_end_ms) == (7_000, 12_000)
    assert set(idle.audio) == {0}
    buffer.expect_speech(0)
    speech_events = list(buffer.append(speech(300) + silence(9_000)))
    assert [type(event) for event in speech_events] == [SpeechStarted, SpeechStopped]


def test_lag_delays_events_and_not_their_times() -> None:
    """The same events, each that much more audio later."""
    lagging, expected = (
        InputAudioBuffer(lag_ms=300),
        list(_input_audio_buffer(TurnDetection()).append(SPEECH_AND_SILENCE)),
    )
    lagging.configure(PCM16, TurnDetection())
    assert list(lagging.append(SPEECH_AND_SILENCE[: 1_399 * 48])) == expected[:1]
    assert list(lagging.append(SPEECH_AND_SILENCE[1_399 * 48 : 1_400 * 48])) == expected[1:2]
    assert list(lagging.append(SPEECH_AND_SILENCE[1_400 * 48 :] + silence(300))) == expected[2:]


@pytest.mark.parametrize("audio_format", [PCM16, ULAW, ALAW])
@given(st.lists(st.tuples(st.integers(10, 40), st.integers(30, 80)), min_size=1, max_size=5), st.integers(1, 4_000))
def test_each_spoken_sample_is_in_one_turn(
    audio_format: AudioFormat, turns: list[tuple[int, int]], append_size: int
) -> None:
    """Numbered speech and silence, in frames of 20 ms, in appends of any size."""
    frame, spoken, audio = audio_format.rate // 50, 0, audio_format.silence(audio_format.bytes_for(400))
    for speech_frames, silent_frames in turns:
        audio += numbered_audio(spoken, speech_frames * frame, audio_format)
        audio += audio_format.silence(audio_format.bytes_for(silent_frames * 20))
        spoken += speech_frames * frame
    buffer = InputAudioBuffer()
    buffer.configure(audio_format, TurnDetection())
    events = [
        event for at in range(0, len(audio), append_size) for event in buffer.append(audio[at : at + append_size])
    ]
    heard = [event.audio for event in events if isinstance(event, SpeechStopped)]
    assert len(heard) == len(turns)
    assert merged(numbers for piece in heard for numbers in sample_ranges(piece, audio_format)) == ((0, spoken),)


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
