"""Responses that upstream has begun and not ended, and how one is ended for the client when upstream is lost. Pure.

The client gets the events with which upstream itself ends a response that is cancelled: each open part and item is done
(`incomplete`), then the response (`cancelled`, `client_cancelled`), which every SDK takes quietly. A function call without
its arguments is only in the response: a client could execute what is incomplete.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from service.realtime.continuity.kept import (
    ITEM_DONE,
    MCP_CALL_TYPES,
    OUTPUT_DONE,
    RESPONSE_DONE,
    body_of,
    dumps,
    text,
)
from service.realtime.events import parse_object
from service.realtime.values import child

AUDIO_PARTS: Final = frozenset({"audio", "output_audio"})
_ITEM_PARTS: Final = {"audio": "output_audio", "text": "output_text"}
"""The parts of an item are named otherwise in the events that announce them; openai-agents refuses their names in items."""
_NO_TOKENS: Final = {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0}
_NO_USAGE: Final = {
    "total_tokens": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "input_token_details": _NO_TOKENS | {"cached_tokens": 0, "cached_tokens_details": _NO_TOKENS},
    "output_token_details": {"text_tokens": 0, "audio_tokens": 0},
}
"""Upstream has not reported what the answer cost. pipecat 1.10 stops receiving where there is no object."""

NewEventId = Callable[[], str]


def is_outside_conversation(request: bytes | None) -> bool:
    """Whether the frames of a `response.create` request an answer outside the conversation; None: upstream's own answer."""
    return child(body_of(request or b"", masked=True), "response").get("conversation") == "none"


class CutAnswer(NamedTuple):
    """An answer that a loss has ended. `request`: the frames of the client's request, None: upstream gives it by itself."""

    response_id: str
    request: bytes | None
    is_outside: bool  # of the conversation
    is_wanted: bool


@dataclass(slots=True, eq=False)
class Output:
    """An output item of a response. The payloads are those of the events that announced it."""

    item_id: str
    added: bytes
    envelope: int = 0
    parts: list[bytes] = field(default_factory=list)
    text: str = ""  # what has arrived of the transcript, or of the text
    arguments: bytes = b""  # the payload of `response.function_call_arguments.done`
    done: bytes = b""
    audio_ms: float = 0.0
    in_conversation: bool = False

    @property
    def size(self) -> int:
        """The bytes that it keeps."""
        return len(self.added) + sum(map(len, self.parts)) + len(self.text) + len(self.arguments) + len(self.done)

    def item(self) -> dict[str, Any]:
        """The item as far as it is known: as upstream ended it, or `incomplete`."""
        if self.done:
            return dict(child(parse_object(self.done), "item"))
        item = dict(child(parse_object(self.added), "item"))
        if item.get("type") == "function_call":
            call = parse_object(self.arguments)
            item |= {key: call[key] for key in ("name", "arguments") if isinstance(call.get(key), str)}
            return item | {"status": "completed" if self.arguments else "incomplete"}
        if item.get("type") != "message":
            return item | {"status": "incomplete"}
        parts = [
            part | {"type": _ITEM_PARTS.get(text(part.get("type")), part.get("type"))} for _, part in self._open_parts()
        ]
        return item | {"status": "incomplete", "content": parts}

    def _open_parts(self) -> Iterator[tuple[Mapping[str, Any], dict[str, Any]]]:
        """The event that announced each part, and the part with its text so far: that of all deltas is in the first."""
        words = self.text
        for payload in self.parts:
            event = parse_object(payload)
            part = dict(child(event, "part"))
            part["transcript" if text(part.get("type")) in AUDIO_PARTS else "text"] = words
            words = ""
            yield event, part

    @property
    def is_unfinished_call(self) -> bool:
        """Whether it is a function call of which the arguments are incomplete, or a request to approve a call.

        The client would have that answered, and no other upstream knows it.
        """
        return not self.done and not self.arguments and self.kind in {"function_call", "mcp_approval_request"}

    @property
    def is_spoken(self) -> bool:
        """Whether a part of it is audio."""
        return any(text(child(parse_object(part), "part").get("type")) in AUDIO_PARTS for part in self.parts)

    @property
    def kind(self) -> str:
        """The type of the item."""
        return text(child(parse_object(self.added), "item").get("type"))

    def ends(self, new_id: NewEventId, done: Container[str]) -> Iterator[dict[str, Any]]:
        """The events that end it; `done`: items that are done in the conversation."""
        if self.done or self.is_unfinished_call:
            return
        added = parse_object(self.added)
        ids = {name: added.get(name) for name in ("response_id", "output_index")}
        for event, part in self._open_parts():
            place = ids | {"item_id": self.item_id, "content_index": event.get("content_index")}
            if text(part.get("type")) in AUDIO_PARTS:
                yield {"type": "response.output_audio.done", "event_id": new_id()} | place
                words = {"transcript": part["transcript"]}
                yield {"type": "response.output_audio_transcript.done", "event_id": new_id()} | place | words
            else:
                words = {"text": part["text"]}
                yield {"type": "response.output_text.done", "event_id": new_id()} | place | words
            yield {"type": "response.content_part.done", "event_id": new_id()} | place | {"part": part}
        item = self.item()
        if self.in_conversation and self.item_id not in done:
            yield {"type": ITEM_DONE, "event_id": new_id(), "previous_item_id": None, "item": item}
        yield {"type": OUTPUT_DONE, "event_id": new_id()} | ids | {"item": item}


