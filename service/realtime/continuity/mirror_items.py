"""The items of a mirrored conversation, and how each is created again on another upstream. Pure.

An item of the user or the system is created by the client's own words. Speech is created as text where its transcript is
known, and the user's as audio where it is not: upstream refuses audio of an assistant. Hidden reasoning, `phase` and the
sound of an answer do not survive.
"""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

from service.realtime.continuity.kept import MCP_CALL_TYPES, dumps, text
from service.realtime.events import parse_object

ROOT: Final = "root"
_OVERHEAD_BYTES: Final = 250  # of an item in memory, beside its text
_MAX_DROPPED: Final = 4096  # ids that are kept
_TEXT_KEYS: Final = ("text", "transcript")


class Kind(Enum):
    """How an item is created again."""

    COPY = auto()  # by its `payload`
    USER_SPEECH = auto()  # by its transcript or its audio
    ANSWER = auto()  # an assistant's message: by its text
    CALL = auto()
    UNKNOWN = auto()  # not at all


class Fate(Enum):
    """What the current upstream has of an item."""

    SAME = auto()  # it has the item itself, or a copy
    TEXT = auto()  # the text of an answer that was spoken
    ABSENT = auto()


@dataclass(slots=True, eq=False)
class Item:
    """An item that upstream has acknowledged."""

    item_id: str
    kind: Kind
    payload: bytes = b""  # of COPY and CALL: the JSON of the item, without its id, which would be kept twice
    text: str = ""  # of USER_SPEECH and ANSWER
    audio_ms: float = 0.0  # of an answer that is spoken
    cut_ms: float | None = None  # where it was truncated
    is_spoken: bool = False
    is_done: bool = False
    awaits_transcript: bool = False
    is_transcript_due: bool = True  # of the user's speech: False if upstream transcribed nothing when it was committed
    is_partly_transcribed: bool = False  # the client has been sent a part of the transcript
    is_transcribed: bool = False  # and all of it, which may be nothing, or that there is none
    is_announced: bool = True  # the client has been sent its `added`
    is_announced_done: bool = False  # and its `done`
    call_id: str = ""
    holds_image: bool = False
    fate: Fate = Fate.SAME
    revision: int = 0

    @property
    def size(self) -> int:
        """Its bytes in memory."""
        return _OVERHEAD_BYTES + len(self.payload) + len(self.text)

    def body(self) -> dict[str, Any]:
        """The item as events show it; an answer as one that was cut."""
        if self.kind is Kind.USER_SPEECH:
            content = [{"type": "input_audio", "transcript": self.text or None}]
            body: dict[str, Any] = {"id": self.item_id, "type": "message", "role": "user", "content": content}
        elif self.kind is Kind.ANSWER:
            words = self.shown_text
            part = (
                {"type": "output_audio", "transcript": words}
                if self.is_spoken
                else {"type": "output_text", "text": words}
            )
            message = {"type": "message", "role": "assistant", "content": [part] if words or self.is_spoken else []}
            return {"id": self.item_id, "object": "realtime.item", "status": "incomplete"} | message
        else:
            body = {"id": self.item_id, **parse_object(self.payload)}
        return body | {"object": "realtime.item", "status": "completed"}

    @property
    def is_settled(self) -> bool:
        """Whether what it is created by will not change, but for a truncation."""
        return self.is_done and not self.awaits_transcript

    @property
    def shown_text(self) -> str:
        """The text that the user has heard or read of it."""
        return self.text if self.cut_ms is None else cut_text(self.text, self.cut_ms, self.audio_ms)


def cut_text(text_: str, end_ms: float, duration_ms: float) -> str:
    """Cut a transcript at the word boundary before the share of its characters that was heard."""
    if duration_ms <= 0 or end_ms <= 0:
        return ""
    if end_ms >= duration_ms:
        return text_
    end = int(len(text_) * end_ms / duration_ms)
    if end < len(text_) and not text_[end].isspace():
        # Languages without spaces are cut at the character.
        space = max((position for position in range(end) if text_[position].isspace()), default=-1)
        if space >= 0:
            end = space
        elif any(character.isspace() for character in text_[end:]):
            end = 0
    return text_[:end].rstrip()


