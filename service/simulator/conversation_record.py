"""What the simulator records of the conversation on one connection, for tests to account for every word of it.

Off by default: it keeps words in memory (`SimulatorOptions.keep_conversations`).
"""

import asyncio
import copy
import hashlib
from collections import Counter
from dataclasses import asdict, dataclass, field

from service.simulator.audio import PCM16, AudioFormat
from service.simulator.conversation import Conversation
from service.simulator.events import JSON, JSONObject
from service.simulator.items import Item
from service.simulator.numbered import Ranges, merged, sample_ranges

_MAX_EVENTS = 100_000


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """Audio of the user that became an item."""

    item_id: str
    how: str  # `vad`, `manual` or `created`
    samples: Ranges
    audio_ms: float
    sha256: str


@dataclass(slots=True)
class ResponseRecord:
    """One response; `status` is `in_progress` until its ``response.done``."""

    response_id: str
    requested: str  # by the `client` or by `vad`
    metadata: JSON
    status: str = "in_progress"
    reason: JSON = None
    item_id: str | None = None
    call_id: str | None = None
    text: str = ""  # as far as it was sent
    first_sample: int | None = None  # of a numbered answer
    sent_samples: int = 0

    @property
    def samples(self) -> tuple[int, int] | None:
        """The numbers of the samples that were sent; None if the answer is not numbered."""
        return None if self.first_sample is None else (self.first_sample, self.first_sample + self.sent_samples)


@dataclass(slots=True, eq=False)
class ConversationRecord:
    """Turns, items, responses, configuration and events of one connection."""

    turns: list[TurnRecord] = field(default_factory=list)
    heard: Ranges = ()  # the numbered samples that were appended, committed or not
    sessions: list[JSONObject] = field(default_factory=list)  # as created, then after each accepted update
    responses: list[ResponseRecord] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    truncated: list[tuple[str, int]] = field(default_factory=list)  # identifier and `audio_end_ms`
    errors: list[JSONObject] = field(default_factory=list)  # the `error` objects that were sent
    events: list[tuple[str, str]] = field(default_factory=list)  # `in` or `out`, and the type
    event_count: int = 0
    audio_format: AudioFormat = PCM16  # of the user's audio
    _conversation: Conversation | None = None
    _final_items: list[JSONObject] = field(default_factory=list)
    _appended: bytes = b""  # a part of a sample
    _sent: Counter[str] = field(default_factory=Counter)
    _sent_event: asyncio.Event = field(default_factory=asyncio.Event)

    def add_event(self, direction: str, event_type: str) -> None:
        """Record an event."""
        self.event_count += 1
        if len(self.events) < _MAX_EVENTS:
            self.events.append((direction, event_type))
        if direction == "out":
            self._sent[event_type] += 1
            self._sent_event.set()
            self._sent_event = asyncio.Event()

    async def wait_sent(self, event_type: str, count: int = 1) -> None:
        """Wait until this many events of a type have been sent."""
        while self._sent[event_type] < count:
            await self._sent_event.wait()

    def add_appended(self, audio: bytes) -> None:
        """Record appended audio."""
        audio = self._appended + audio
        whole = len(audio) - len(audio) % self.audio_format.sample_bytes
        self._appended = audio[whole:]
        if heard := sample_ranges(audio[:whole], self.audio_format):
            self.heard = (*self.heard[:-1], *merged((*self.heard[-1:], *heard)))

    def add_turn(self, item: Item, how: str) -> None:
        """Record an item with the user's audio."""
        audio = item.audio or b""
        samples = sample_ranges(audio, self.audio_format)
        self.turns.append(TurnRecord(item.item_id, how, samples, item.audio_ms, hashlib.sha256(audio).hexdigest()))

    @property
    def items(self) -> list[JSONObject]:
        """The items as they are now, in order; after the end of the connection, as they were then."""
        if self._conversation is None:
            return self._final_items
        return [item.body for item in self._conversation.items]

    def watch(self, conversation: Conversation) -> None:
        """Read `items` from a conversation until `release`."""
        self._conversation = conversation

    def release(self) -> None:
        """Keep the items, and forget the conversation with its audio."""
        self._final_items, self._conversation = self.items, None

    def as_json(self) -> JSONObject:
        """Return a copy that can be encoded as JSON."""
        names = ("heard", "items", "sessions", "deleted", "truncated", "errors", "events", "event_count")
        result: JSONObject = {name: copy.deepcopy(getattr(self, name)) for name in names}
        result["turns"] = [asdict(turn) for turn in self.turns]
        result["responses"] = [{**asdict(response), "samples": _pair(response)} for response in self.responses]
        return result


def _pair(response: ResponseRecord) -> JSON:
    return None if response.samples is None else list(response.samples)
