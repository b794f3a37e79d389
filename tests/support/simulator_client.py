"""A plain client of the simulator, for its own tests."""

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


class Caller:
    """One socket: sends events, reads events, always within a bound."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def send(self, kind: str, **fields: object) -> None:
        """Send an event."""
        await self.ws.send_json({"type": kind, **fields})

    async def next(self) -> Event:
        """Read the next event."""
        message = await self.ws.receive(5)
        assert message.type is aiohttp.WSMsgType.TEXT, message
        event: Event = message.json()
        return event

    async def until(self, kind: str) -> list[Event]:
        """Read up to the first event of this type, which is the last returned."""
        events = [await self.next()]
        while events[-1]["type"] != kind:
            events.append(await self.next())
        return events

    async def close_of(self) -> tuple[int, str]:
        """Read the CLOSE: its code and reason."""
        message = await self.ws.receive(5)
        assert message.type is aiohttp.WSMsgType.CLOSE, message
        return int(message.data), message.extra or ""

    async def configure(self, **session: object) -> Event:
        """Update the session; returns it."""
        await self.send("session.update", session={"type": "realtime", **session})
        return (await self.until("session.updated"))[-1]["session"]  # type: ignore[no-any-return] # JSON

    async def listen(self, **hears: object) -> Event:
        """Update how the session hears."""
        return await self.configure(audio={"input": hears})

    async def append(self, audio: bytes, chunk: int = 4800) -> None:
        """Append audio in pieces of 100 ms of PCM."""
        for at in range(0, len(audio), chunk):
            await self.send("input_audio_buffer.append", audio=base64.b64encode(audio[at : at + chunk]).decode())

    async def say(self, text: str) -> list[Event]:
        """Write to the assistant and read all of its answer."""
        content = [{"type": "input_text", "text": text}]
        await self.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
        await self.send("response.create", response={"output_modalities": ["text"]})
        return await self.until("rate_limits.updated")


@asynccontextmanager
async def connected(
    sim: Simulator,
    query: str = "model=gpt-realtime",
    *,
    key: str | None = KEY,
    path: str = "/realtime",
    headers: dict[str, str] | None = None,
    protocols: tuple[str, ...] = (),
    compress: int = 0,
    autoping: bool = True,
    greeted: bool = True,
) -> AsyncIterator[Caller]:
    """Connect, and take ``session.created`` off unless ``greeted=False``."""
    sent = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{sim.url}{path}?{query}",
            headers=sent,
            protocols=protocols,
            compress=compress,
            autoping=autoping,
            max_msg_size=0,
        ) as ws,
    ):
        caller = Caller(ws)
        if greeted:
            assert (await caller.next())["type"] == "session.created"
        yield caller


def kinds(events: list[Event]) -> list[str]:
    """The types of events, in order."""
    return [event["type"] for event in events]


def spoken(events: list[Event]) -> bytes:
    """All audio that the assistant sent."""
    deltas = [event["delta"] for event in events if event["type"] == "response.output_audio.delta"]
    return b"".join(base64.b64decode(delta) for delta in deltas)


def voice(milliseconds: int) -> bytes:
    """Make PCM that is loud enough to be speech."""
    count = milliseconds * PCM_BYTES_PER_MS // 2
    return array("h", (int(8000 * math.sin(at / 9)) for at in range(count))).tobytes()


def silence(milliseconds: int) -> bytes:
    """Make PCM that is not."""
    return bytes(milliseconds * PCM_BYTES_PER_MS)
