"""The conversation: an ordered list of items with their token counts and audio.

Source: the API reference "conversation.item.*". Without ``previous_item_id`` an item is appended, with ``root`` it is
inserted first, with an item's identifier after that item; an unknown identifier is an error. The output of a function call
needs its call in the conversation (livekit/agents#3344), an approval its request. The newest audio of the user is always
kept, because replies repeat it; other audio only up to a bound, because that of a 60-minute session would take too much
memory.
"""

from dataclasses import replace

from service.realtime.usage import Tokens, assistant_audio_tokens
from service.simulator.audio import AudioFormat
from service.simulator.events import ApiError, JSONObject, require_integer, require_string
from service.simulator.ids import new_id
from service.simulator.items import Item

_CACHE_BLOCK = 64  # cached tokens are a multiple of this: 128 of 139 on the wire
_ROOT = "root"


class Conversation:
    """The items of one session."""

    def __init__(self, kept_audio_bytes: int = 0) -> None:
        self.conversation_id = new_id("conv")
        self._items: dict[str, Item] = {}
        self._order: list[str] = []
        self._with_audio: list[str] = []  # oldest first
        self._kept_audio_bytes = kept_audio_bytes
        self._last_context = Tokens()  # input and output of the last response

    @property
    def items(self) -> tuple[Item, ...]:
        """All items, oldest first."""
        return tuple(self._items[item_id] for item_id in self._order)

    @property
    def input_tokens(self) -> Tokens:
        """The input tokens of the next response: all items."""
        return sum((item.tokens for item in self._items.values()), Tokens())

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
        if item.item_id in self._items:
            message = f"Error adding item: an item with id '{item.item_id}' already exists."
            raise ApiError("item_create_duplicate_item_id", message)
        index = self._insertion_index(after)
        self._check_call(item)
        self._order.insert(index, item.item_id)
        self._set(item)
        return self._order[index - 1] if index else None

    def replace_item(self, item: Item) -> None:
        """Replace the item with the same identifier; do nothing if it has been deleted."""
        if item.item_id in self._items:
            self._set(item)

    def finish(self, item: Item, audio_format: AudioFormat) -> Item:
        """Replace the item of a response at its end; what the client truncated before stays truncated. Return the item."""
        current = self._items.get(item.item_id)
        if current is not None and current.is_truncated:
            item = _cut(item, current.audio_ms, audio_format)
        self.replace_item(item)
        return item

    def set_transcript(self, item_id: str, transcript: str) -> None:
        """Set the transcript of an item's audio; do nothing if the item has been deleted."""
        if item_id in self._items:
            self._items[item_id] = self._items[item_id].with_transcript(transcript)

    def find(self, item_id: str, verb: str) -> Item:
        """Return an item; `verb` is the operation that the error names. Raises ApiError if there is no such item."""
        if item_id in self._items:
            return self._items[item_id]
        message = f"Error {verb.removesuffix('e')}ing item: the item with id '{item_id}' does not exist."
        raise ApiError(f"item_{verb}_invalid_item_id", message, param="item_id")

    def delete(self, item_id: str) -> None:
        """Delete an item. Raises ApiError if there is no such item."""
        self.find(item_id, "delete")
        del self._items[item_id]
        self._order.remove(item_id)
        self._with_audio = [known for known in self._with_audio if known != item_id]

    def truncate(self, event: JSONObject, audio_format: AudioFormat) -> None:
        """Cut the audio of an assistant's item at ``audio_end_ms``, and delete its transcript.

        Raises ApiError and then changes nothing. The provider has no text for the part that was heard: it deletes all of it.
        """
        item = self.find(require_string(event, "item_id"), "truncate")
        index = require_integer(event, "content_index")
        end_ms = require_integer(event, "audio_end_ms")
        kinds = [part["type"] for part in item.parts]
        if item.role != "assistant" or not item.audio_ms or kinds[index : index + 1] != ["output_audio"]:
            # Also the answer before the first audio of a response: livekit/agents#6157.
            raise ApiError("unsupported_content_type", "Only model output audio messages can be truncated")
        if end_ms > item.audio_ms:
            message = f"Audio content of {int(item.audio_ms)}ms is already shorter than {end_ms}ms"
            raise ApiError("invalid_value", message, param="audio_end_ms")
        self.replace_item(_cut(item, end_ms, audio_format))

    def _check_call(self, item: Item) -> None:
        if item.kind == "mcp_approval_response":
            request_id = item.body["approval_request_id"]
            if self._items.get(str(request_id), item).kind != "mcp_approval_request":
                message = f"Approval request ID '{request_id}' not found in conversation."
                raise ApiError("invalid_value", message, param="item.approval_request_id")
        if item.kind != "function_call_output":
            return
        call_id = item.body["call_id"]
        if not any(
            known.kind == "function_call" and known.body["call_id"] == call_id for known in self._items.values()
        ):
            raise ApiError("invalid_tool_call_id", f"Tool call ID '{call_id}' not found in conversation.")

    def _insertion_index(self, after: str | None) -> int:
        if after is None:
            return len(self._order)
        if after == _ROOT:
            return 0
        if after in self._items:
            return self._order.index(after) + 1
        message = f"Error adding item: the previous item with id '{after}' does not exist."
        raise ApiError("item_create_invalid_previous_item_id", message, param="previous_item_id")

    def _set(self, item: Item) -> None:
        self._items[item.item_id] = item
        if item.audio is not None:
            if item.item_id not in self._with_audio:
                self._with_audio.append(item.item_id)
            self._drop_oldest_audio()

    def _drop_oldest_audio(self) -> None:
        heard = next((known for known in reversed(self._with_audio) if self._items[known].role == "user"), None)
        excess = -self._kept_audio_bytes
        for item_id in reversed([known for known in self._with_audio if known != heard]):
            excess += len(self._items[item_id].audio or b"")
            if excess > 0:
                self._items[item_id] = replace(self._items[item_id], audio=None)
                self._with_audio.remove(item_id)


def _cut(item: Item, end_ms: float, audio_format: AudioFormat) -> Item:
    audio = None if item.audio is None else item.audio[: audio_format.bytes_for(end_ms)]
    tokens = Tokens(audio=assistant_audio_tokens(end_ms))
    return replace(item.with_transcript(None), audio=audio, audio_ms=end_ms, tokens=tokens, is_truncated=True)
