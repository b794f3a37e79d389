"""The conversation: an ordered list of items with their token counts and audio.

Source: the API reference "conversation.item.*". Without ``previous_item_id`` an item is appended, with ``root`` it is
inserted first, with an item's identifier after that item; an unknown identifier is an error. Only the newest audio is kept:
replies repeat only that, and all audio of a 60-minute session would take too much memory.
"""

import base64
import binascii
import math
from dataclasses import dataclass, replace

from service.realtime.usage import Tokens, assistant_audio_tokens, user_audio_tokens
from service.simulator.audio import AudioFormat
from service.simulator.events import (
    JSON,
    ApiError,
    JSONObject,
    invalid_type,
    invalid_value,
    missing_parameter,
    require_integer,
    require_string,
)
from service.simulator.ids import new_id

_CHARACTERS_PER_TOKEN = 4  # an estimate for English text
_ITEM_TYPES = ("message", "function_call", "function_call_output", "mcp_approval_response")
_CONTENT_TYPES = {
    "user": ("input_text", "input_audio", "input_image"),
    "system": ("input_text",),
    "assistant": ("output_text", "output_audio"),
}
_CACHE_BLOCK = 64  # cached tokens are a multiple of this: 128 of 139 on the wire
_IMAGE_TOKENS = 85  # the minimum for an image


def text_tokens(text: str) -> int:
    """Estimate the tokens of a text."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class Item:
    """One item: the object that events contain, its tokens and its audio."""

    body: JSONObject
    tokens: Tokens
    audio: bytes | None = None  # None if the item has none, or if a newer item has audio
    audio_ms: float = 0.0

    @property
    def item_id(self) -> str:
        """The item's identifier."""
        return str(self.body["id"])

    @property
    def role(self) -> JSON:
        """`user`, `assistant` or `system`; None if the item is not a message."""
        return self.body.get("role")

    @property
    def text(self) -> str:
        """The text of all content parts, or the output of a function call."""
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
        self._last_context = Tokens()  # input and output of the last response

    @property
    def items(self) -> tuple[Item, ...]:
        """All items, oldest first."""
        return tuple(self._items)

    @property
    def input_tokens(self) -> Tokens:
        """The input tokens of the next response: all items."""
        return sum((item.tokens for item in self._items), Tokens())

    @property
    def cached_tokens(self) -> Tokens:
        """The cached part of the next response's input: the context of the last response, in whole blocks."""
        current, last = self.input_tokens, self._last_context
        text, audio = min(current.text, last.text), min(current.audio, last.audio)
        return Tokens(text - text % _CACHE_BLOCK, audio - audio % _CACHE_BLOCK)

    def record_response(self, tokens: Tokens) -> None:
        """Set the context of the last response, its input and output; it is cached for the next response."""
        self._last_context = tokens

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Insert an item and return the identifier of the item before it. Raises ApiError and then adds nothing."""
        if any(known.item_id == item.item_id for known in self._items):
            message = f"Error adding item: an item with id '{item.item_id}' already exists."
            raise ApiError("item_create_duplicate_item_id", message)
        index = self._insertion_index(after)
        if item.audio is not None:
            self._items = [replace(known, audio=None) if known.audio else known for known in self._items]
        self._items.insert(index, item)
        return self._items[index - 1].item_id if index else None

    def replace_item(self, item: Item) -> None:
        """Replace the item with the same identifier; do nothing if it has been deleted."""
        self._items = [item if known.item_id == item.item_id else known for known in self._items]

    def find(self, item_id: str, verb: str) -> Item:
        """Return an item; `verb` is the operation that the error names. Raises ApiError if there is no such item."""
        for item in self._items:
            if item.item_id == item_id:
                return item
        message = f"Error {verb.removesuffix('e')}ing item: the item with id '{item_id}' does not exist."
        raise ApiError(f"item_{verb}_invalid_item_id", message, param="item_id")

    def delete(self, item_id: str) -> None:
        """Delete an item. Raises ApiError if there is no such item."""
        self._items.remove(self.find(item_id, "delete"))

    def truncate(self, event: JSONObject) -> None:
        """Shorten the audio of an assistant's item to ``audio_end_ms``. Raises ApiError and then changes nothing."""
        item = self.find(require_string(event, "item_id"), "truncate")
        require_integer(event, "content_index")
        end_ms = require_integer(event, "audio_end_ms")
        if item.role != "assistant":
            message = "Only model output audio messages can be truncated"
            raise ApiError("invalid_value", message, param="item_id")
        if end_ms > item.audio_ms:
            message = f"Audio content of {int(item.audio_ms)}ms is already shorter than {end_ms}ms"
            raise ApiError("invalid_value", message, param="audio_end_ms")
        self.replace_item(
            replace(item, audio_ms=end_ms, tokens=replace(item.tokens, audio=assistant_audio_tokens(end_ms)))
        )

    def _insertion_index(self, after: str | None) -> int:
        if after is None:
            return len(self._items)
        if after == "root":
            return 0
        for index, item in enumerate(self._items):
            if item.item_id == after:
                return index + 1
        message = f"Error adding item: the previous item with id '{after}' does not exist."
        raise ApiError("item_create_invalid_previous_item_id", message, param="previous_item_id")


