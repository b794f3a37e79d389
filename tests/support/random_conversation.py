"""Random conversations in numbered samples, for tests that lose a connection at each event of one.

A script is a list of steps; `play` runs it on a client and waits for what each step causes. The client speaks numbered
samples, so that every one of them can be found in a turn of some upstream.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import aiohttp

from service.simulator.audio import PCM16
from service.simulator.numbered import Ranges, merged, numbered_audio
from tests.support.simulator_client import Event, RealtimeClient

STEPS = ("say", "write", "ask", "call", "cancel", "truncate", "delete", "configure", "retrieve")
_CHUNK_MS = 100
_SILENCE_MS = 700  # ends a turn with the default silence_duration_ms of every model
_TENTH_MS = 100
_SAMPLES_PER_MS = 24
_TOOL = {"type": "function", "name": "look_up", "parameters": {"type": "object"}}
_CREATE = "conversation.item.create"


class ConnectionLost(Exception):
    """The connection ended while the script was running."""


@dataclass(slots=True)
class Heard:
    """What a client said and what it heard."""

    spoken: Ranges = ()
    events: list[Event] = field(default_factory=list)
    steps: int = 0  # that are complete
    items: list[str] = field(default_factory=list)  # identifiers that the client may use
    answers: list[str] = field(default_factory=list)  # items with audio of the assistant


def random_script(random: Random, length: int) -> list[str]:
    """Return steps; a turn of speech is the most frequent."""
    return [random.choice(("say", "say", *STEPS)) for _ in range(length)]


async def play(client: RealtimeClient, script: list[str], heard: Heard, seed: int = 0) -> None:
    """Run a script on a connection whose `session.created` has been read. Raises ConnectionLost."""
    random = Random(seed)
    for number, name in enumerate(script):
        await _Player(client, heard, random, number).run(name)
        heard.steps += 1


class _Player:
    def __init__(self, client: RealtimeClient, heard: Heard, random: Random, number: int) -> None:
        self._client = client
        self._heard = heard
        self._random = random
        self._number = number

    async def run(self, name: str) -> None:
        steps = {
            "say": self._say,
            "write": self._write,
            "ask": self._ask,
            "call": self._call,
            "cancel": self._cancel,
            "truncate": self._truncate,
            "delete": self._delete,
            "configure": self._configure,
            "retrieve": self._retrieve,
        }
        await steps[name]()

    async def _say(self) -> None:
        milliseconds = self._random.randrange(2, 8) * _TENTH_MS
        first = self._heard.spoken[-1][1] if self._heard.spoken else 0
        count = milliseconds * _SAMPLES_PER_MS
        self._heard.spoken = merged((*self._heard.spoken, (first, first + count)))
        audio = numbered_audio(first, count) + PCM16.silence(PCM16.bytes_for(_SILENCE_MS))
        size = PCM16.bytes_for(_CHUNK_MS)
        for at in range(0, len(audio), size):
            await self._send("input_audio_buffer.append", audio=base64.b64encode(audio[at : at + size]).decode())
        await self._until("input_audio_buffer.committed")
        await self._until("response.done")

    async def _write(self) -> None:
        content = [{"type": "input_text", "text": f"line {self._number}"}]
        await self._send(_CREATE, item={"type": "message", "role": "user", "content": content})
        await self._until("conversation.item.done")

    async def _ask(self) -> None:
        await self._send("response.create")
        await self._until("response.done")

    async def _call(self) -> None:
        await self._send("response.create", response={"tools": [_TOOL], "tool_choice": "required"})
        done = await self._until("response.done")
        for item in done["response"]["output"]:
            output = {"type": "function_call_output", "call_id": item["call_id"], "output": "found"}
            await self._send(_CREATE, item=output)
            await self._until("conversation.item.done", lambda event: event["item"]["type"] == "function_call_output")

    async def _cancel(self) -> None:
        await self._send("response.create")
        await self._until("response.created")
        await self._send("response.cancel")
        await self._until("response.done")
        await self._send("input_audio_buffer.clear")  # its answer is after that of the cancel, which may come too late
        await self._until("input_audio_buffer.cleared")

    async def _truncate(self) -> None:
        if self._heard.answers:
            fields = {"item_id": self._heard.answers.pop(), "content_index": 0, "audio_end_ms": 100}
            await self._send("conversation.item.truncate", **fields)
            await self._until("conversation.item.truncated")

    async def _delete(self) -> None:
        if self._heard.items:
            item_id = self._heard.items.pop(self._random.randrange(len(self._heard.items)))
            self._heard.answers = [known for known in self._heard.answers if known != item_id]
            await self._send("conversation.item.delete", item_id=item_id)
            await self._until("conversation.item.deleted")

    async def _configure(self) -> None:
        await self._send("session.update", session={"type": "realtime", "instructions": f"Be {self._number}."})
        await self._until("session.updated")

    async def _retrieve(self) -> None:
        if self._heard.items:
            await self._send("conversation.item.retrieve", item_id=self._random.choice(self._heard.items))
            await self._until("conversation.item.retrieved")

    async def _send(self, event_type: str, **fields: object) -> None:
        try:
            await self._client.send(event_type, **fields)
        except ConnectionError as error:
            raise ConnectionLost from error

    async def _until(self, event_type: str, wanted: Callable[[Event], bool] = lambda _: True) -> Event:
        while True:
            message = await self._client.ws.receive(10)
            if message.type is not aiohttp.WSMsgType.TEXT:
                raise ConnectionLost(str(message))
            event: Event = message.json()
            self._heard.events.append(event)
            if event["type"] == "conversation.item.done":
                self._heard.items.append(event["item"]["id"])
            if event["type"] == "response.output_audio.done" and self._was_heard(event["item_id"]):
                self._heard.answers.append(event["item_id"])
            if event["type"] == event_type and wanted(event):
                return event

    def _was_heard(self, item_id: str) -> bool:
        deltas = (event for event in self._heard.events if event["type"] == "response.output_audio.delta")
        return any(event["item_id"] == item_id for event in deltas)
