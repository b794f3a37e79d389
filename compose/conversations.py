"""The demo's callers: what they say, so that every panel has something to show.

One conversation lasts between half a minute and three quarters, in real time: speech is a tone, so that the simulator's
ears, which listen for loudness, hear it begin and end.
"""

import asyncio
import base64
import math
import random
import struct
from collections.abc import Awaitable, Callable
from typing import Final

from calls import CONVERSATIONS, MODEL, TRANSLATIONS, Call, Line, Outcome, Refused

TOKEN: Final = "demo-token-talker"  # noqa: S105 - stands in demo.env
_RATE: Final = 24_000  # samples a second, of 16 bits
_PIECE_SECONDS: Final = 0.1
_ANSWER_SECONDS: Final = 20.0
_PAUSE_SECONDS: Final = (1.0, 4.0)

Talk = Callable[[Call, random.Random], Awaitable[None]]


def tone(seconds: float, hertz: float = 330.0, loudness: float = 0.2) -> bytes:
    """A tone; with no loudness, silence."""
    samples = range(round(_RATE * seconds))
    wave = (round(32767 * loudness * math.sin(2 * math.pi * hertz * sample / _RATE)) for sample in samples)
    return struct.pack(f"<{len(samples)}h", *wave)


_SPEECH: Final = tone(1.2)
_SILENCE: Final = tone(0.6, loudness=0.0)


async def speak(call: Call, audio: bytes, kind: str = "input_audio_buffer.append") -> None:
    """Send audio as fast as it plays."""
    size = int(_RATE * _PIECE_SECONDS) * 2
    for at in range(0, len(audio), size):
        await call.send(kind, audio=base64.b64encode(audio[at : at + size]).decode())
        await asyncio.sleep(_PIECE_SECONDS)


async def talk_by_voice(call: Call, chance: random.Random) -> None:
    """Speech, whose end the provider hears; every now and then the answer is spoken over."""
    for _ in range(chance.randint(4, 6)):
        await speak(call, _SPEECH + _SILENCE)
        await call.wait_for("response.output_audio.delta", _ANSWER_SECONDS)
        if chance.random() < 0.3:  # noqa: PLR2004 - about once in a call
            await speak(call, _SPEECH + _SILENCE)
        await call.wait_for("response.done", _ANSWER_SECONDS)
        await asyncio.sleep(chance.uniform(*_PAUSE_SECONDS))


async def talk_by_text(call: Call, chance: random.Random) -> None:
    """Typed turns; one answer is cancelled, and now and then one event is nonsense."""
    await call.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
    await call.wait_for("session.updated", _ANSWER_SECONDS)
    for turn in range(chance.randint(8, 12)):
        content = [{"type": "input_text", "text": f"This is turn {turn}. " * chance.randint(1, 20)}]
        await call.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await call.send("response.create")
        if turn == 1:
            await call.send("response.cancel")
        if turn == 2 and chance.random() < 0.2:  # noqa: PLR2004 - the third turn of one call in five
            await call.send("response.nonsense")
        await call.wait_for("response.done", _ANSWER_SECONDS)
        await asyncio.sleep(chance.uniform(*_PAUSE_SECONDS))


async def dictate(call: Call, chance: random.Random) -> None:
    """Speech that is only written down."""
    for _ in range(chance.randint(6, 9)):
        await speak(call, _SPEECH + _SILENCE)
        await call.wait_for(None, chance.uniform(*_PAUSE_SECONDS))


async def be_translated(call: Call, chance: random.Random) -> None:
    """Speech that comes back in another language, while it lasts."""
    for _ in range(chance.randint(6, 9)):
        await speak(call, _SPEECH + _SILENCE, "session.input_audio_buffer.append")
        await call.wait_for(None, chance.uniform(*_PAUSE_SECONDS))


_KINDS: Final[tuple[tuple[Talk, str, tuple[tuple[str, str], ...]], ...]] = (
    (talk_by_voice, CONVERSATIONS, (("model", MODEL),)),
    (talk_by_text, CONVERSATIONS, (("model", "gpt-realtime-mini"),)),
    (talk_by_voice, CONVERSATIONS, (("model", "gpt-realtime-2"),)),
    (dictate, CONVERSATIONS, (("intent", "transcription"),)),
    (talk_by_text, CONVERSATIONS, (("model", MODEL),)),
    (be_translated, TRANSLATIONS, (("model", "gpt-realtime-translate"),)),
)


async def keep_talking(line: Line, number: int, on_well: Callable[[], None], say: Callable[[str], None]) -> None:
    """One caller, for ever: a conversation, a pause, the next. `on_well` is told of every call that was answered."""
    talk, path, query = _KINDS[number % len(_KINDS)]
    chance = random.Random(number)  # noqa: S311 - a demo that can be repeated
    while True:
        try:
            async with line.call(TOKEN, path=path, query=query) as call:
                on_well()
                await talk(call, chance)
                on_well()
            outcome = call.outcome
        except Refused as refused:
            outcome = refused.outcome
        if outcome != Outcome(outcome.status or 0):
            say(f"caller {number}: {outcome}\n")
        await asyncio.sleep(chance.uniform(*_PAUSE_SECONDS))