@dataclass(slots=True, eq=False)
class OpenResponse:
    """A response that has begun. `request`: the frames of the client's `response.create`, or None: upstream began it."""

    response_id: str
    created: bytes
    request: bytes | None
    outputs: dict[str, Output] = field(default_factory=dict)
    is_cancelled: bool = False

    @property
    def size(self) -> int:
        """The bytes of the events that are kept."""
        return len(self.created) + len(self.request or b"") + sum(output.size for output in self.outputs.values())

    @property
    def in_conversation(self) -> bool:
        """Whether its items belong to the conversation."""
        return child(parse_object(self.created), "response").get("conversation_id", "") is not None

    @property
    def is_complete(self) -> bool:
        """Whether nothing of it is missing but its `response.done`."""
        outputs = list(self.outputs.values())
        if not outputs or self.was_cut or not all(output.done or output.arguments for output in outputs):
            return False
        return outputs[-1].item().get("phase") != "commentary"

    @property
    def was_cut(self) -> bool:
        """Whether upstream had begun to end it early."""
        return any(output.done and output.item().get("status") == "incomplete" for output in self.outputs.values())

    @property
    def is_wanted(self) -> bool:
        """Whether the user waits for it, so that it is asked for again."""
        return not (self.is_cancelled or self.was_cut or self.is_complete or self.has_call)

    @property
    def has_call(self) -> bool:
        """Whether it holds a whole function call, whose output brings the next answer, or an MCP call, which may have run."""
        return any(
            output.kind in MCP_CALL_TYPES or (output.kind == "function_call" and (output.done or output.arguments))
            for output in self.outputs.values()
        )

    def cut(self) -> CutAnswer:
        """What is known of it once it is lost."""
        is_outside = not self.in_conversation or is_outside_conversation(self.request)
        is_wanted = self.is_wanted and not (is_outside and self.request is None)
        return CutAnswer(self.response_id, self.request, is_outside, is_wanted)

    def ends(self, new_id: NewEventId, done: Container[str]) -> Iterator[bytes]:
        """The events that end it for the client; `done`: items that are done in the conversation."""
        is_complete = self.is_complete
        for output in self.outputs.values():
            yield from map(dumps, output.ends(new_id, done))
        response = dict(child(parse_object(self.created), "response"))
        response |= {
            "status": "completed" if is_complete else "cancelled",
            "status_details": None if is_complete else {"type": "cancelled", "reason": "client_cancelled"},
            "output": [output.item() for output in self.outputs.values()],
            "usage": _NO_USAGE,
        }
        yield dumps({"type": RESPONSE_DONE, "event_id": new_id(), "response": response})
