"""What is said: the words of the user's audio, and the numbered voice of the answers.

The simulator does not recognise speech. Numbered samples (`numbered`) count aloud; other audio gets a placeholder.
"""

from dataclasses import replace

from service.simulator.audio import AudioFormat
from service.simulator.items import Item
from service.simulator.numbered import is_numbered, numbered_audio, sample_ranges, spoken_words
from service.simulator.reply import Reply


def with_words(item: Item, audio_format: AudioFormat) -> Item:
    """Return an item of the user with the words of its audio, if it is numbered."""
    if item.audio is None or not is_numbered(item.audio, audio_format):
        return item
    return replace(item, words=" ".join(spoken_words(sample_ranges(item.audio, audio_format), audio_format)))


class NumberedVoice:
    """The voice of a simulator's answers: it counts on from one answer to the next, over all connections."""

    def __init__(self) -> None:
        self._next: dict[AudioFormat, int] = {}

    def say(self, reply: Reply, audio_format: AudioFormat, seconds: float | None) -> tuple[Reply, int]:
        """Return the reply in this voice, and the number of its first sample; `seconds` or as long as it was."""
        size = len(reply.audio or b"") if seconds is None else audio_format.bytes_for(seconds * 1000)
        count, first = size // audio_format.sample_bytes, self._next.get(audio_format, 0)
        word = audio_format.rate // 10  # answers begin with a word
        self._next[audio_format] = first + -(-max(count, 1) // word) * word
        words = " ".join(spoken_words([(first, first + count)], audio_format))
        return replace(reply, text=words, audio=numbered_audio(first, count, audio_format)), first