def content_text(item: Mapping[str, Any]) -> str:
    """The texts and transcripts of all content parts."""
    return "".join(text(part.get(key)) for part in content_parts(item) for key in _TEXT_KEYS)


def content_parts(item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The content parts of an item that are objects."""
    content = item.get("content")
    return (part for part in (content if isinstance(content, list) else ()) if isinstance(part, Mapping))


def has_audio(item: Mapping[str, Any]) -> bool:
    """Whether a content part is audio."""
    return any(text(part.get("type")) in {"input_audio", "output_audio", "audio"} for part in content_parts(item))


def has_image(item: Mapping[str, Any]) -> bool:
    """Whether a content part is an image."""
    return any(text(part.get("type")) == "input_image" for part in content_parts(item))


def new_item(body: Mapping[str, Any], own: Mapping[str, Any]) -> Item:
    """Return the item of `conversation.item.added`; `own` is the item of the client's create if that created it."""
    item_id, type_ = text(body.get("id")), text(body.get("type"))
    if own:
        copy = {key: value for key, value in own.items() if key not in {"id", "status", "object"}}
        kind = Kind.CALL if type_ == "function_call" else Kind.COPY
        if type_ == "mcp_approval_response":
            kind = Kind.UNKNOWN
        call_id = text(body.get("call_id"))
        item = Item(item_id, kind, dumps(copy), is_done=True, call_id=call_id, holds_image=has_image(own))
        item.is_spoken = has_audio(own)
        return item
    if type_ == "message" and body.get("role") == "assistant":
        return Item(item_id, Kind.ANSWER, text=content_text(body), is_spoken=has_audio(body))
    if type_ == "message" and body.get("role") == "user" and has_audio(body):
        return Item(item_id, Kind.USER_SPEECH, text=content_text(body), is_spoken=True, is_done=True)
    if type_ == "message":
        copy = {"type": type_, "role": body.get("role"), "content": body.get("content")}
        return Item(item_id, Kind.COPY, dumps(copy), is_done=True, holds_image=has_image(body))
    if type_ in {"function_call", "function_call_output"}:
        return call_item(item_id, body)
    if type_ in MCP_CALL_TYPES:
        return Item(item_id, Kind.UNKNOWN, mcp_text(body))
    return Item(item_id, Kind.UNKNOWN, is_done=True)


def call_item(item_id: str, body: Mapping[str, Any]) -> Item:
    """Return the item of a function call, or of its output."""
    call_id = text(body.get("call_id"))
    if body.get("type") == "function_call_output":
        copy = {"type": "function_call_output", "call_id": call_id, "output": body.get("output")}
        return Item(item_id, Kind.COPY, dumps(copy), is_done=True, call_id=call_id)
    return Item(item_id, Kind.CALL, call_payload(body), call_id=call_id)


def call_payload(body: Mapping[str, Any]) -> bytes:
    """Return the JSON that creates a function call, without its id, as of the following."""
    names = ("call_id", "name", "arguments")
    return dumps({"type": "function_call"} | {name: text(body.get(name)) for name in names})


def mcp_text(body: Mapping[str, Any]) -> bytes:
    """Return the JSON that states what a tool of an MCP server has returned; empty without a result."""
    output = text(body.get("output"))
    if not output:
        return b""
    return message("system", "input_text", f"Tool {text(body.get('name'))} returned: {output}")


def message(role: str, part_type: str, words: str) -> bytes:
    """Return the JSON of a message of one text."""
    part = {"type": part_type, "text": words}
    return dumps({"type": "message", "role": role, "content": [part]})


def speech(encoded_audio: str) -> bytes:
    """Return the JSON of a message of the user that is audio, encoded in base64."""
    part = {"type": "input_audio", "audio": encoded_audio}
    return dumps({"type": "message", "role": "user", "content": [part]})


def with_id(form: bytes, item_id: str) -> bytes:
    """Return the JSON of an item with its id."""
    return dumps({"id": item_id})[:-1] + (b"" if form == b"{}" else b",") + form[1:]


class Items:
    """The items in the order of the conversation, bounded in bytes, those with images by themselves: the oldest go."""

    def __init__(self, limit: int, image_limit: int) -> None:
        self._limit = limit
        self._image_limit = image_limit
        self._image_bytes = 0  # of `bytes`
        self._items: dict[str, Item] = {}  # in order
        self.bytes = 0
        self.dropped: dict[str, str] = {}  # the ids of items that exceeded a limit, and of the item before each
        self.dropped_messages = 0  # of users, and of the system
        self.revision = 0
        """Grows with every change."""

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    def __reversed__(self) -> Iterator[Item]:
        return reversed(self._items.values())

    def __len__(self) -> int:
        return len(self._items)

    @property
    def last_id(self) -> str:
        """The id of the last item; `root` if there is none."""
        return next(reversed(self._items), ROOT)

    def get(self, item_id: str) -> Item | None:
        """The item with an id."""
        return self._items.get(item_id)

    def insert(self, item: Item, after: str | None) -> None:
        """Insert an item after another one, first (`root`), or last: also if that other one is unknown."""
        self.remove(item.item_id)
        self.dropped.pop(item.item_id, None)
        if after in self.dropped:
            after = self.place_of(after)
        last = self.last_id
        self._items[item.item_id] = item
        if after == ROOT or (after is not None and after in self._items and after != last):
            order = [*self._items]
            for item_id in order[0 if after == ROOT else order.index(after) + 1 : -1]:
                self._items[item_id] = self._items.pop(item_id)
        self.bytes += item.size
        self._image_bytes += item.size if item.holds_image else 0
        self.changed(item)

    def place_of(self, item_id: str) -> str:
        """The last item before one that was dropped, of those that are left; `root` if there is none."""
        while item_id in self.dropped:
            item_id = self.dropped[item_id]
        return item_id if item_id in self._items else ROOT

    def forget_dropped(self, item_id: str) -> None:
        """Forget that an item exceeded a limit: it is deleted."""
        before = self.dropped.pop(item_id, None)
        if before is not None:
            self.dropped = {key: before if value == item_id else value for key, value in self.dropped.items()}

    def remove(self, item_id: str) -> Item | None:
        """Remove an item and return it."""
        item = self._items.pop(item_id, None)
        if item is not None:
            self.bytes -= item.size
            self._image_bytes -= item.size if item.holds_image else 0
            self.revision += 1
        return item

    def changed(self, item: Item, size_before: int | None = None) -> None:
        """Note that an item has changed; `size_before` if its size may have."""
        if size_before is not None:
            self.bytes += item.size - size_before
        self.revision += 1
        item.revision = self.revision

    def before(self, item_id: str, lacking: Container[str] | None = None) -> str:
        """The id of the item before another one; `root` if there is none.

        `lacking`: of those that upstream has, without these.
        """
        earlier = reversed(self._items.values())
        next(item for item in earlier if item.item_id == item_id)
        for item in earlier:
            if lacking is None or (item.fate is not Fate.ABSENT and item.item_id not in lacking):
                return item.item_id
        return ROOT

    @property
    def _are_images_over_limit(self) -> bool:
        return self._image_bytes > self._image_limit

    @property
    def _are_texts_over_limit(self) -> bool:
        return self.bytes - self._image_bytes > self._limit

    @property
    def _is_over_limit(self) -> bool:
        return self._are_images_over_limit or self._are_texts_over_limit

    def limit(self, open_calls: Container[str]) -> list[Item]:
        """Drop the oldest items beyond the limits, and return them. A call that awaits its output is kept."""
        gone: list[Item] = []
        before = ROOT
        for item in list(self)[:-1] if self._is_over_limit else ():
            is_over = self._are_images_over_limit if item.holds_image else self._are_texts_over_limit
            if is_over and (item.kind is not Kind.CALL or item.call_id not in open_calls):
                gone.append(item)
                self.dropped[item.item_id] = before
                self.remove(item.item_id)
                if not self._is_over_limit:
                    break
            else:
                before = item.item_id
        is_message = [item.kind is Kind.USER_SPEECH or (item.kind is Kind.COPY and not item.call_id) for item in gone]
        self.dropped_messages += sum(is_message)
        while len(self.dropped) > _MAX_DROPPED:
            del self.dropped[next(iter(self.dropped))]
        return gone
