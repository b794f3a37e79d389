"""A WebSocket client of the Realtime API that uses only aiohttp, and PCM audio for it."""

import base64
import math
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from service.simulator import Simulator

KEY = "sk-sim-good"
PCM_BYTES_PER_MS = 48
Event = dict[str, Any]


class RealtimeClient:
    """One connection. Each read has a timeout of 5 seconds."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def send(self, event_type: str, **fields: object) -> None:
        """Send an event."""
        await self.ws.send_json({"type": event_type, **fields})

    async def next_event(self) -> Event:
        """Read the next event."""
        message = await self.ws.receive(5)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        event: Event = message.json()
        return event

    async def read_until(self, event_type: str) -> list[Event]:
        """Read all events up to and including the first one of this type."""
        events = [await self.next_event()]
        while events[-1]["type"] != event_type:
            events.append(await self.next_event())
        return events

    async def read_close(self) -> tuple[int, str]:
        """Read the close frame; return its code and reason."""
        message = await self.ws.receive(5)
        assert message.type is aiohttp.WSMsgType.CLOSE, message
        return int(message.data), message.extra or ""

    async def update_session(self, **session: object) -> Event:
        """Send session.update and return the updated session object."""
        await self.send("session.update", session={"type": "realtime", **session})
        return (await self.read_until("session.updated"))[-1]["session"]  # type: ignore[no-any-return] # JSON

    async def update_audio_input(self, **audio_input: object) -> Event:
        """Update `audio.input` and return the updated session object."""
        return await self.update_session(audio={"input": audio_input})

    async def append_audio(self, audio: bytes, chunk: int = 4800) -> None:
        """Append audio in chunks; the default is 100 ms of PCM."""
        for at in range(0, len(audio), chunk):
            await self.send("input_audio_buffer.append", audio=base64.b64encode(audio[at : at + chunk]).decode())

    async def speak(self, milliseconds: int, until: str) -> list[Event]:
        """Switch turn detection off, commit speech and request a response; return all events up to one of a type."""
        await self.update_audio_input(turn_detection=None)
        await self.append_audio(speech(milliseconds))
        await self.send("input_audio_buffer.commit")
        await self.send("response.create")
        return await self.read_until(until)

    async def run_text_turn(self, text: str) -> list[Event]:
        """Create a user message and a text response; return all events up to rate_limits.updated."""
        content = [{"type": "input_text", "text": text}]
        await self.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await self.send("response.create", response={"output_modalities": ["text"]})
        return await self.read_until("rate_limits.updated")


@asynccontextmanager
async def connect(
    sim: Simulator,
    query: str = "model=gpt-realtime",
    *,
    key: str | None = KEY,
    path: str = "/realtime",
    headers: dict[str, str] | None = None,
    protocols: tuple[str, ...] = (),
    compress: int = 0,
    autoping: bool = True,
    read_created: bool = True,
) -> AsyncIterator[RealtimeClient]:
    """Connect to a simulator, and read `session.created` unless `read_created` is false."""
    request_headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{sim.url}{path}?{query}",
            headers=request_headers,
            protocols=protocols,
            compress=compress,
            autoping=autoping,
            max_msg_size=0,
        ) as ws,
    ):
        client = RealtimeClient(ws)
        if read_created:
            assert (await client.next_event())["type"] == "session.created"
        yield client


def event_types(events: list[Event]) -> list[str]:
    """The types of events, in order."""
    return [event["type"] for event in events]


def output_audio(events: list[Event]) -> bytes:
    """The decoded audio of all response.output_audio.delta events."""
    deltas = [event["delta"] for event in events if event["type"] == "response.output_audio.delta"]
    return b"".join(base64.b64decode(delta) for delta in deltas)


def speech(milliseconds: int) -> bytes:
    """PCM above the threshold of voice activity detection."""
    count = milliseconds * PCM_BYTES_PER_MS // 2
    return array("h", (int(8000 * math.sin(at / 9)) for at in range(count))).tobytes()


def silence(milliseconds: int) -> bytes:
    """PCM below the threshold of voice activity detection."""
    return bytes(milliseconds * PCM_BYTES_PER_MS)