def audio_item(audio: bytes, audio_format: AudioFormat, item_id: str) -> Item:
    """Return the user's item for committed audio."""
    body: JSONObject = {
        "id": item_id,
        "object": "realtime.item",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_audio", "transcript": None}],
    }
    milliseconds = audio_format.duration_ms(len(audio))
    return Item(body, Tokens(audio=user_audio_tokens(milliseconds)), audio, milliseconds)


def parse_item(source: JSONObject, audio_format: AudioFormat) -> Item:
    """Parse the ``item`` of a client event. Raises ApiError."""
    item_type = source.get("type")
    if item_type is None:
        raise missing_parameter("item.type")
    if item_type not in _ITEM_TYPES:
        raise invalid_value("item.type", item_type, _ITEM_TYPES)
    item_id = require_string(source, "id", path="item.") if source.get("id") else new_id("item")
    body: JSONObject = {"id": item_id, "object": "realtime.item", "type": item_type}
    if item_type == "message":
        return _parse_message(source, body, audio_format)
    names = {
        "function_call": ("call_id", "name", "arguments"),
        "function_call_output": ("call_id", "output"),
        "mcp_approval_response": ("approval_request_id",),
    }[str(item_type)]
    if item_type == "function_call":
        body["status"] = "completed"  # on the wire, the events for a function_call_output have no status
    for name in names:
        body[name] = require_string(source, name, path="item.")
    if item_type == "mcp_approval_response":
        body["approve"] = source.get("approve") is True
    return Item(body, Tokens(text=sum(text_tokens(str(body[name])) for name in names)))


def _parse_message(source: JSONObject, body: JSONObject, audio_format: AudioFormat) -> Item:
    role = source.get("role")
    if not isinstance(role, str) or role not in _CONTENT_TYPES:
        raise invalid_value("item.role", role, tuple(_CONTENT_TYPES)) if role else missing_parameter("item.role")
    content = source.get("content")
    if not isinstance(content, list):
        raise invalid_type("item.content", "an array", content) if content else missing_parameter("item.content")
    audio = b""
    parts: list[JSON] = []
    tokens = Tokens()
    for index, part in enumerate(content):
        param = f"item.content[{index}]"
        if not isinstance(part, dict):
            raise invalid_type(param, "an object", part)
        if part.get("type") not in _CONTENT_TYPES[role]:
            raise invalid_value(f"{param}.type", part.get("type"), _CONTENT_TYPES[role])
        part_audio = _decode_part(part, param)
        audio += part_audio
        parts.append({"type": "input_audio", "transcript": part.get("transcript")} if part_audio else part)
        tokens += _part_tokens(part)
    milliseconds = audio_format.duration_ms(len(audio))
    tokens = replace(tokens, audio=user_audio_tokens(milliseconds))
    body = body | {"status": "completed", "role": role, "content": parts}
    return Item(body, tokens, audio or None, milliseconds)


def _decode_part(part: JSONObject, param: str) -> bytes:
    if part["type"] in ("input_text", "output_text"):
        require_string(part, "text", path=f"{param}.")
    return (
        decode_audio(require_string(part, "audio", path=f"{param}."), param) if part["type"] == "input_audio" else b""
    )


def _part_tokens(part: JSONObject) -> Tokens:
    if part["type"] == "input_image":
        return Tokens(image=_IMAGE_TOKENS)
    return Tokens(text=text_tokens(str(part.get("text") or part.get("transcript") or "")))


def decode_audio(text: str, param: str) -> bytes:
    """Decode base64; `param` is the field that the error names. Raises ApiError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        message = f"Invalid '{param}'. Expected base64-encoded audio bytes, but got an invalid value."
        raise ApiError("invalid_value", message, param=param) from None
