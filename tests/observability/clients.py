"""Clients of the relays under test: each connects, holds a conversation and disconnects."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from service.simulator.audio import PCM16, tone
from tests.support.harness import RawClient, open_raw

Conversation = Callable[[RawClient], Awaitable[None]]
_SESSION_SECONDS: Final = 60.0
# 200 ms of silence: 16-bit PCM at 24 kHz.
_SPEECH: Final = base64.b64encode(bytes(9600)).decode()
LIVE_PATH: Final = "/v1/live/sessions"
_LIVE_SESSION: Final = {
    "model": "gpt-live-1",
    "delegation": {"type": "responses", "responses": {"model": "gpt-5-mini"}},
}
_LIVE_SPEECH: Final = base64.b64encode((tone(PCM16) * 1000)[: PCM16.bytes_for(600)]).decode()
_LIVE_SILENCE: Final = base64.b64encode(PCM16.silence(PCM16.bytes_for(2_400))).decode()
_MANUAL_TURNS: Final = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}


def path(simulate: str | None = None, model: str = "gpt-realtime") -> str:
    """The path of the URL; `simulate` selects a scenario of the simulator for this connection only."""
    return f"/v1/realtime?model={model}" + (f"&simulate={simulate}" if simulate else "")


async def _read_until(client: RawClient, event_type: str) -> None:
    while (event := await client.next_event()) is not None:
        if event["type"] == event_type:
            return


async def disconnect(_client: RawClient) -> None:
    """Close the connection immediately."""


async def wait_until_closed(client: RawClient) -> None:
    """Send three events and wait until the other side closes the connection."""
    for _ in range(3):
        client.send_event(type="session.update", session=_MANUAL_TURNS)
    await client.until_close()


async def request_response(client: RawClient, *, is_new: bool = True) -> None:
    """Request a response and read until it ends, completed or failed; `is_new`: in a session that has just been opened."""
    if is_new:
        await _read_until(client, "session.created")
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello?"}]}
    client.send_event(type="conversation.item.create", item=item)
    client.send_event(type="response.create")
    await _read_until(client, "response.done")
    await _read_until(client, "rate_limits.updated")


async def converse(client: RawClient) -> None:
    """A turn of speech with a response, a second response that is cancelled, and a request that the provider rejects."""
    await _read_until(client, "session.created")
    client.send_event(type="session.update", session=_MANUAL_TURNS)
    client.send_event(type="input_audio_buffer.append", audio=_SPEECH)
    client.send_event(type="input_audio_buffer.commit")
    client.send_event(type="response.create")
    await _read_until(client, "response.done")
    client.send_event(type="response.create")
    client.send_event(type="response.cancel")
    await _read_until(client, "response.done")
    client.send_event(type="response.cancel")
    await _read_until(client, "error")


async def until_dropped(client: RawClient) -> None:
    """Hold a conversation of three turns, then wait until the other side closes the connection."""
    for number in range(3):
        await request_response(client, is_new=not number)
    await client.until_close()


async def say_and_commit(client: RawClient) -> None:
    """Say two seconds without transcription, as one turn."""
    await _read_until(client, "session.created")
    client.send_event(type="session.update", session=_MANUAL_TURNS)
    for _ in range(10):
        client.send_event(type="input_audio_buffer.append", audio=_SPEECH)
    client.send_event(type="input_audio_buffer.commit")
    await _read_until(client, "conversation.item.done")


async def start_refused_live(client: RawClient) -> None:
    """Start a session of GPT-Live with a field that the provider refuses. The breaker does not count this reason."""
    client.send_event(type="session.start", session={**_LIVE_SESSION, "voice": "marin"})
    await client.until_close()


async def start_and_close_live(client: RawClient) -> None:
    """Start a session of GPT-Live and close it."""
    client.send_event(type="session.start", session=_LIVE_SESSION)
    await _read_until(client, "session.started")
    client.send_event(type="session.close")
    await client.until_close()


async def converse_live(client: RawClient) -> None:
    """Start a session of GPT-Live, say something, hear the answer of a backend model, and close it."""
    client.send_event(type="session.start", session=_LIVE_SESSION)
    await _read_until(client, "session.started")
    for audio in (_LIVE_SPEECH, _LIVE_SILENCE):
        client.send_event(type="session.input_audio.append", audio=audio)
    while (event := await client.next_event()) is not None:
        if event["type"] == "response.event" and event["event"]["type"] == "response.completed":
            break
    client.send_event(type="session.input_audio.append", audio=_LIVE_SILENCE)
    await _read_until(client, "session.output_transcript.delta")
    client.send_event(type="session.close")
    await client.until_close()


async def connect_once(port: int, url_path: str, conversation: Conversation = disconnect) -> int:
    """Run one session and return the HTTP status of its upgrade."""
    async with asyncio.timeout(_SESSION_SECONDS):
        client = await open_raw(port, url_path)
        try:
            if client.answer.status == 101:
                await conversation(client)
        finally:
            await client.close()
    return client.answer.status


@asynccontextmanager
async def client_load(
    port: int, url_path: str, conversation: Conversation = disconnect, *, per_second: float = 4
) -> AsyncIterator[None]:
    """Start clients at a constant rate and ignore their failures; at exit cancel those that still run."""
    sessions: set[asyncio.Task[int]] = set()

    async def start_clients() -> None:
        while True:
            task = asyncio.ensure_future(_connect_ignoring_errors(port, url_path, conversation))
            sessions.add(task)
            task.add_done_callback(sessions.discard)
            await asyncio.sleep(1 / per_second)

    starting = asyncio.ensure_future(start_clients())
    try:
        yield
    finally:
        remaining = (starting, *sessions)
        for task in remaining:
            task.cancel()
        await asyncio.wait(remaining)


async def _connect_ignoring_errors(port: int, url_path: str, conversation: Conversation) -> int:
    with suppress(OSError, EOFError, TimeoutError):
        return await connect_once(port, url_path, conversation)
    return 0


@asynccontextmanager
async def open_sessions(port: int, count: int) -> AsyncIterator[None]:
    """Hold `count` sessions open."""
    clients = [await open_raw(port, path()) for _ in range(count)]
    try:
        yield
    finally:
        for client in clients:
            await client.close()


@asynccontextmanager
async def idle_connections(port: int, count: int) -> AsyncIterator[None]:
    """Hold `count` TCP connections open that send nothing, and replace those that the relay closes.

    From four addresses: one has a share of the relay's connections only.
    """
    writers: list[asyncio.StreamWriter] = []

    async def replace_closed() -> None:
        while True:
            writers[:] = [writer for writer in writers if not writer.transport.is_closing()]
            for number in range(count - len(writers)):
                source = (f"127.0.0.{2 + number % 4}", 0)
                with suppress(OSError):
                    writers.append((await asyncio.open_connection("127.0.0.1", port, local_addr=source))[1])
            await asyncio.sleep(0.5)

    replacing = asyncio.ensure_future(replace_closed())
    try:
        yield
    finally:
        replacing.cancel()
        await asyncio.wait([replacing])
        for writer in writers:
            writer.transport.abort()
