"""One response, from ``response.created`` to ``rate_limits.updated``: which events it sends, in which order, how fast.

The order is that of the wire (seen 2026-07 to 2026-09), with its oddities: the transcript runs ahead of the audio,
``conversation.item.done`` of an assistant's item names no previous item, ``rate_limits.updated`` follows
``response.done`` by 43 ms. A response that is cancelled, fails or is cut short still closes all that it opened.
"""

import asyncio
import secrets
from dataclasses import dataclass

from service.realtime.usage import Counts, Tokens, Usage
from service.simulator.configuration import write_format
from service.simulator.conversation import Conversation, Item
from service.simulator.events import JSON, JSONObject, Mistake, event, text_delta
from service.simulator.ids import new_call_id, new_id
from service.simulator.peer import Peer
from service.simulator.reply import Reply, Wanted, tokens_of

_CHUNK_MS = 250  # audio in one delta, as measured on the wire
_TRANSCRIPT_LEAD = 4  # pieces of transcript before the first audio
_TOKENS_PER_MINUTE = 15_000_000


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a response ends."""

    status: str = "completed"
    details: JSONObject | None = None

    @property
    def item_status(self) -> str:
        """How its items end."""
        return "completed" if self.status == "completed" else "incomplete"


@dataclass(frozen=True, slots=True)
class Fault:
    """How a response is to fail, and whether it says half of its words before."""

    error: Mistake
    midway: bool


class Response:
    """One answer on its way. Active until its ``response.done``; run once."""

    def __init__(
        self,
        peer: Peer,
        conversation: Conversation,
        wanted: Wanted,
        reply: Reply,
        *,
        read: Tokens,
        fault: Fault | None = None,
        sideband: bool = False,
    ) -> None:
        self.response_id = new_id("resp")
        self.active = True
        self._peer = peer
        self._conversation = conversation
        self._wanted = wanted
        self._reply = reply
        self._read = read
        self._cached = _least(conversation.cached, read) if wanted.in_conversation else Tokens()
        self._fault = fault
        self._sideband = sideband
        self._cancelled = asyncio.Event()
        self._cancel_reason = ""
        self._item_id = new_id("item")
        self._call_id = new_call_id()
        self._said = ""
        self._spoken = bytearray()
        self._used = 0  # tokens, once it is done

    def cancel(self, reason: str) -> None:
        """Ask it to stop; it closes what it opened and ends as cancelled."""
        if not self._cancelled.is_set():
            self._cancel_reason = reason
            self._cancelled.set()

    async def run(self) -> None:
        """Send all of it, up to ``response.done``."""
        await self._send("response.created", response=self._object("in_progress", None, [], None))
        if self._fault is not None and not self._fault.midway:
            outcome, output = self._failed(self._fault), list[JSON]()
        else:
            await self._open_item()
            outcome = await self._say()
            await self._close_item(outcome)
            output = [self._item(outcome.item_status)]
        await self._finish(outcome, output)

    async def _open_item(self) -> None:
        item = self._item("in_progress")
        item["arguments" if self._reply.function else "content"] = "" if self._reply.function else []
        await self._send("response.output_item.added", **self._response_ids(), item=item)
        if self._wanted.in_conversation:
            previous = self._conversation.add(Item(item, Tokens()))
            await self._send("conversation.item.added", previous_item_id=previous, item=item)
        if self._reply.function is None:
            await self._send("response.content_part.added", **self._part_ids(), part=self._part())

    async def _say(self) -> Outcome:
        if self._sideband and self._reply.audio is not None:
            await self._send_playback("output_audio_buffer.started")
        pieces, chunks = self._reply.pieces, self._chunks()
        steps = max(len(pieces), len(chunks) + _TRANSCRIPT_LEAD if chunks else 0)
        for step in range(steps):
            if self._cancelled.is_set():
                return Outcome("cancelled", {"type": "cancelled", "reason": self._cancel_reason})
            if self._fault is not None and step * 2 >= steps:
                return self._failed(self._fault)
            if step < len(pieces):
                await self._send_words(pieces[step])
            if 0 <= step - _TRANSCRIPT_LEAD < len(chunks):
                await self._send_sound(chunks[step - _TRANSCRIPT_LEAD])
                await self._play(last=step + 1 == steps)
            else:
                await asyncio.sleep(0)  # so that a cancel between two words is heard
        if self._reply.cut_short:
            return Outcome("incomplete", {"type": "incomplete", "reason": "max_output_tokens"})
        return Outcome()

    async def _close_item(self, outcome: Outcome) -> None:
        item = self._item(outcome.item_status)
        if self._reply.function is not None:
            named: JSONObject = {**self._response_item_ids(), "call_id": self._call_id, "name": self._reply.function}
            await self._send("response.function_call_arguments.done", **named, arguments=self._said)
        elif self._reply.audio is not None:
            await self._send("response.output_audio.done", **self._part_ids())
            await self._send("response.output_audio_transcript.done", **self._part_ids(), transcript=self._said)
        else:
            await self._send("response.output_text.done", **self._part_ids(), text=self._said)
        if self._reply.function is None:
            await self._send("response.content_part.done", **self._part_ids(), part=self._part())
        if self._wanted.in_conversation:
            milliseconds = self._wanted.format.milliseconds_of(len(self._spoken))
            self._conversation.put(Item(item, self._told(), None, milliseconds))
            await self._send("conversation.item.done", previous_item_id=None, item=item)
        await self._send("response.output_item.done", **self._response_ids(), item=item)

    async def _finish(self, outcome: Outcome, output: list[JSON]) -> None:
        told = self._told() if output else Tokens()
        failed_at_once = outcome.status == "failed" and not output
        usage = Usage() if failed_at_once else Usage(self._read, told, self._cached)
        if self._wanted.in_conversation and not failed_at_once:
            self._conversation.note_answered(self._read + told)
        self.active = False
        self._used = usage.total
        done = self._object(outcome.status, outcome.details, output, usage)
        await self._send("response.done", response=done)

    async def run_afterword(self) -> None:
        """Send what follows ``response.done``; the next response need not wait for it."""
        await asyncio.sleep(self._peer.options.rate_limits_delay_seconds)
        limit: JSONObject = {
            "name": "tokens",
            "limit": _TOKENS_PER_MINUTE,
            "remaining": max(0, _TOKENS_PER_MINUTE - self._used),
            "reset_seconds": 0.001,
        }
        await self._send("rate_limits.updated", rate_limits=[limit])
        if self._sideband and self._reply.audio is not None:
            await self._send_playback("output_audio_buffer.stopped")

    async def _send_words(self, piece: str) -> None:
        self._said += piece
        if self._reply.function is not None:
            kind, ids = "response.function_call_arguments.delta", self._response_item_ids()
            ids["call_id"] = self._call_id
        else:
            spoken = self._reply.audio is not None
            kind = "response.output_audio_transcript.delta" if spoken else "response.output_text.delta"
            ids = self._part_ids()
        await self._peer.send(text_delta(kind, piece, **ids))

    async def _send_sound(self, chunk: bytes) -> None:
        self._spoken += chunk
        if not self._sideband:  # there the audio goes to the call, not to those who listen to its events
            await self._peer.send_audio(event("response.output_audio.delta", **self._part_ids()), chunk)

    async def _play(self, *, last: bool) -> None:
        pace = self._peer.options.pace
        if pace == 0 or last:
            await asyncio.sleep(0)
            return
        try:
            await asyncio.wait_for(self._cancelled.wait(), _CHUNK_MS / 1000 / pace)
        except TimeoutError:
            return

    async def _send(self, kind: str, **fields: JSON) -> None:
        await self._peer.send(event(kind, **fields))

    async def _send_playback(self, kind: str) -> None:
        # On the wire these events, and these alone, are named with 16 hex digits.
        await self._peer.send(
            {**event(kind, response_id=self.response_id), "event_id": f"event_{secrets.token_hex(8)}"}
        )

    def _chunks(self) -> list[bytes]:
        audio, size = self._reply.audio or b"", self._wanted.format.bytes_in(_CHUNK_MS)
        return [audio[at : at + size] for at in range(0, len(audio), size)]

    def _failed(self, fault: Fault) -> Outcome:
        error: JSONObject = {"type": fault.error.kind, "code": fault.error.code, "message": fault.error.message}
        return Outcome("failed", {"type": "failed", "error": error})

    def _told(self) -> Tokens:
        return tokens_of(self._said, bytes(self._spoken), self._wanted.format)

    def _response_ids(self) -> JSONObject:
        return {"response_id": self.response_id, "output_index": 0}

    def _response_item_ids(self) -> JSONObject:
        return {"response_id": self.response_id, "item_id": self._item_id, "output_index": 0}

    def _part_ids(self) -> JSONObject:
        return {**self._response_item_ids(), "content_index": 0}

    def _part(self) -> JSONObject:
        spoken = self._reply.audio is not None
        return {"type": "audio", "transcript": self._said} if spoken else {"type": "text", "text": self._said}

    def _item(self, status: str) -> JSONObject:
        item: JSONObject = {"id": self._item_id, "object": "realtime.item"}
        if self._reply.function is not None:
            called: JSONObject = {"name": self._reply.function, "call_id": self._call_id, "arguments": self._said}
            return {**item, "type": "function_call", "status": status, **called}
        spoken = self._reply.audio is not None
        content: JSONObject = (
            {"type": "output_audio", "transcript": self._said}
            if spoken
            else {"type": "output_text", "text": self._said}
        )
        return {**item, "type": "message", "status": status, "role": "assistant", "content": [content]}

    def _object(self, status: str, details: JSONObject | None, output: list[JSON], usage: Usage | None) -> JSONObject:
        wanted = self._wanted
        spoken: JSONObject = {"format": write_format(wanted.format), "voice": wanted.voice}
        return {
            "object": "realtime.response",
            "id": self.response_id,
            "status": status,
            "status_details": details,
            "output": output,
            "conversation_id": self._conversation.conversation_id if wanted.in_conversation else None,
            "output_modalities": ["audio" if wanted.speaks else "text"],
            "max_output_tokens": wanted.max_output_tokens,
            "audio": {"output": spoken},
            "usage": _counts(usage),
            "metadata": wanted.metadata,
        }


def _least(one: Tokens, other: Tokens) -> Tokens:
    return Tokens(min(one.text, other.text), min(one.audio, other.audio), min(one.image, other.image))


def _counts(usage: Usage | None) -> JSON:
    return None if usage is None else _plain(usage.as_counts())


def _plain(counts: Counts) -> JSONObject:
    return {name: count if isinstance(count, int) else _plain(count) for name, count in counts.items()}
