"""One response, from ``response.created`` to ``rate_limits.updated``: its events, their order and their pacing.

The order is that of the wire (seen from 2026-07 to 2026-09): the transcript precedes the audio by four deltas,
``conversation.item.done`` of an assistant's item has no ``previous_item_id``, and ``rate_limits.updated`` follows
``response.done`` after 43 ms. A response that is cancelled, failed or incomplete still sends the ``done`` event for each
item and content part that it has added.
"""

import asyncio
import secrets
from dataclasses import dataclass

from service.realtime.usage import Counts, Tokens, Usage
from service.simulator.configuration import audio_format_object
from service.simulator.connection import Connection
from service.simulator.conversation import Conversation
from service.simulator.conversation_record import ResponseRecord
from service.simulator.events import JSON, ApiError, JSONObject, server_event, text_delta
from service.simulator.ids import new_call_id, new_id
from service.simulator.items import Item
from service.simulator.reply import Reply, ResponseOptions, output_tokens

_CHUNK_MS = 250  # audio in one delta, as measured on the wire
_TRANSCRIPT_LEAD = 4  # transcript deltas before the first audio delta
_TOKENS_PER_MINUTE = 15_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """The final status of a response and its `status_details`."""

    status: str = "completed"
    details: JSONObject | None = None

    @property
    def item_status(self) -> str:
        """The final status of the response's item."""
        return "completed" if self.status == "completed" else "incomplete"


@dataclass(frozen=True, slots=True)
class InjectedFailure:
    """The error with which a response fails: halfway through its output, or before any."""

    error: ApiError
    halfway: bool


