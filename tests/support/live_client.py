"""A WebSocket client of GPT-Live that uses only aiohttp."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from service.simulator import Simulator, SimulatorOptions
from service.simulator.live.options import LiveOptions
from tests.support.simulator_client import KEY, Event, RealtimeClient

MODEL = "gpt-live-1"
FRAME_BYTES = 4_800  # 100 ms of PCM at 24 kHz
AUDIO_DELTA = "session.output_audio.delta"


def quick_live(**options: Any) -> LiveOptions:
    """Options without the provider's delays."""
    quick = {"start_seconds": 0, "abort_seconds": 0.02, "close_seconds": 0, "slow_close_seconds": 0.3}
    return LiveOptions(**{**quick, "response_seconds": 0, **options})


def live_simulator(*, scenario: str | None = None, **options: Any) -> Simulator:
    """A simulator whose GPT-Live has these options, and no other delays."""
    return Simulator(SimulatorOptions(scenario=scenario, expire_after_seconds=0.1, live=quick_live(**options)))


class LiveClient(RealtimeClient):
    """One connection to GPT-Live."""

    async def start(self, *, model: str = MODEL, **session: object) -> Event:
        """Start the session; return the session object."""
        await self.send("session.start", session={"model": model, **session})
        event = await self.next_event()
        assert event["type"] == "session.started", event
        return event["session"]  # type: ignore[no-any-return] # JSON

    async def append(self, audio: bytes) -> None:
        """Append audio in one event."""
        await self.send("session.input_audio.append", audio=base64.b64encode(audio).decode())

    async def hear(self, audio: bytes, size: int = FRAME_BYTES) -> list[Event]:
        """Append audio in pieces; return all events up to the frame of output that belongs to the last whole 100 ms."""
        for at in range(0, len(audio), size):
            await self.append(audio[at : at + size])
        frames, events = len(audio) // size, list[Event]()
        while frames:
            events.append(await self.next_event())
            frames -= events[-1]["type"] == AUDIO_DELTA
        return events


def audio_of(events: list[Event]) -> bytes:
    """The decoded output audio of events."""
    return b"".join(base64.b64decode(event["delta"]) for event in events if event["type"] == AUDIO_DELTA)


def transcript_of(events: list[Event], side: str) -> str:
    """The transcript of one side, `input` or `output`."""
    return "".join(event["delta"] for event in events if event["type"] == f"session.{side}_transcript.delta")


def others(events: list[Event]) -> list[Event]:
    """The events without audio and transcripts."""
    return [event for event in events if not event["type"].endswith(("audio.delta", "transcript.delta"))]


@asynccontextmanager
async def live(
    server: Simulator | str,
    query: str = "",
    *,
    key: str | None = KEY,
    path: str = "/v1/live/sessions",
    headers: dict[str, str] | None = None,
    protocols: tuple[str, ...] = (),
) -> AsyncIterator[LiveClient]:
    """Connect to GPT-Live of a simulator, or at the base URL of a relay; the session is not started."""
    request_headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **(headers or {})}
    base = server if isinstance(server, str) else server.url
    url = f"{base.removesuffix('/v1')}{path}?{query}"
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(url, headers=request_headers, protocols=protocols, max_msg_size=0) as ws,
    ):
        yield LiveClient(ws)
