"""The conversations of the demo client, which produce data for every dashboard panel.

A conversation lasts 30 to 45 seconds in real time. Speech is a tone: the simulator detects its start and end by volume.
"""

import asyncio
import base64
import math
import random
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from calls import MODEL, REALTIME_PATH, TRANSLATION_PATH, Call, Outcome, Refused, RelayClient

TOKEN: Final = "demo-token-talker"  # noqa: S105 - a demo token, see demo.env
_SAMPLE_RATE: Final = 24_000  # 16-bit samples per second
_CHUNK_SECONDS: Final = 0.1
_ANSWER_SECONDS: Final = 20.0
_PAUSE_SECONDS: Final = (1.0, 4.0)


@dataclass(slots=True)
class Turns:
    """Writes one line for each turn of a conversation."""

    caller: int
    write: Callable[[str], None]
    count: int = 0

    async def wait_for_response(self, call: Call) -> None:
        """Wait until the response of this turn is complete, and report how long that took."""
        started = time.monotonic()
        in_time = await call.wait_for("response.done", _ANSWER_SECONDS)
        if not call.is_closed:  # the end of the call has a line of its own
            seconds = time.monotonic() - started
            self.report(
                f"response complete after {seconds:.1f} s" if in_time else f"no response within {seconds:.0f} s"
            )

    def report(self, text: str) -> None:
        """Report a turn."""
        self.count += 1
        self.write(f"caller {self.caller}: turn {self.count}: {text}\n")


Conversation = Callable[[Call, random.Random, Turns], Awaitable[None]]


def tone(seconds: float, hertz: float = 330.0, volume: float = 0.2) -> bytes:
    """PCM of a tone; silence if the volume is 0."""
    samples = range(round(_SAMPLE_RATE * seconds))
    wave = (round(32767 * volume * math.sin(2 * math.pi * hertz * sample / _SAMPLE_RATE)) for sample in samples)
    return struct.pack(f"<{len(samples)}h", *wave)


_SPEECH: Final = tone(1.2)
_SILENCE: Final = tone(0.6, volume=0.0)


async def speak(call: Call, audio: bytes, event_type: str = "input_audio_buffer.append") -> None:
    """Send audio in real time."""
    size = int(_SAMPLE_RATE * _CHUNK_SECONDS) * 2
    for start in range(0, len(audio), size):
        await call.send(event_type, audio=base64.b64encode(audio[start : start + size]).decode())
        await asyncio.sleep(_CHUNK_SECONDS)


async def talk_by_voice(call: Call, rng: random.Random, turns: Turns) -> None:
    """Speech with voice activity detection; some answers are interrupted by more speech."""
    for _ in range(rng.randint(4, 6)):
        await speak(call, _SPEECH + _SILENCE)
        await call.wait_for("response.output_audio.delta", _ANSWER_SECONDS)
        if rng.random() < 0.3:  # noqa: PLR2004 - about once per call
            await speak(call, _SPEECH + _SILENCE)
        await turns.wait_for_response(call)
        await asyncio.sleep(rng.uniform(*_PAUSE_SECONDS))


async def talk_by_text(call: Call, rng: random.Random, turns: Turns) -> None:
    """Typed turns. One response is cancelled, and some calls send one unknown event."""
    await call.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
    await call.wait_for("session.updated", _ANSWER_SECONDS)
    for turn in range(rng.randint(8, 12)):
        content = [{"type": "input_text", "text": f"This is turn {turn}. " * rng.randint(1, 20)}]
        await call.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await call.send("response.create")
        if turn == 1:
            await call.send("response.cancel")
        if turn == 2 and rng.random() < 0.2:  # noqa: PLR2004 - the third turn of one call in five
            await call.send("response.nonsense")
        await turns.wait_for_response(call)
        await asyncio.sleep(rng.uniform(*_PAUSE_SECONDS))


async def transcribe(call: Call, rng: random.Random, turns: Turns) -> None:
    """Speech for transcription only."""
    for _ in range(rng.randint(6, 9)):
        await speak(call, _SPEECH + _SILENCE)
        turns.report("speech sent for transcription")
        await call.wait_for(None, rng.uniform(*_PAUSE_SECONDS))


async def translate(call: Call, rng: random.Random, turns: Turns) -> None:
    """Speech for translation."""
    for _ in range(rng.randint(6, 9)):
        await speak(call, _SPEECH + _SILENCE, "session.input_audio_buffer.append")
        turns.report("speech sent for translation")
        await call.wait_for(None, rng.uniform(*_PAUSE_SECONDS))


_KINDS: Final[tuple[tuple[Conversation, str, tuple[tuple[str, str], ...]], ...]] = (
    (talk_by_voice, REALTIME_PATH, (("model", MODEL),)),
    (talk_by_text, REALTIME_PATH, (("model", "gpt-realtime-mini"),)),
    (talk_by_voice, REALTIME_PATH, (("model", "gpt-realtime-2"),)),
    (transcribe, REALTIME_PATH, (("intent", "transcription"),)),
    (talk_by_text, REALTIME_PATH, (("model", MODEL),)),
    (translate, TRANSLATION_PATH, (("model", "gpt-realtime-translate"),)),
)


async def repeat_conversations(
    relay: RelayClient, number: int, on_success: Callable[[], None], write: Callable[[str], None]
) -> None:
    """One conversation after another until cancelled. Calls `on_success` after each open and each completed call."""
    converse, path, query = _KINDS[number % len(_KINDS)]
    rng = random.Random(number)  # noqa: S311 - reproducible, no secret
    while True:
        try:
            async with relay.call(TOKEN, path=path, query=query) as call:
                on_success()
                await converse(call, rng, Turns(number, write))
                on_success()
            outcome = call.outcome
        except Refused as refused:
            outcome = refused.outcome
        if outcome != Outcome(outcome.status or 0):
            write(f"caller {number}: {outcome}\n")
        await asyncio.sleep(rng.uniform(*_PAUSE_SECONDS))
