"""A small model of the Realtime API for tests of continuity: events in, events out, no clock and no sockets.

It is written from the rules of the API and shares no code with what it checks. Speech is that of `numbered_speech.py`; a
transcript lists the numbers, so that speech can be accounted for as audio and as text.
"""

import base64
import marshal
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.numbered_speech import FRAME_BYTES, numbers_of
from tests.support.reference_input import InputBuffer, decoded

DELTA_MS: Final = 40
MAX_ID: Final = 32
_READ_ONLY: Final = frozenset({"id", "object", "expires_at", "model"})

_HANDLERS: Final = {
    "session.update": "_update",
    "input_audio_buffer.append": "_append",
    "input_audio_buffer.commit": "_commit",
    "input_audio_buffer.clear": "_clear",
    "conversation.item.create": "_create",
    "conversation.item.delete": "_delete",
    "conversation.item.truncate": "_truncate",
    "conversation.item.retrieve": "_retrieve",
    "response.create": "_create_response",
    "response.cancel": "_cancel",
}
_USER_PARTS: Final = {"input_text", "input_audio", "input_image"}
_PARTS: Final = {"user": _USER_PARTS, "system": {"input_text"}, "assistant": {"output_text"}}

Event = dict[str, Any]
_DELTA: Final = base64.b64encode(bytes(DELTA_MS * 48)).decode()


def _copy(fields: Event) -> Event:
    """A deep copy of JSON, in a tenth of the time of `copy.deepcopy`."""
    copied: Event = marshal.loads(marshal.dumps(fields))  # noqa: S302 - of what was just written
    return copied


@dataclass
class Response:
    """An active response."""

    events: Iterator[Event]
    base: Event
    items: list[Event] = field(default_factory=list)
    status: str = "completed"  # in the end

    @property
    def response_id(self) -> str:
        """Its id."""
        return str(self.base["id"])


class Refused(Exception):
    """An `error`: its code and parameter."""


