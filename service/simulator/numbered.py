"""Numbered samples: audio in which every sample says which one it is, so that tests can account for each.

A word of samples holds the word's number. PCM: two samples, the first positive with the low 14 bits, the second negative
with the high 14 bits. G.711: four samples with six bits each, of which only the first has the sign bit set. All samples are
loud: voice activity detection takes them for speech. Numbers are unique for 2**29 samples of PCM (6 hours) and 2**26 of
G.711 (2 hours). Silence has no number. Where two pieces meet within a word, its samples can be taken for those of either;
where they meet between words, none are.

A numbered voice counts aloud: it says one word for each tenth of a second that begins in it, the number of that tenth.
"""

import functools
import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from service.simulator.audio import ALAW, PCM16, ULAW, AudioFormat

Ranges: TypeAlias = tuple[tuple[int, int], ...]  # of sample numbers, half-open

_TENTHS = 10  # words in a second
_COMPARED_SAMPLES = 4_096  # at once
_PCM_LOUD, _PCM_BITS = 0x4000, 14
_G711_LOUD, _G711_SIGN, _G711_BITS = 0x40, 0x80, 6
_MIN_WORDS = 2  # shorter matches are coincidences


@dataclass(frozen=True, slots=True)
class _Code:
    """How one format is numbered."""

    audio_format: AudioFormat
    word_samples: int
    block_words: int  # words with the same high bits

    @property
    def block_samples(self) -> int:
        return self.block_words * self.word_samples


_PCM = _Code(PCM16, 2, 1 << _PCM_BITS)
_CODES = {PCM16: _PCM, ULAW: _Code(ULAW, 4, 1 << 2 * _G711_BITS), ALAW: _Code(ALAW, 4, 1 << 2 * _G711_BITS)}
_SILENCE = {code: re.compile(b"[^" + re.escape(code.audio_format.silence(1)) + b"]") for code in _CODES.values()}


def numbered_audio(first: int, count: int, audio_format: AudioFormat = PCM16) -> bytes:
    """Return `count` samples, numbered from `first`."""
    code = _CODES[audio_format]
    pieces, at, end = list[bytes](), first, first + count
    while at < end:
        high, offset = divmod(at, code.block_samples)
        taken = min(end - at, code.block_samples - offset)
        size = audio_format.sample_bytes
        pieces.append(_block(code, high)[offset * size : (offset + taken) * size])
        at += taken
    return b"".join(pieces)


def sample_ranges(audio: bytes, audio_format: AudioFormat = PCM16) -> Ranges:
    """Return the numbers of the numbered samples in `audio`, in order, as ranges; samples that have none are skipped."""
    return merged(_runs(audio, _CODES.get(audio_format)))


def is_numbered(audio: bytes, audio_format: AudioFormat) -> bool:
    """Whether the first sample that is no silence is numbered."""
    code = _CODES.get(audio_format)
    at = None if code is None else _next_loud(audio, 0, code)
    return code is not None and at is not None and _first_number(audio, at, code) is not None


def spoken_words(ranges: Iterable[tuple[int, int]], audio_format: AudioFormat = PCM16) -> list[str]:
    """Return what a numbered voice says: the number of each tenth of a second that begins in the ranges."""
    tenth = audio_format.rate // _TENTHS
    return [str(number) for first, end in ranges for number in range(-(-first // tenth), -(-end // tenth))]


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Join each range with the one before it if it continues it."""
    result = list[tuple[int, int]]()
    for first, end in ranges:
        if result and result[-1][1] == first:
            result[-1] = (result[-1][0], end)
        else:
            result.append((first, end))
    return tuple(result)


def _runs(audio: bytes, code: _Code | None) -> Iterator[tuple[int, int]]:
    at = None if code is None else _next_loud(audio, 0, code)
    while code is not None and at is not None:
        first = _first_number(audio, at, code)
        count = 1 if first is None else _matching(audio, at, first, code)
        if first is not None:
            yield first, first + count
        at = _next_loud(audio, at + count, code)


def _next_loud(audio: bytes, at: int, code: _Code) -> int | None:
    size = code.audio_format.sample_bytes
    found = _SILENCE[code].search(audio, at * size)
    return None if found is None else found.start() // size


def _first_number(audio: bytes, at: int, code: _Code) -> int | None:
    """Return the number of the sample at `at`, by the first whole word at or behind it; None if it has none."""
    for skipped in range(code.word_samples):
        word = _word(audio, at + skipped, code)
        if word is not None:
            first = word * code.word_samples - skipped
            least = min(_MIN_WORDS * code.word_samples, len(audio) // code.audio_format.sample_bytes - at)
            return first if first >= 0 and _matching(audio, at, first, code) >= least else None
    return None


def _word(audio: bytes, at: int, code: _Code) -> int | None:
    size = code.audio_format.sample_bytes
    raw = audio[at * size : (at + code.word_samples) * size]
    if len(raw) < code.word_samples * size:
        return None
    if code is _PCM:
        low, high = array("h", raw)
        is_word = low >= _PCM_LOUD and high <= -_PCM_LOUD
        return (low - _PCM_LOUD) | (-high - _PCM_LOUD) << _PCM_BITS if is_word else None
    values = [_swap(byte, code.audio_format) for byte in raw]
    if [value & (_G711_SIGN | _G711_LOUD) for value in values] != [_G711_SIGN | _G711_LOUD, *[_G711_LOUD] * 3]:
        return None
    return sum((value & _G711_LOUD - 1) << _G711_BITS * place for place, value in enumerate(values))


def _matching(audio: bytes, at: int, first: int, code: _Code) -> int:
    """Return how many samples from `at` on are numbered from `first` on."""
    size, total = code.audio_format.sample_bytes, 0
    while True:
        start = (at + total) * size
        found = audio[start : start + _COMPARED_SAMPLES * size]
        expected = numbered_audio(first + total, len(found) // size, code.audio_format)
        if found[: len(expected)] == expected and expected:
            total += len(expected) // size
            continue
        lengths = range(1, len(expected) // size + 1)
        total += bisect_left(lengths, 1, key=lambda n: found[: n * size] != expected[: n * size])
        partial = (first + total) % code.word_samples
        # Behind the last whole word, another one can begin with the samples that were due.
        return total - partial if partial <= total and _word(audio, at + total - partial, code) is not None else total


@functools.lru_cache(maxsize=64)
def _block(code: _Code, high: int) -> bytes:
    if code is _PCM:
        second = -(_PCM_LOUD | high)
        return array("h", (value for low in range(code.block_words) for value in (_PCM_LOUD | low, second))).tobytes()
    mask = _G711_LOUD - 1
    ends = (_G711_LOUD | high & mask, _G711_LOUD | high >> _G711_BITS & mask)
    words = ((_G711_SIGN | _G711_LOUD | low & mask, _G711_LOUD | low >> _G711_BITS) for low in range(code.block_words))
    return bytes(_swap(value, code.audio_format) for word in words for value in (*word, *ends))


def _swap(byte: int, audio_format: AudioFormat) -> int:
    # ITU-T G.711: mu-law inverts all bits, A-law the even ones; the same operation in both directions.
    return byte ^ (0xFF if audio_format is ULAW else 0x55)
