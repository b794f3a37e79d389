"""Callers: each connects, says what it has to say, and leaves."""

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from tests.support.harness import RawClient, open_raw

Talk = Callable[[RawClient], Awaitable[None]]
_CALL_SECONDS: Final = 10.0
# 200 ms of silence as the provider takes it: PCM of 16 bits at 24 kHz.
_SPEECH: Final = base64.b64encode(bytes(9600)).decode()
_MANUAL: Final = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}


def path(simulate: str | None = None, model: str = "gpt-realtime") -> str:
    """The URL's path; `simulate` asks the provider to fail this one call."""
    return f"/v1/realtime?model={model}" + (f"&simulate={simulate}" if simulate else "")


async def _until(client: RawClient, kind: str) -> None:
    while (event := await client.next_event()) is not None:
        if event["type"] == kind:
            return


async def nothing(_client: RawClient) -> None:
    """Hang up at once."""


async def listen(client: RawClient) -> None:
    """Say three things and wait until somebody hangs up."""
    for _ in range(3):
        client.send_event(type="session.update", session=_MANUAL)
    await client.until_close()


async def ask(client: RawClient) -> None:
    """Ask for a response, and hear it to its end, whatever that is."""
    await _until(client, "session.created")
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello?"}]}
    client.send_event(type="conversation.item.create", item=item)
    client.send_event(type="response.create")
    await _until(client, "response.done")
    await _until(client, "rate_limits.updated")


async def converse(client: RawClient) -> None:
    """A turn of speech, an answer; another one that is cut off; a mistake."""
    await _until(client, "session.created")
    client.send_event(type="session.update", session=_MANUAL)
    client.send_event(type="input_audio_buffer.append", audio=_SPEECH)
    client.send_event(type="input_audio_buffer.commit")
    client.send_event(type="response.create")
    await _until(client, "response.done")
    client.send_event(type="response.create")
    client.send_event(type="response.cancel")
    await _until(client, "response.done")
    client.send_event(type="response.cancel")
    await _until(client, "error")


async def call(port: int, where: str, talk: Talk = nothing) -> int:
    """One call: the status of its answer."""
    async with asyncio.timeout(_CALL_SECONDS):
        client = await open_raw(port, where)
        try:
            if client.answer.status == 101:
                await talk(client)
        finally:
            await client.close()
    return client.answer.status


@asynccontextmanager
async def calling(port: int, where: str, talk: Talk = nothing, *, each_second: float = 4) -> AsyncIterator[None]:
    """Callers who come one after another; whether they get through is not their concern."""
    calls: set[asyncio.Task[int]] = set()

    async def come() -> None:
        while True:
            task = asyncio.ensure_future(_calmly(port, where, talk))
            calls.add(task)
            task.add_done_callback(calls.discard)
            await asyncio.sleep(1 / each_second)

    coming = asyncio.ensure_future(come())
    try:
        yield
    finally:
        left = (coming, *calls)
        for task in left:
            task.cancel()
        await asyncio.wait(left)


async def _calmly(port: int, where: str, talk: Talk) -> int:
    with suppress(OSError, EOFError, TimeoutError):
        return await call(port, where, talk)
    return 0


@asynccontextmanager
async def holding(port: int, many: int) -> AsyncIterator[None]:
    """So many open sessions."""
    clients = [await open_raw(port, path()) for _ in range(many)]
    try:
        yield
    finally:
        for client in clients:
            await client.close()


@asynccontextmanager
async def loitering(port: int, many: int) -> AsyncIterator[None]:
    """So many connections that say nothing; those that are cut off come again."""
    others: list[asyncio.StreamWriter] = []

    async def come() -> None:
        while True:
            others[:] = [writer for writer in others if not writer.transport.is_closing()]
            for _ in range(many - len(others)):
                with suppress(OSError):
                    others.append((await asyncio.open_connection("127.0.0.1", port))[1])
            await asyncio.sleep(0.5)

    coming = asyncio.ensure_future(come())
    try:
        yield
    finally:
        coming.cancel()
        await asyncio.wait([coming])
        for writer in others:
            writer.transport.abort()
