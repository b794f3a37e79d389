"""How long the audio in events is, without decoding each of them. Pure."""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from service.realtime.continuity.kept import body_of, text
from service.realtime.values import child, finite_number

_FRAME_HEADER_BYTES: Final = 4  # of a frame with a two-byte length, which nearly every event of audio has
_EVENT_ID_BYTES: Final = 27  # `event_` and 21 characters
_MAX_KNOWN_SIZES: Final = 64
_BYTES_PER_SAMPLE: Final = 2
_DEFAULT_RATE: Final = 24_000
_G711_BYTES_PER_MS: Final = 8.0
_ITEM_ID: Final = re.compile(rb'"item_id"\s*:\s*"([^"\\]*)"')
_ENDS_BYTES: Final = 512  # of an event, which are searched for the item: the audio is one long string


class AudioFormat(NamedTuple):
    """The encoding of audio: its name, and the bytes of a millisecond."""

    name: str
    bytes_per_ms: float

    def slice(self, audio: bytes, start_ms: float, end_ms: float) -> bytes:
        """Return the audio between two times, in whole samples."""
        unit = 1 if self.bytes_per_ms == _G711_BYTES_PER_MS else _BYTES_PER_SAMPLE
        first, last = (max(0, round(ms * self.bytes_per_ms / unit) * unit) for ms in (start_ms, end_ms))
        return audio[first:last]


PCM: Final = AudioFormat("audio/pcm", _DEFAULT_RATE * _BYTES_PER_SAMPLE / 1000)


def audio_format(session: Mapping[str, Any], side: str) -> AudioFormat:
    """The format of the `input` or `output` audio of a session object."""
    form = child(child(child(session, "audio"), side), "format")
    name = text(form.get("type")) or PCM.name
    if name != PCM.name:
        return AudioFormat(name, _G711_BYTES_PER_MS)
    rate = finite_number(form.get("rate")) or _DEFAULT_RATE
    return AudioFormat(PCM.name, max(1.0, rate) * _BYTES_PER_SAMPLE / 1000)


def append_audio(raw: bytes) -> bytes:
    """Return the decoded audio of a client's append; empty if it has none that upstream could decode."""
    try:
        return base64.b64decode(text(body_of(raw, masked=True).get("audio")))
    except (binascii.Error, ValueError):
        return b""


class AppendSizes:
    """The bytes of audio in appends. The first append of a size is opened; others of that size are as long.

    Clients send chunks of one size, or of a few. Padding aside, which a client that varies it by chunk would need, frames
    of one size hold the same number of bytes.
    """

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: dict[int, int] = {}

    def audio_bytes(self, raw: bytes) -> int:
        """Return the bytes of audio in an append."""
        size = self.known.get(len(raw))
        if size is None:
            if len(self.known) >= _MAX_KNOWN_SIZES:
                self.known.clear()
            size = self.known[len(raw)] = len(append_audio(raw))
        return size


def delta_envelope(added: bytes, response_id: str, item_id: str) -> int:
    """Estimate the bytes of an event of audio without its audio, from the payload of its `response.output_item.added`."""
    space = b'": ' in added[:40]
    names = ("type", "event_id", "response_id", "item_id", "output_index", "content_index", "delta")
    values = len("response.output_audio.delta") + _EVENT_ID_BYTES + len(response_id) + len(item_id)
    quotes = 2 * (len(names) + 5)  # around each name, and each of five strings
    separators = len(names) + (len(names) - 1) + (2 * len(names) - 1 if space else 0)
    return 2 + quotes + separators + sum(map(len, names)) + values + 2  # two digits


def item_of_delta(raw: bytes) -> str:
    """Return the id of the item in the frame of an event of audio; empty if it shows none where it is searched."""
    found = _ITEM_ID.search(raw[:_ENDS_BYTES]) or _ITEM_ID.search(raw[-_ENDS_BYTES:])
    return found[1].decode(errors="replace") if found else ""


def deltas_ms(events: int, size: int, envelope: int, form: AudioFormat) -> float:
    """The milliseconds of audio in `events` deltas whose frames have `size` bytes."""
    encoded = size - events * (envelope + _FRAME_HEADER_BYTES)
    return max(0.0, encoded * 0.75 / form.bytes_per_ms)
