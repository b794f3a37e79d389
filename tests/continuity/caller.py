"""A client that speaks numbered audio through a relay, and checks what every client may rely on."""

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from service.realtime.closing import parse_close
from service.realtime.events import parse_object
from service.realtime.frames import Opcode
from service.realtime.scanner_items import ControlFrame
from service.simulator.numbered import numbered_audio
from tests.support.harness import POLL_SECONDS, RawClient, Relay, eventually, open_raw, payload_of, within

PATH: Final = "/v1/realtime?model=gpt-realtime&continuity=renew"
SAMPLES_PER_MS: Final = 24
PIECE_MS: Final = 20
PCM_BYTES: Final = 2


class Caller:
    """One client. A task reads all events; `said_ms` is how much numbered speech it has sent."""

    def __init__(self, client: RawClient, *, piece_ms: int = PIECE_MS) -> None:
        self.client = client
        self._piece_ms = piece_ms
        self.events: list[Any] = []
        self._counts: Counter[str] = Counter()
        self.close: tuple[int | None, str] | None = None
        self.is_over = False
        self.said_ms = 0
        self.answers_pings = True
        self._changed = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        while (item := await self.client.next_item_or_ping()) is not None:
            if isinstance(item, bytes):
                self.events.append(parse_object(payload_of(item)))
                self._counts[self.events[-1]["type"]] += 1
            elif isinstance(item, ControlFrame) and item.opcode is Opcode.CLOSE:
                self.close = parse_close(item.payload)
                self.client.send_frame(Opcode.CLOSE, item.payload)
                break
            elif isinstance(item, ControlFrame) and item.opcode is Opcode.PING and self.answers_pings:
                self.client.send_frame(Opcode.PONG, item.payload)
            self._changed.set()
        self.is_over = True
        self._changed.set()

    def send(self, event_type: str, **fields: object) -> None:
        """Send an event."""
        self.client.send_event(type=event_type, **fields)

    def speak(self, ms: int) -> None:
        """Say the next words, in pieces."""
        for _ in range(ms // self._piece_ms):
            self.append(numbered_audio(self.said_ms * SAMPLES_PER_MS, self._piece_ms * SAMPLES_PER_MS))
            self.said_ms += self._piece_ms

    def be_silent(self, ms: int) -> None:
        """Send silence, in pieces."""
        for _ in range(ms // self._piece_ms):
            self.append(bytes(self._piece_ms * SAMPLES_PER_MS * PCM_BYTES))

    def append(self, audio: bytes) -> None:
        """Send a piece of audio."""
        self.send("input_audio_buffer.append", audio=base64.b64encode(audio).decode())

    def say(self, text: str, **item: object) -> None:
        """Send a text message of the user."""
        content = [{"type": "input_text", "text": text}]
        self.send("conversation.item.create", item={"type": "message", "role": "user", "content": content, **item})

    def count(self, event_type: str) -> int:
        """How many events of a type have arrived."""
        return self._counts[event_type]

    def of_type(self, event_type: str) -> list[Any]:
        """The events of a type."""
        return [event for event in self.events if event["type"] == event_type]

    async def until(self, condition: str | Callable[[], object], count: int = 1, seconds: float = 10.0) -> None:
        """Wait for a condition, or for the `count`-th event of a type; fails if the session ends first.

        A condition can be one of the relay, which no event follows. The bound stretches as that of `eventually`.
        """
        is_true = (lambda: self.count(condition) >= count) if isinstance(condition, str) else condition
        polls = round(seconds / POLL_SECONDS)
        while not is_true():
            assert not self.is_over, (condition, self.close, [event["type"] for event in self.events[-5:]])
            assert polls, (condition, "not within", seconds, [event["type"] for event in self.events[-5:]])
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), POLL_SECONDS)
            except TimeoutError:
                polls -= 1

    async def until_over(self, seconds: float = 20.0) -> None:
        """Wait for the end of the session."""
        await within(asyncio.shield(self._reading), seconds)

    async def stop(self) -> None:
        """Disconnect."""
        self._reading.cancel()
        await self.client.close()

    @property
    def items(self) -> list[str]:
        """The ids of the items, in the order that the events say."""
        order: list[str] = []
        for event in self.events:
            if event["type"] == "conversation.item.added":
                before = event.get("previous_item_id")
                at = order.index(before) + 1 if before in order else 0 if before == "root" else len(order)
                order.insert(at, event["item"]["id"])
            elif event["type"] == "conversation.item.deleted":
                order.remove(event["item_id"])
        return order

    def check(self) -> None:
        """Check what holds in every session: one first event, no event of the relay's own, each answer ends once."""
        types = Counter(event["type"] for event in self.events)
        assert types["session.created"] == 1, types
        assert not [name for name in types if name.startswith("relay.")]
        created = [event["response"]["id"] for event in self.of_type("response.created")]
        done = [event["response"]["id"] for event in self.of_type("response.done")]
        assert len(set(created)) == len(created)
        assert sorted(created) == sorted(done), (created, done)
        known: set[str] = set()
        finished: set[str] = set()
        for event in self.events:
            assert "item" not in event or event["item"].get("type"), event
            item = event.get("item_id") or (event.get("item") or {}).get("id")
            match event["type"]:
                case "conversation.item.added":
                    assert item not in known, f"{item} is added twice"
                    known.add(str(item))
                case "conversation.item.done":
                    assert item in known
                    assert item not in finished, f"{item} is done twice"
                    finished.add(str(item))
                case "response.output_item.added" | "input_audio_buffer.committed":
                    pass
                case name if name.startswith("input_audio_buffer."):
                    pass
                case name if item is not None:
                    assert item in known or name.startswith("response."), (name, item)


@asynccontextmanager
async def calling(relay: Relay, path: str = PATH, headers: dict[str, str] | None = None) -> AsyncIterator[Caller]:
    """Open a session; on exit it has ended."""
    ended = len(relay.events("session.ended"))
    caller = Caller(await open_raw(relay.app.public_port, path, headers))
    try:
        await caller.until("session.created")
        yield caller
    finally:
        await caller.stop()
        await eventually(lambda: len(relay.events("session.ended")) > ended, 10)
