"""Numbered samples: every sample of any piece names itself."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.simulator.audio import ALAW, PCM16, PCM16_WIDEBAND, ULAW, AudioFormat
from service.simulator.numbered import is_numbered, merged, numbered_audio, sample_ranges, spoken_words
from tests.support.simulator_client import speech

FORMATS = [PCM16, ULAW, ALAW]
WORD = 4  # samples; a multiple of the words of all formats


@given(
    st.sampled_from(FORMATS),
    st.lists(st.tuples(st.integers(0, 2**23), st.integers(4, 9_000), st.integers(0, 700)), min_size=1, max_size=5),
)
def test_pieces_between_silence_are_found(audio_format: AudioFormat, pieces: list[tuple[int, int, int]]) -> None:
    """Also next to each other, at any place in the numbers and of any length."""
    audio, expected = b"", list[tuple[int, int]]()
    for word, length, quiet in pieces:
        first = word * WORD
        audio += numbered_audio(first, length * WORD, audio_format) + audio_format.silence(
            quiet * audio_format.sample_bytes
        )
        expected.append((first, first + length * WORD))
    assert sample_ranges(audio, audio_format) == merged(expected)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_pieces_that_meet_between_words_are_distinguished(audio_format: AudioFormat) -> None:
    """Also if the second begins with samples that could continue the first."""
    for second in (0, 4, 64 * 4, 4096 * 4):
        audio = numbered_audio(0, 64 * WORD, audio_format) + numbered_audio(second, 4 * WORD, audio_format)
        assert sample_ranges(audio, audio_format) == merged(((0, 64 * WORD), (second, second + 4 * WORD)))


@given(st.sampled_from(FORMATS), st.integers(0, 2**24), st.integers(16, 300), st.integers(0, 8), st.integers(0, 8))
def test_any_slice_names_its_samples(
    audio_format: AudioFormat, first: int, count: int, before: int, behind: int
) -> None:
    """A slice may begin and end within a word."""
    size = audio_format.sample_bytes
    audio = numbered_audio(first, count, audio_format)[before * size : (count - behind) * size]
    expected = ((first + before, first + count - behind),)
    found = sample_ranges(audio, audio_format)
    assert found == expected or count - before - behind < 2 * WORD


@pytest.mark.parametrize("audio_format", FORMATS)
def test_numbers_continue_over_blocks(audio_format: AudioFormat) -> None:
    """Where the high bits of the number change."""
    for first in (2 * 2**14 - 100, 4 * 2**12 - 100, 4 * 2**24 - 1_000):
        audio = numbered_audio(first, 400, audio_format)
        assert len(audio) == 400 * audio_format.sample_bytes
        assert sample_ranges(audio, audio_format) == ((first, first + 400),)


@pytest.mark.parametrize("audio_format", FORMATS)
def test_numbered_audio_is_loud(audio_format: AudioFormat) -> None:
    """Voice activity detection takes it for speech at every threshold."""
    assert audio_format.loudness(numbered_audio(0, 8_000, audio_format)) > 660


def test_other_audio_has_no_numbers() -> None:
    """A tone, silence, nothing, a loud square wave, and a format without numbers."""
    square = b"\xff\x7f\x00\x80" * 500
    assert [sample_ranges(audio) for audio in (speech(500), bytes(4_000), b"", square)] == [(), (), (), ()]
    assert sample_ranges(numbered_audio(0, 100), PCM16_WIDEBAND) == ()
    assert not is_numbered(speech(100), PCM16)
    assert is_numbered(bytes(640) + numbered_audio(7, 100), PCM16)


@given(st.lists(st.integers(0, 30_000), min_size=1, max_size=6, unique=True))
def test_each_word_is_spoken_by_one_piece(cuts: list[int]) -> None:
    """However the samples are cut into turns, each tenth of a second is said once, in order."""
    edges = [0, *sorted(cuts), 30_000]
    words = [word for first, end in pairwise(edges) for word in spoken_words([(first, end)])]
    assert words == [str(tenth) for tenth in range(13)]
