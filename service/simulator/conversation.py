"""The conversation: items in their order, and what is known of each.

Source: the API reference "conversation.item.*". The rules: without ``previous_item_id`` an item goes last, with
``root`` first, with an identifier after that item, with an unknown one nowhere. Only the newest audio of the user is
kept: it is all that a parrot needs, and an hour of a microphone would not fit.
"""

import base64
import binascii
import math
from dataclasses import dataclass, replace

from service.realtime.usage import Tokens, assistant_audio_tokens, user_audio_tokens
from service.simulator.audio import AudioFormat
from service.simulator.events import (
    JSON,
    JSONObject,
    Mistake,
    invalid_type,
    invalid_value,
    missing_parameter,
    need_count,
    need_text,
)
from service.simulator.ids import new_id

_CHARACTERS_PER_TOKEN = 4  # English text, roughly
_KINDS = ("message", "function_call", "function_call_output", "mcp_approval_response")
_CONTENT_OF = {
    "user": ("input_text", "input_audio", "input_image"),
    "system": ("input_text",),
    "assistant": ("output_text", "output_audio"),
}
_CACHE_BLOCK = 64  # cached tokens come in blocks; 128 of 139 were seen on the wire
_IMAGE_TOKENS = 85  # the least that an image costs


def text_tokens(text: str) -> int:
    """Estimate the tokens of a text."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class Item:
    """One item, as events carry it, and what it holds that events do not."""

    body: JSONObject
    tokens: Tokens
    audio: bytes | None = None  # None when it never had any, or when newer audio took its place
    audio_ms: float = 0.0

    @property
    def item_id(self) -> str:
        """Its name."""
        return str(self.body["id"])

    @property
    def role(self) -> JSON:
        """Who it is from; None for what is no message."""
        return self.body.get("role")

    @property
    def text(self) -> str:
        """All that is written in it."""
        if self.body["type"] == "function_call_output":
            return str(self.body["output"])
        content = self.body.get("content")
        parts = content if isinstance(content, list) else []
        return " ".join(str(part["text"]) for part in parts if isinstance(part, dict) and part.get("text"))


class Conversation:
    """The items of one session."""

    def __init__(self) -> None:
        self.conversation_id = new_id("conv")
        self._items: list[Item] = []
        self._answered = Tokens()  # what the last response had read and said

    @property
    def items(self) -> tuple[Item, ...]:
        """All items, oldest first."""
        return tuple(self._items)

    @property
    def last_id(self) -> str | None:
        """The name of the last item."""
        return self._items[-1].item_id if self._items else None

    @property
    def tokens(self) -> Tokens:
        """What the whole conversation counts as the input of the next response."""
        return sum((item.tokens for item in self._items), Tokens())

    @property
    def cached(self) -> Tokens:
        """What of the next input is served from the cache: all that the last response knew, in whole blocks."""
        now = self.tokens
        text, audio = (min(now.text, self._answered.text), min(now.audio, self._answered.audio))
        return Tokens(text - text % _CACHE_BLOCK, audio - audio % _CACHE_BLOCK)

    def note_answered(self, tokens: Tokens) -> None:
        """Remember what a response read and said: the next one finds it in the cache."""
        self._answered = tokens

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Put an item in its place; returns the name of the one before it. Raises a Mistake, and then adds nothing."""
        if any(known.item_id == item.item_id for known in self._items):
            message = f"Error adding item: an item with id '{item.item_id}' already exists."
            raise Mistake("item_create_duplicate_item_id", message)
        place = self._place(after)
        if item.audio is not None:
            self._items = [replace(known, audio=None) if known.audio else known for known in self._items]
        self._items.insert(place, item)
        return self._items[place - 1].item_id if place else None

    def put(self, item: Item) -> None:
        """Replace the item of the same name; one that was deleted meanwhile stays deleted."""
        self._items = [item if known.item_id == item.item_id else known for known in self._items]

    def find(self, item_id: str, verb: str) -> Item:
        """Look an item up. Raises a Mistake that says what could not be done with it."""
        for item in self._items:
            if item.item_id == item_id:
                return item
        message = f"Error {verb.removesuffix('e')}ing item: the item with id '{item_id}' does not exist."
        raise Mistake(f"item_{verb}_invalid_item_id", message, param="item_id")

    def delete(self, item_id: str) -> None:
        """Take an item out."""
        self._items.remove(self.find(item_id, "delete"))

    def truncate(self, event: JSONObject) -> None:
        """Cut what was not heard of an assistant's audio. Raises a Mistake, and then nothing has changed."""
        item = self.find(need_text(event, "item_id"), "truncate")
        need_count(event, "content_index")
        end_ms = need_count(event, "audio_end_ms")
        if item.role != "assistant":
            message = "Only model output audio messages can be truncated"
            raise Mistake("invalid_value", message, param="item_id")
        if end_ms > item.audio_ms:
            message = f"Audio content of {int(item.audio_ms)}ms is already shorter than {end_ms}ms"
            raise Mistake("invalid_value", message, param="audio_end_ms")
        self.put(replace(item, audio_ms=end_ms, tokens=replace(item.tokens, audio=assistant_audio_tokens(end_ms))))

    def _place(self, after: str | None) -> int:
        if after is None:
            return len(self._items)
        if after == "root":
            return 0
        for index, item in enumerate(self._items):
            if item.item_id == after:
                return index + 1
        message = f"Error adding item: the previous item with id '{after}' does not exist."
        raise Mistake("item_create_invalid_previous_item_id", message, param="previous_item_id")


