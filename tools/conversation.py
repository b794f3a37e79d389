"""A voice conversation through the official SDK, for the tests and the demo."""

import asyncio
import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tools.voice import BYTES_PER_SECOND

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.resources.realtime.realtime import AsyncRealtimeConnection

CHUNK_SECONDS = 0.1
CHUNK_BYTES = int(BYTES_PER_SECOND * CHUNK_SECONDS)


def sha256(audio: bytes) -> str:
    """The hexadecimal digest by which sent and received audio are compared."""
    return hashlib.sha256(audio).hexdigest()


@dataclass
class Turn:
    """The response to one turn of speech: event types in order, audio, transcript, and the body of `response.done`."""

    events: list[str] = field(default_factory=list)
    audio: bytearray = field(default_factory=bytearray)
    transcript: str = ""
    response: Any = None


async def send_audio(
    connection: "AsyncRealtimeConnection",
    audio: bytes,
    *,
    pace: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Send audio in chunks of 100 ms, in real time or `pace` times faster; `progress` receives the seconds sent so far.

    Chunks are scheduled from the start, so that delays do not add up.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    for number, at in enumerate(range(0, len(audio), CHUNK_BYTES)):
        await asyncio.sleep(max(0.0, started + number * CHUNK_SECONDS / pace - loop.time()))
        chunk = audio[at : at + CHUNK_BYTES]
        await connection.input_audio_buffer.append(audio=base64.b64encode(chunk).decode())
        if progress is not None:
            progress((at + len(chunk)) / BYTES_PER_SECOND)


async def receive_response(connection: "AsyncRealtimeConnection") -> Turn:
    """Read events up to the `rate_limits.updated` behind a response; raises AssertionError on `error` or an early end."""
    turn = Turn()
    async for event in connection:
        turn.events.append(event.type)
        match event.type:
            case "response.created":
                turn.audio.clear()  # the previous response was interrupted and sends no more audio
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
    raise AssertionError("the connection ended before the response did")


async def disable_turn_detection(connection: "AsyncRealtimeConnection") -> None:
    """Let the client commit its own turns: without voice activity detection no audio is discarded."""
    await connection.session.update(session={"type": "realtime", "audio": {"input": {"turn_detection": None}}})


def create_client(url: str, token: str = "any-token") -> "AsyncOpenAI":
    """The official client, connected to a relay and without retries of its own."""
    from openai import AsyncOpenAI  # noqa: PLC0415 - half a second, of each process of the tests

    return AsyncOpenAI(api_key=token, base_url=f"{url}/v1", max_retries=0)