class Response:
    """One response. `active` until its ``response.done``; call `run` once, then `send_rate_limits`."""

    def __init__(
        self,
        connection: Connection,
        conversation: Conversation,
        options: ResponseOptions,
        reply: Reply,
        *,
        input_tokens: Tokens,
        failure: InjectedFailure | None = None,
        sideband: bool = False,
        record: ResponseRecord | None = None,
    ) -> None:
        self.response_id = new_id("resp")
        self.active = True
        self._connection = connection
        self._conversation = conversation
        self._options = options
        self._reply = reply
        self._input_tokens = input_tokens
        cached = conversation.cached_tokens
        self._cached_tokens = _minimum(cached, input_tokens) if options.in_conversation else Tokens()
        self._failure = failure
        self._sideband = sideband
        self._cancelled = asyncio.Event()
        self._cancel_reason = ""
        self._item_id = new_id("item")
        self._call_id = new_call_id()
        self._sent_text = ""
        self._sent_audio = bytearray()
        self._record = record or ResponseRecord("", "client", None)
        self._record.response_id, self._record.item_id = self.response_id, self._item_id
        self._record.call_id = self._call_id if reply.function is not None else None
        self._total_tokens = 0  # 0 until `response.done`

    @property
    def sent_audio_ms(self) -> float:
        """The duration of the audio that was sent."""
        return self._options.audio_format.duration_ms(len(self._sent_audio))

    @property
    def mcp_call(self) -> JSONObject | None:
        """The item of the MCP call that runs from the end of the response on; None without one."""
        is_call = self._reply.mcp_server is not None and self._record.status == "completed"
        return self._item("completed") if is_call and not self._reply.needs_approval else None

    @property
    def _call_type(self) -> str:
        return "mcp_call" if self._reply.mcp_server is not None else "function_call"

    @property
    def _call_ids(self) -> JSONObject:
        return {} if self._reply.mcp_server is not None else {"call_id": self._call_id}

    def cancel(self, reason: str) -> None:
        """Stop sending output; the response ends with status `cancelled`. Only the first call has an effect."""
        if not self._cancelled.is_set():
            self._cancel_reason = reason
            self._cancelled.set()

    async def run(self) -> None:
        """Send all events up to ``response.done``."""
        await self._send("response.created", response=self._object("in_progress", None, [], None))
        if self._failure is not None and not self._failure.halfway:
            outcome, output = _failed(self._failure), list[JSON]()
        else:
            await self._open_item()
            outcome = await self._stream_output()
            await self._close_item(outcome)
            output = [self._item(outcome.item_status)]
        await self._finish(outcome, output)

    async def _open_item(self) -> None:
        item = self._item("in_progress")
        item["arguments" if self._reply.function else "content"] = "" if self._reply.function else []
        await self._send("response.output_item.added", **self._response_ids(), item=item)
        if self._options.in_conversation:
            previous = self._conversation.add(Item(item, Tokens()))
            await self._send("conversation.item.added", previous_item_id=previous, item=item)
        if self._reply.function is None:
            await self._send("response.content_part.added", **self._part_ids(), part=self._part())

    async def _stream_output(self) -> Outcome:
        if self._sideband and self._reply.audio is not None:
            await self._send_playback("output_audio_buffer.started")
        pieces, chunks = self._reply.pieces, self._audio_chunks()
        steps = max(len(pieces), len(chunks) + _TRANSCRIPT_LEAD if chunks else 0)
        for step in range(steps):
            if self._cancelled.is_set():
                return Outcome("cancelled", {"type": "cancelled", "reason": self._cancel_reason})
            if self._failure is not None and step * 2 >= steps:
                return _failed(self._failure)
            if step < len(pieces):
                await self._send_text_delta(pieces[step])
            if 0 <= step - _TRANSCRIPT_LEAD < len(chunks):
                await self._send_audio_delta(chunks[step - _TRANSCRIPT_LEAD])
                await self._wait_for_playback(last=step + 1 == steps)
            else:
                await asyncio.sleep(0)  # lets the reader process a response.cancel between two deltas
        if self._reply.truncated:
            return Outcome("incomplete", {"type": "incomplete", "reason": "max_output_tokens"})
        return Outcome()

    async def _close_item(self, outcome: Outcome) -> None:
        item = self._item(outcome.item_status)
        if self._reply.function is not None:
            call: JSONObject = {**self._response_item_ids(), **self._call_ids, "name": self._reply.function}
            await self._send(f"response.{self._call_type}_arguments.done", **call, arguments=self._sent_text)
        elif self._reply.audio is not None:
            await self._send("response.output_audio.done", **self._part_ids())
            await self._send("response.output_audio_transcript.done", **self._part_ids(), transcript=self._sent_text)
        else:
            await self._send("response.output_text.done", **self._part_ids(), text=self._sent_text)
        if self._reply.function is None:
            await self._send("response.content_part.done", **self._part_ids(), part=self._part())
        runs_on = self._reply.mcp_server is not None and not self._reply.needs_approval
        if self._options.in_conversation and not runs_on:
            self._conversation.finish(self._as_item(item), self._options.audio_format)
            await self._send("conversation.item.done", previous_item_id=None, item=item)
        await self._send("response.output_item.done", **self._response_ids(), item=item)

    async def _finish(self, outcome: Outcome, output: list[JSON]) -> None:
        sent_tokens = self._output_tokens() if output else Tokens()
        failed_without_output = outcome.status == "failed" and not output
        usage = Usage() if failed_without_output else Usage(self._input_tokens, sent_tokens, self._cached_tokens)
        if self._options.in_conversation and not failed_without_output:
            self._conversation.record_response(self._input_tokens + sent_tokens)
        self.active = False
        self._record.status, self._record.reason = outcome.status, (outcome.details or {}).get("reason")
        self._total_tokens = usage.total
        done = self._object(outcome.status, outcome.details, output, usage)
        await self._send("response.done", response=done)

    async def send_rate_limits(self) -> None:
        """Send ``rate_limits.updated`` after its delay. The next response can start before it."""
        await asyncio.sleep(self._connection.options.rate_limits_delay_seconds)
        limit: JSONObject = {
            "name": "tokens",
            "limit": _TOKENS_PER_MINUTE,
            "remaining": max(0, _TOKENS_PER_MINUTE - self._total_tokens),
            "reset_seconds": 0.001,
        }
        await self._send("rate_limits.updated", rate_limits=[limit])
        if self._sideband and self._reply.audio is not None:
            await self._send_playback("output_audio_buffer.stopped")

    async def _send_text_delta(self, piece: str) -> None:
        self._sent_text += piece
        self._record.text = self._sent_text
        if self._reply.function is not None:
            event_type, ids = f"response.{self._call_type}_arguments.delta", self._response_item_ids()
            ids |= self._call_ids
        else:
            has_audio = self._reply.audio is not None
            event_type = "response.output_audio_transcript.delta" if has_audio else "response.output_text.delta"
            ids = self._part_ids()
        await self._connection.send(text_delta(event_type, piece, **ids))

    async def _send_audio_delta(self, chunk: bytes) -> None:
        self._sent_audio += chunk
        self._record.sent_samples = len(self._sent_audio) // self._options.audio_format.sample_bytes
        if self._options.in_conversation:
            # What was sent can be truncated.
            item = Item(self._item("in_progress"), Tokens(), audio_ms=self.sent_audio_ms)
            self._conversation.finish(item, self._options.audio_format)
        if not self._sideband:  # on a sideband the audio goes to the call; the sideband carries the other events
            await self._connection.send_audio(server_event("response.output_audio.delta", **self._part_ids()), chunk)

    async def _wait_for_playback(self, *, last: bool) -> None:
        pace = self._connection.pace
        if pace == 0 or last:
            await asyncio.sleep(0)
            return
        try:
            await asyncio.wait_for(self._cancelled.wait(), _CHUNK_MS / 1000 / pace)
        except TimeoutError:
            return

    async def _send(self, event_type: str, **fields: JSON) -> None:
        await self._connection.send(server_event(event_type, **fields))

    async def _send_playback(self, event_type: str) -> None:
        # On the wire only these events have identifiers of 16 hex digits.
        event = server_event(event_type, response_id=self.response_id)
        await self._connection.send({**event, "event_id": f"event_{secrets.token_hex(8)}"})

    def _audio_chunks(self) -> list[bytes]:
        audio, size = self._reply.audio or b"", self._options.audio_format.bytes_for(_CHUNK_MS)
        return [audio[at : at + size] for at in range(0, len(audio), size)]

    def _output_tokens(self) -> Tokens:
        return output_tokens(self._sent_text, bytes(self._sent_audio), self._options.audio_format)

    def _response_ids(self) -> JSONObject:
        return {"response_id": self.response_id, "output_index": 0}

    def _response_item_ids(self) -> JSONObject:
        return {"response_id": self.response_id, "item_id": self._item_id, "output_index": 0}

    def _part_ids(self) -> JSONObject:
        return {**self._response_item_ids(), "content_index": 0}

    def _part(self) -> JSONObject:
        has_audio = self._reply.audio is not None
        return (
            {"type": "audio", "transcript": self._sent_text} if has_audio else {"type": "text", "text": self._sent_text}
        )

    def _item(self, status: str) -> JSONObject:
        item: JSONObject = {"id": self._item_id, "object": "realtime.item"}
        if self._reply.function is not None:
            call: JSONObject = {"name": self._reply.function, **self._call_ids, "arguments": self._sent_text}
            if self._reply.mcp_server is not None:
                kind = self._connection.behaviour.mcp_call_type
                kind = "mcp_approval_request" if self._reply.needs_approval else kind
                return {**item, "type": kind, "server_label": self._reply.mcp_server, **call}
            return {**item, "type": "function_call", "status": status, **call}
        has_audio = self._reply.audio is not None
        content: JSONObject = (
            {"type": "output_audio", "transcript": self._sent_text}
            if has_audio
            else {"type": "output_text", "text": self._sent_text}
        )
        return {**item, "type": "message", "status": status, "role": "assistant", "content": [content]}

    def _as_item(self, body: JSONObject) -> Item:
        return Item(body, self._output_tokens(), bytes(self._sent_audio) or None, self.sent_audio_ms)

    def _object(self, status: str, details: JSONObject | None, output: list[JSON], usage: Usage | None) -> JSONObject:
        options = self._options
        audio_output: JSONObject = {"format": audio_format_object(options.audio_format), "voice": options.voice}
        return {
            "object": "realtime.response",
            "id": self.response_id,
            "status": status,
            "status_details": details,
            "output": output,
            "conversation_id": self._conversation.conversation_id if options.in_conversation else None,
            "output_modalities": ["audio" if options.with_audio else "text"],
            "max_output_tokens": options.max_output_tokens,
            "audio": {"output": audio_output},
            "usage": _usage_object(usage),
            "metadata": options.metadata,
        }


def _failed(failure: InjectedFailure) -> Outcome:
    error = failure.error
    details: JSONObject = {"type": error.error_type, "code": error.code, "message": error.message}
    return Outcome("failed", {"type": "failed", "error": details})


def _minimum(one: Tokens, other: Tokens) -> Tokens:
    return Tokens(min(one.text, other.text), min(one.audio, other.audio), min(one.image, other.image))


def _usage_object(usage: Usage | None) -> JSON:
    return None if usage is None else _as_json(usage.as_counts())


def _as_json(counts: Counts) -> JSONObject:
    return {name: count if isinstance(count, int) else _as_json(count) for name, count in counts.items()}