def spoken_item(audio: bytes, audio_format: AudioFormat, item_id: str) -> Item:
    """Build the user's item of a commit."""
    body: JSONObject = {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
    milliseconds = audio_format.milliseconds_of(len(audio))
    return Item(body, Tokens(audio=user_audio_tokens(milliseconds)), audio, milliseconds)


def parse_item(given: JSONObject, audio_format: AudioFormat) -> Item:
    """Read an item that a client wrote. Raises a Mistake."""
    kind = given.get("type")
    if kind is None:
        raise missing_parameter("item.type")
    if kind not in _KINDS:
        raise invalid_value("item.type", kind, _KINDS)
    item_id = need_text(given, "id", path="item.") if given.get("id") else new_id("item")
    body: JSONObject = {"id": item_id, "object": "realtime.item", "type": kind}
    if kind == "message":
        return _parse_message(given, body, audio_format)
    names = {
        "function_call": ("call_id", "name", "arguments"),
        "function_call_output": ("call_id", "output"),
        "mcp_approval_response": ("approval_request_id",),
    }[str(kind)]
    if kind == "function_call":
        body["status"] = "completed"  # the answer to an output carries no status on the wire
    for name in names:
        body[name] = need_text(given, name, path="item.")
    if kind == "mcp_approval_response":
        body["approve"] = given.get("approve") is True
    return Item(body, Tokens(text=sum(text_tokens(str(body[name])) for name in names)))


def _parse_message(given: JSONObject, body: JSONObject, audio_format: AudioFormat) -> Item:
    role = given.get("role")
    if not isinstance(role, str) or role not in _CONTENT_OF:
        raise invalid_value("item.role", role, tuple(_CONTENT_OF)) if role else missing_parameter("item.role")
    content = given.get("content")
    if not isinstance(content, list):
        raise invalid_type("item.content", "an array", content) if content else missing_parameter("item.content")
    audio = b""
    shown: list[JSON] = []
    tokens = Tokens()
    for index, part in enumerate(content):
        param = f"item.content[{index}]"
        if not isinstance(part, dict):
            raise invalid_type(param, "an object", part)
        if part.get("type") not in _CONTENT_OF[role]:
            raise invalid_value(f"{param}.type", part.get("type"), _CONTENT_OF[role])
        said = _said(part, param)
        audio += said
        shown.append({"type": "input_audio", "transcript": part.get("transcript")} if said else part)
        tokens += _tokens_of(part)
    milliseconds = audio_format.milliseconds_of(len(audio))
    tokens = replace(tokens, audio=user_audio_tokens(milliseconds))
    whole = body | {"status": "completed", "role": role, "content": shown}
    return Item(whole, tokens, audio or None, milliseconds)


def _said(part: JSONObject, param: str) -> bytes:
    if part["type"] in ("input_text", "output_text"):
        need_text(part, "text", path=f"{param}.")
    return decode_audio(need_text(part, "audio", path=f"{param}."), param) if part["type"] == "input_audio" else b""


def _tokens_of(part: JSONObject) -> Tokens:
    if part["type"] == "input_image":
        return Tokens(image=_IMAGE_TOKENS)
    return Tokens(text=text_tokens(str(part.get("text") or part.get("transcript") or "")))


def decode_audio(text: str, param: str) -> bytes:
    """Decode base64. Raises a Mistake."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        message = f"Invalid '{param}'. Expected base64-encoded audio bytes, but got an invalid value."
        raise Mistake("invalid_value", message, param=param) from None