class ReferenceApi:
    """One session.

    `plan` says what each answer is: the number of its words, 0 for a function call, a negative number for both.
    """

    def __init__(self, number: int, plan: list[int], *, lag_frames: int = 0, has_transcripts: bool = True) -> None:
        self._number = number
        self._ids = 0
        self._plan = plan
        self.items: list[Event] = []
        self.heard: dict[str, list[int]] = {}  # numbers of the user's items
        self.answer_ms: dict[str, int] = {}
        self.out: deque[Event] = deque()
        self.errors: list[Event] = []
        self.active: Response | None = None
        self._unheard: list[tuple[str, str]] = []  # transcripts that are due
        self._input = InputBuffer(lambda: self._id("item"), lag_frames)
        self.session: Event = {
            "type": "realtime",
            "object": "realtime.session",
            "id": self._id("sess"),
            "model": "gpt-realtime-2.1",
            "output_modalities": ["audio"],
            "instructions": "default",
            "tools": [],
            "expires_at": 2_000_000_000 + number,
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "transcription": None,
                    "turn_detection": {"type": "server_vad", "prefix_padding_ms": 300, "silence_duration_ms": 200},
                },
                "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "alloy"},
            },
        }
        self._has_transcripts = has_transcripts
        self._send("session.created", session=_copy(self.session))

    # -- events -------------------------------------------------------------------------------------------------------

    def _id(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}_{self._number:04d}{self._ids:017d}"

    def _send(self, kind: str, **fields: Any) -> None:
        self.out.append({"type": kind, "event_id": self._id("event"), **_copy(fields)})

    def receive(self, event: Event) -> None:
        """Process a client's event."""
        try:
            getattr(self, _HANDLERS[event["type"]])(event)
        except Refused as refused:
            code, param = refused.args
            error = {"type": "invalid_request_error", "code": code, "param": param, "event_id": event.get("event_id")}
            self.errors.append(error)
            self._send("error", error=error)

    @property
    def is_idle(self) -> bool:
        """Whether it does nothing by itself."""
        return self.active is None and not self._unheard

    def step(self) -> None:
        """Do the next of what upstream does by itself: a transcript, or an event of the active response."""
        if self._unheard:
            item_id, words = self._unheard.pop(0)
            kind = "conversation.item.input_audio_transcription.completed"
            self._send(kind, item_id=item_id, content_index=0, transcript=words)
        elif self.active is not None:
            response = self.active
            event = next(response.events, None)
            if event is None:
                self._end(response, response.status, None)
            else:
                self._send(**event)

    # -- session and items --------------------------------------------------------------------------------------------

    def _update(self, event: Event) -> None:
        wanted = event["session"]
        if not wanted.get("type"):
            raise Refused("missing_required_parameter", "session.type")
        for key in wanted:
            if key in _READ_ONLY or key not in self.session:
                raise Refused("unknown_parameter", f"session.{key}")
        merged = _copy(self.session)
        for key, value in wanted.items():
            if key != "audio":
                merged[key] = value
        for side, values in wanted.get("audio", {}).items():
            merged["audio"][side].update(values)
        was_manual = self._detection is None
        self.session = merged
        if was_manual != (self._detection is None):
            self._input.restart_detection()
        self._send("session.updated", session=merged)

    @property
    def _detection(self) -> Event | None:
        found: Event | None = self.session["audio"]["input"]["turn_detection"]
        return found

    def _place(self, item: Event, after: str | None = None) -> str | None:
        ids = [known["id"] for known in self.items]
        if item["id"] in ids:
            raise Refused("item_create_duplicate_item_id", None)
        if after is None:
            index = len(ids)
        elif after == "root":
            index = 0
        elif after in ids:
            index = ids.index(after) + 1
        else:
            raise Refused("item_create_invalid_previous_item_id", "previous_item_id")
        self.items.insert(index, item)
        return ids[index - 1] if index else None

    def _create(self, event: Event) -> None:
        source = event["item"]
        item = {**source, "id": source.get("id") or self._id("item"), "object": "realtime.item"}
        if len(item["id"]) > MAX_ID:
            raise Refused("string_above_max_length", "item.id")
        if item["type"] == "function_call_output" and item["call_id"] not in self._call_ids():
            raise Refused("invalid_tool_call_id", "item.call_id")
        numbers: list[int] = []
        for part in item.get("content", ()):
            if part["type"] not in _PARTS[item["role"]]:
                raise Refused("missing_required_parameter", "item.content[0].text")
            if part["type"] == "input_audio":
                numbers += numbers_of(decoded(part.pop("audio")))
            elif item["role"] == "user":
                numbers += [int(word) for word in part.get("text", "").split() if word.isdigit()]
        previous = self._place(item, event.get("previous_item_id"))
        self.heard[item["id"]] = numbers
        self._send("conversation.item.added", item=item, previous_item_id=previous)
        self._send("conversation.item.done", item=item, previous_item_id=None)

    def _call_ids(self) -> set[str]:
        return {item["call_id"] for item in self.items if item["type"] == "function_call"}

    def _find(self, item_id: str, verb: str) -> Event:
        for item in self.items:
            if item["id"] == item_id:
                return item
        raise Refused(f"item_{verb}_invalid_item_id", "item_id")

    def _delete(self, event: Event) -> None:
        self.items.remove(self._find(event["item_id"], "delete"))
        self._send("conversation.item.deleted", item_id=event["item_id"])

    def _truncate(self, event: Event) -> None:
        item = self._find(event["item_id"], "truncate")
        if not any(part["type"] == "output_audio" for part in item.get("content", ())):
            raise Refused("unsupported_content_type", "item_id")
        if event["audio_end_ms"] > self.answer_ms.get(item["id"], 0):
            raise Refused("invalid_value", "audio_end_ms")
        self.answer_ms[item["id"]] = event["audio_end_ms"]
        item["content"] = [{"type": "output_audio", "transcript": None}]
        fields = {name: event[name] for name in ("item_id", "content_index", "audio_end_ms")}
        self._send("conversation.item.truncated", **fields)

    def _retrieve(self, event: Event) -> None:
        self._send("conversation.item.retrieved", item=self._find(event["item_id"], "retrieve"))

    # -- audio --------------------------------------------------------------------------------------------------------

    def _append(self, event: Event) -> None:
        for due in self._input.append(event["audio"], self._detection):
            if not due["kind"]:
                self._commit_audio(due["item_id"], due["audio"], is_detected=True)
                continue
            if due["kind"].endswith("started"):
                self._speech_begins()
            self._send(**due)

    def _speech_begins(self) -> None:
        if self.active is not None:
            self._end(self.active, "cancelled", "turn_detected")

    def _commit(self, _: Event) -> None:
        if self._input.size < FRAME_BYTES * 5:
            raise Refused("input_audio_buffer_commit_empty", None)
        audio = self._input.take()
        self._commit_audio(self._id("item"), audio, is_detected=False)

    def _clear(self, _: Event) -> None:
        self._input.take()
        self._send("input_audio_buffer.cleared")

    def _commit_audio(self, item_id: str, audio: bytes, *, is_detected: bool) -> None:
        content = [{"type": "input_audio", "transcript": None}]
        item = {"id": item_id, "type": "message", "role": "user", "status": "completed", "content": content}
        previous = self._place(item)
        self.heard[item_id] = numbers_of(audio)
        self._send("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous)
        self._send("conversation.item.added", item=item, previous_item_id=previous)
        self._send("conversation.item.done", item=item, previous_item_id=previous)
        if self._has_transcripts and self.session["audio"]["input"]["transcription"]:
            self._unheard.append((item_id, " ".join(map(str, self.heard[item_id]))))
        if is_detected:
            self._turn_ends()

    def _turn_ends(self) -> None:
        if self.active is None:
            self._respond({})

    # -- answers ------------------------------------------------------------------------------------------------------

    def _create_response(self, event: Event) -> None:
        if self.active is not None:
            raise Refused("conversation_already_has_active_response", None)
        self._respond(event.get("response") or {})

    def _cancel(self, _: Event) -> None:
        if self.active is None:
            raise Refused("response_cancel_not_active", None)
        self._end(self.active, "cancelled", "client_cancelled")

    def _respond(self, wanted: Event) -> None:
        words = self._plan.pop(0) if self._plan else 1
        response_id = self._id("resp")
        base: Event = {"object": "realtime.response", "id": response_id, "status": "in_progress", "output": []}
        base |= {"conversation_id": "conv_1", "metadata": wanted.get("metadata"), "usage": None}
        items: list[Event] = []
        self.active = Response(self._answer_events(response_id, words, items), base, items)
        self._send("response.created", response=base)

    def _answer_events(self, response_id: str, words: int, items: list[Event]) -> Iterator[Event]:
        if words:
            yield from self._output_events(
                {"type": "message", "role": "assistant", "content": []}, items, response_id, abs(words)
            )
        if words <= 0:
            call = {"type": "function_call", "call_id": self._id("call"), "name": "f", "arguments": ""}
            yield from self._output_events(call, items, response_id, 0)

    def _output_events(self, kind: Event, items: list[Event], response_id: str, words: int) -> Iterator[Event]:
        item: Event = {"id": self._id("item"), "object": "realtime.item", "status": "in_progress", **kind}
        ids = {"response_id": response_id, "output_index": len(items)}
        items.append(item)
        yield {"kind": "response.output_item.added", **ids, "item": item}
        previous = self._place(item)
        yield {"kind": "conversation.item.added", "previous_item_id": previous, "item": item}
        ids["item_id"] = item["id"]
        yield from self._message_events(ids, item, words) if words else self._call_events(ids, item)
        item["status"] = "completed"
        yield {"kind": "conversation.item.done", "item": item, "previous_item_id": None}
        place = {"response_id": response_id, "output_index": ids["output_index"]}
        yield {"kind": "response.output_item.done", "item": item, **place}

    def _message_events(self, ids: Event, item: Event, count: int) -> Iterator[Event]:
        ids = {**ids, "content_index": 0}
        item["content"] = [{"type": "output_audio", "transcript": ""}]
        self.answer_ms[item["id"]] = 0
        yield {"kind": "response.content_part.added", **ids, "part": {"type": "audio", "transcript": ""}}
        for index in range(count):
            word = f"w{item['id'][-4:]}.{index} "
            if item["content"][0]["transcript"] is not None:  # not truncated
                item["content"][0]["transcript"] += word
            yield {"kind": "response.output_audio_transcript.delta", **ids, "delta": word}
            self.answer_ms[item["id"]] += DELTA_MS
            yield {"kind": "response.output_audio.delta", **ids, "delta": _DELTA}

    def _call_events(self, ids: Event, item: Event) -> Iterator[Event]:
        ids = {**ids, "call_id": item["call_id"]}
        item["arguments"] = '{"a":'
        yield {"kind": "response.function_call_arguments.delta", **ids, "delta": item["arguments"]}
        item["arguments"] = '{"a":1}'
        yield {"kind": "response.function_call_arguments.delta", **ids, "delta": "1}"}
        item["status"] = "completed"
        yield {"kind": "response.function_call_arguments.done", **ids, "name": "f", "arguments": item["arguments"]}

    def _end(self, response: Response, status: str, reason: str | None) -> None:
        self.active = None
        ids = {"response_id": response.response_id}
        placed = [item for item in response.items if any(known is item for known in self.items)]
        if status == "cancelled" and response.items and response.items[-1] in placed:
            item = response.items[-1]
            if item["status"] == "in_progress" or item["type"] == "function_call":
                item["status"] = "completed" if item["status"] == "completed" else "incomplete"
                self._send("conversation.item.done", item=item, previous_item_id=None)
                self._send("response.output_item.done", item=item, output_index=len(response.items) - 1, **ids)
        details = {"type": "cancelled", "reason": reason} if reason else None
        ends = {"status": status, "status_details": details, "output": placed}
        self._send("response.done", response={**response.base, **ends})
