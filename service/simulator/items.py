"""The items of a conversation, and the rules for items that a client creates.

Source: the API reference "conversation.item.create", and refusals that clients have reported: assistant audio cannot be
created (openai/openai-agents-js#963), identifiers have at most 32 characters, those of calls only letters, digits, ``_``
and ``-`` (livekit/agents#5652). ``status`` and the transcript of ``input_audio`` have no effect on the model.
"""

import base64
import binascii
import math
import re
from dataclasses import dataclass, replace

from service.realtime.usage import Tokens, user_audio_tokens
from service.simulator.audio import AudioFormat
from service.simulator.events import (
    JSON,
    ApiError,
    JSONObject,
    invalid_type,
    invalid_value,
    missing_parameter,
    require_string,
    too_long,
)
from service.simulator.ids import new_id

_CHARACTERS_PER_TOKEN = 4  # an estimate for English text
_MAX_ID_CHARACTERS = 32  # of identifiers that a client chooses
_CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")
_IMAGE_PREFIX = "data:image/"
_IMAGE_TOKENS = 85  # the minimum for an image
_CONTENT_TYPES = {
    "user": ("input_text", "input_audio", "input_image"),
    "system": ("input_text",),
    "assistant": ("output_text",),
}
_FIELDS = {  # of the items that are no messages: all are required strings
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "mcp_approval_response": ("approval_request_id",),
}
_ITEM_TYPES = ("message", *_FIELDS)


def text_tokens(text: str) -> int:
    """Estimate the tokens of a text."""
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class Item:
    """One item: the object that events contain, its tokens and its audio."""

    body: JSONObject
    tokens: Tokens
    audio: bytes | None = None  # None if the item has none, or if it is no longer kept
    audio_ms: float = 0.0
    is_truncated: bool = False
    words: str = ""  # of the user's audio, if they are known

    @property
    def item_id(self) -> str:
        """The item's identifier."""
        return str(self.body["id"])

    @property
    def kind(self) -> str:
        """The item's type."""
        return str(self.body["type"])

    @property
    def role(self) -> JSON:
        """`user`, `assistant` or `system`; None if the item is not a message."""
        return self.body.get("role")

    @property
    def text(self) -> str:
        """The text of all content parts, or the output of a function call."""
        if self.kind == "function_call_output":
            return str(self.body["output"])
        return " ".join(str(part["text"]) for part in self.parts if part.get("text"))

    @property
    def parts(self) -> list[JSONObject]:
        """The content parts; none if the item is not a message."""
        content = self.body.get("content")
        return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []

    @property
    def body_with_audio(self) -> JSONObject:
        """The object of ``conversation.item.retrieved``: with the audio, as far as it is kept."""
        if self.audio is None:
            return self.body
        audio = base64.b64encode(self.audio).decode()
        kinds = ("input_audio", "output_audio")
        content: list[JSON] = [{**part, "audio": audio} if part["type"] in kinds else part for part in self.parts]
        return {**self.body, "content": content}

    def with_transcript(self, transcript: JSON) -> "Item":
        """Return the item with this transcript in its audio part."""
        content: list[JSON] = [
            {**part, "transcript": transcript} if "transcript" in part else part for part in self.parts
        ]
        return replace(self, body={**self.body, "content": content})


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
    if not isinstance(item_type, str) or item_type not in _ITEM_TYPES:
        raise invalid_value("item.type", item_type, _ITEM_TYPES)
    item_id = _short_string(source, "id") if source.get("id") else new_id("item")
    body: JSONObject = {"id": item_id, "object": "realtime.item", "type": item_type}
    if item_type == "message":
        return _parse_message(source, body, audio_format)
    if item_type == "function_call":
        body["status"] = "completed"  # on the wire, the events for a function_call_output have no status
    for name in _FIELDS[item_type]:
        body[name] = _call_id(source) if name == "call_id" else require_string(source, name, path="item.")
    if item_type == "mcp_approval_response":
        body["approve"] = source.get("approve") is True
    return Item(body, Tokens(text=sum(text_tokens(str(body[name])) for name in _FIELDS[item_type])))


def _short_string(source: JSONObject, name: str) -> str:
    value = require_string(source, name, path="item.")
    if len(value) > _MAX_ID_CHARACTERS:
        raise too_long(f"item.{name}", value, _MAX_ID_CHARACTERS)
    return value


def _call_id(source: JSONObject) -> str:
    value = _short_string(source, "call_id")
    if not _CALL_ID.fullmatch(value):
        message = (
            "Invalid 'item.call_id': string does not match pattern. Expected a string that matches the pattern "
            f"'^{_CALL_ID.pattern}$'."
        )
        raise ApiError("invalid_value", message, param="item.call_id")
    return value


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
        part_audio = _check_part(part, role, param)
        audio += part_audio
        parts.append({"type": "input_audio", "transcript": part.get("transcript")} if part_audio else part)
        tokens += _part_tokens(part)
    milliseconds = audio_format.duration_ms(len(audio))
    tokens = replace(tokens, audio=user_audio_tokens(milliseconds))
    body = body | {"status": "completed", "role": role, "content": parts}
    return Item(body, tokens, audio or None, milliseconds)


def _check_part(part: JSONObject, role: str, param: str) -> bytes:
    """Return the part's audio, decoded. Raises ApiError."""
    kind = part.get("type")
    if role == "assistant" and kind == "output_audio":
        require_string(part, "text", path=f"{param}.")  # the provider's answer to audio: the text is missing
    if kind not in _CONTENT_TYPES[role]:
        raise invalid_value(f"{param}.type", kind, _CONTENT_TYPES[role])
    if kind == "input_audio":
        return decode_audio(require_string(part, "audio", path=f"{param}."), param)
    if kind == "input_image":
        _check_image(part, param)
    else:
        require_string(part, "text", path=f"{param}.")
    return b""


def _check_image(part: JSONObject, param: str) -> None:
    if not require_string(part, "image_url", path=f"{param}.").startswith(_IMAGE_PREFIX):
        message = f"Invalid '{param}.image_url'. Expected a base64-encoded data URL with an image MIME type."
        raise ApiError("invalid_value", message, param=f"{param}.image_url")


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
