"""What a client's conversation brought back, and whether the voice that came back is the voice that was sent."""

from array import array
from dataclasses import dataclass, replace
from typing import Final

from service.simulator.audio import PCM16, tone

QUIET: Final = 330
"""The loudest sample outside the voice; the simulator hears a voice above this mean amplitude."""
_MIN_BYTES: Final = 24_000  # half a second
WORDS: Final = "Polly hears every"
"""The beginning of what the simulator transcribes for the first speech of a session."""


class ClientFailed(Exception):
    """A client did not finish its conversation, or not as it must; the message says how."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Audio as PCM16 at 24 kHz, and what the client printed."""

    sent: bytes
    received: bytes
    output: str
    exit_code: int = 0

    def check(self) -> str:
        """Compare sample for sample, and read the transcript; returns a summary. Raises ClientFailed."""
        if self.exit_code:
            raise ClientFailed(f"exit code {self.exit_code}:\n{self.output[-3000:]}")
        voice = without_zeros(self.received)
        if len(voice) < _MIN_BYTES:
            raise ClientFailed(f"{len(voice)} bytes of voice came back:\n{self.output[-3000:]}")
        at = self.sent.find(voice)
        if at < 0 or at % 2:
            raise ClientFailed(f"the {len(voice)} bytes of voice that came back are no part of what was sent")
        lost = max(loudest(self.sent[:at]), loudest(self.sent[at + len(voice) :]))
        if lost > QUIET:
            raise ClientFailed(f"a sample of {lost} was sent and did not come back")
        if WORDS not in self.output:
            raise ClientFailed(f"the transcript is missing:\n{self.output[-3000:]}")
        return f"{len(voice) / 48_000:.2f} s of voice came back, equal in each of its {len(voice) // 2} samples"

    def without_tone(self) -> "Outcome":
        """The same without the tone in which the simulator says what is not the user's speech."""
        at = self.received.find(tone(PCM16))
        return self if at < 0 else replace(self, received=self.received[:at])

    def check_refusal(self, *words: str) -> str:
        """Check that the client showed why its session did not start; returns a summary. Raises ClientFailed."""
        missing = [word for word in words if word not in self.output]
        if missing or without_zeros(self.received):
            raise ClientFailed(f"it did not show {', '.join(missing)}:\n{self.output[-3000:]}")
        return f"shows {' and '.join(map(repr, words))}"


def without_zeros(audio: bytes) -> bytes:
    """Audio from its first to its last sample that is not zero."""
    samples = _samples(audio)
    sounding = [at for at, sample in enumerate(samples) if sample]
    return samples[sounding[0] : sounding[-1] + 1].tobytes() if sounding else b""


def loudest(audio: bytes) -> int:
    """The amplitude of the loudest sample."""
    return max(map(abs, _samples(audio)), default=0)


def _samples(audio: bytes) -> "array[int]":
    return array("h", audio[: len(audio) // 2 * 2])
