"""A voice conversation with the official SDK, as a test and as a demonstration."""

import asyncio
import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from tools.voice import BYTES_PER_SECOND

CHUNK_SECONDS = 0.1
CHUNK_BYTES = int(BYTES_PER_SECOND * CHUNK_SECONDS)


def sha256(audio: bytes) -> str:
    """The digest by which both sides compare audio."""
    return hashlib.sha256(audio).hexdigest()


@dataclass
class Turn:
    """What came back for one turn of speech."""

    events: list[str] = field(default_factory=list)
    audio: bytearray = field(default_factory=bytearray)
    transcript: str = ""
    response: Any = None


async def speak(
    connection: AsyncRealtimeConnection,
    audio: bytes,
    *,
    pace: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Stream audio in pieces of 100 ms, in real time (pace 1) or faster; each piece is due at its own time."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    for number, at in enumerate(range(0, len(audio), CHUNK_BYTES)):
        await asyncio.sleep(max(0.0, started + number * CHUNK_SECONDS / pace - loop.time()))
        piece = audio[at : at + CHUNK_BYTES]
        await connection.input_audio_buffer.append(audio=base64.b64encode(piece).decode())
        if progress is not None:
            progress((at + len(piece)) / BYTES_PER_SECOND)


async def listen(connection: AsyncRealtimeConnection) -> Turn:
    """Read events up to the end of a response and the rate limits behind it."""
    turn = Turn()
    async for event in connection:
        turn.events.append(event.type)
        match event.type:
            case "response.created":
                turn.audio.clear()  # one before it was interrupted, and nothing comes of it any more
            case "response.output_audio.delta":
                turn.audio += base64.b64decode(event.delta)
            case "response.output_audio_transcript.done":
                turn.transcript = event.transcript
            case "response.done":
                turn.response = event.response
            case "rate_limits.updated":
                return turn
            case "error":
                raise AssertionError(event.error.message)
    raise AssertionError("the connection ended within a turn")


async def manual_session(connection: AsyncRealtimeConnection) -> None:
    """Take over the turns: no voice activity detection, every byte counts."""
    await connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})


def client_for(url: str, token: str = "any-token") -> AsyncOpenAI:
    """The official client, pointed at a relay; it never tries again by itself."""
    return AsyncOpenAI(api_key=token, base_url=f"{url}/v1", max_retries=0)
