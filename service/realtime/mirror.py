"""What upstream has acknowledged: the session, the items in order, what is open or owed. Pure.

A mirror is fed with a session's events in the order in which they passed, long after they did. It moves the events of the
client through the journal: each acknowledgement removes one.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from service.realtime import kept, session_form
from service.realtime.answers import Answers
from service.realtime.audio_length import audio_format
from service.realtime.events import parse_object
from service.realtime.journal import Journal
from service.realtime.journal_entries import Entry
from service.realtime.kept import body_of, dumps, payload_of, text
from service.realtime.mirror_items import (
    ROOT,
    Item,
    Items,
    Kind,
    call_payload,
    content_parts,
    content_text,
    has_audio,
    mcp_text,
    new_item,
)
from service.realtime.open_responses import AUDIO_PARTS, NewEventId, Output
from service.realtime.values import child, finite_number

TRANSCRIPT_SECONDS: Final = 5.0
"""How long a boundary waits for a transcript."""
_NO_TRANSCRIPT_SECONDS: Final = 30.0  # later than that none comes
_MAX_OPEN_CALLS: Final = 64  # that are kept beyond the limit on items
_BETA_PARTS: Final = frozenset({"text", "audio"})
_OUTPUT_TYPES: Final = frozenset({"function_call", "mcp_call", "mcp_list_tools", "mcp_approval_request"})


class Mirror:
    """See the head of this file. Times are those at which the events passed."""

    def __init__(self, journal: Journal, *, item_limit: int) -> None:
        self.journal = journal
        self.items = Items(item_limit)
        self.session = session_form.SessionForm()
        self.answers = Answers(journal)
        self.calls: dict[str, float] = {}  # function calls without output, and since when
        self.approvals: set[str] = set()
        self._untranscribed: dict[str, float] = {}  # turns whose transcript is due, and since when
        self.answer_part = "output_text"  # the type of a part of an answer's text
        self.failure: str | None = None  # why the session is not renewable
        self._handlers: Mapping[str, Callable[[bytes, Mapping[str, Any], float], None]] = {
            kept.SESSION_CREATED: self._session_created,
            kept.SESSION_UPDATED: self._session_updated,
            kept.ITEM_ADDED: self._item_added,
            kept.ITEM_CREATED: self._item_created,
            kept.ITEM_DONE: self._item_done,
            kept.ITEM_DELETED: self._item_deleted,
            kept.ITEM_TRUNCATED: self._item_truncated,
            kept.ITEM_RETRIEVED: self._item_retrieved,
            kept.TRANSCRIBED: self._transcribed,
            kept.NOT_TRANSCRIBED: self._transcribed,
            kept.COMMITTED: self._committed,
            kept.CLEARED: self._cleared,
            kept.SPEECH_STARTED: self._speech_started,
            kept.SPEECH_STOPPED: self._speech_stopped,
            kept.IDLE_TIMEOUT: self._idle_timeout,
            kept.RESPONSE_CREATED: self._response_created,
            kept.RESPONSE_DONE: self._response_done,
            kept.OUTPUT_ADDED: self._output_added,
            kept.OUTPUT_DONE: self._output_done,
            kept.ARGUMENTS_DONE: self._arguments_done,
            kept.PART_ADDED: self._part_added,
            kept.ERROR: self._error,
        }

    # -- fed by the log -----------------------------------------------------------------------------------------------

    def client_event(self, kind: str, raw: bytes, now: float) -> Entry | None:
        """Take up an event of the client; returns its entry if it is no audio."""
        if kind == kept.APPEND:
            self.journal.append(raw, now)
            return None
        body = body_of(raw, masked=True)
        item_id = text(child(body, "item").get("id")) or text(body.get("item_id"))
        if kind == kept.RESPONSE_CANCEL:
            self.answers.cancel(text(body.get("response_id")))
        return self.journal.add(kind, raw, now, event_id=text(body.get("event_id")), item_id=item_id)

    def upstream_event(self, kind: str, raw: bytes, now: float) -> None:
        """Take up an event of upstream."""
        payload = payload_of(raw, masked=False)
        if kind in {kept.TRANSCRIPT_DELTA, kept.TEXT_DELTA}:
            self.answers.delta(payload)
        elif handler := self._handlers.get(kind):
            handler(payload, parse_object(payload), now)

    @property
    def size(self) -> int:
        """The bytes that the mirror keeps."""
        return self.items.bytes + self.session.size + self.answers.size

    @property
    def is_transcription(self) -> bool:
        """Whether the session transcribes only, so that it has no items."""
        return self.session.type == "transcription"

    # -- what is due --------------------------------------------------------------------------------------------------

    def is_soft(self, now: float) -> bool:
        """Whether no output of a tool and no transcript is awaited, and the answer is played out."""
        if self.calls or self.answers.played_until > now:
            return False
        return all(since <= now - TRANSCRIPT_SECONDS for since in self._untranscribed.values())

    def trim(self, now: float) -> list[str]:
        """Drop what is beyond a limit, and answers that are owed for so long that none will come; returns dropped items."""
        self.answers.trim(now)
        for item_id in [
            item_id for item_id, since in self._untranscribed.items() if since < now - _NO_TRANSCRIPT_SECONDS
        ]:
            self._no_transcript(item_id)
        gone = self.items.limit(set(self.calls) if len(self.calls) < _MAX_OPEN_CALLS else ())
        for item in gone:
            self._forget(item)
        if gone and self.session.keeps_all:
            self.failure = "items_over_limit"
        return [item.item_id for item in gone]

    def _no_transcript(self, item_id: str) -> None:
        """Wait no longer for a transcript: the turn is created as audio."""
        self._untranscribed.pop(item_id, None)
        item = self.items.get(item_id)
        if item is not None:
            item.awaits_transcript = False
            self.items.changed(item)

    def _forget(self, item: Item) -> None:
        """Forget what is known of an item that is gone."""
        self.journal.forget(item.item_id)
        self.approvals.discard(item.item_id)
        self._untranscribed.pop(item.item_id, None)
        if item.kind is Kind.CALL:
            self.calls.pop(item.call_id, None)

    # -- session ------------------------------------------------------------------------------------------------------

    def _session_created(self, payload: bytes, body: Mapping[str, Any], _: float) -> None:
        self._set_session(payload, body)

    def _session_updated(self, payload: bytes, body: Mapping[str, Any], _: float) -> None:
        self._set_session(payload, body)
        update = self.journal.first(kept.SESSION_UPDATE)
        if update is not None:
            self.journal.resolve(update)
            self.session.accepted(payload_of(update.raw, masked=True))

    def _set_session(self, payload: bytes, body: Mapping[str, Any]) -> None:
        session = child(body, "session")
        self.session.set(payload, session)
        self.answers.audio_format = audio_format(session, "output")
        self.journal.form = audio_format(session, "input")
        turns = self.session.turn_detection
        self.journal.detects_turns = turns is not None
        self.journal.padding_ms = finite_number((turns or {}).get("prefix_padding_ms")) or 300.0
        self.journal.silence_ms = finite_number((turns or {}).get("silence_duration_ms")) or 200.0

    # -- items --------------------------------------------------------------------------------------------------------

    def _item_added(self, _: bytes, body: Mapping[str, Any], now: float) -> None:
        source = child(body, "item")
        item_id = text(source.get("id"))
        if not item_id:
            return
        known = self.items.get(item_id)
        if source.get("role") == "assistant" and any(
            text(part.get("type")) in _BETA_PARTS for part in content_parts(source)
        ):
            self.answer_part = "text"
        if known is not None:
            known.is_announced = True
            self._complete(known, source, now, is_done=False)
            return
        item = new_item(source, self._own_item(source, item_id))
        output = self.answers.output(item_id)
        if output is not None:
            output.in_conversation = True
        after = body.get("previous_item_id")
        if after is None:  # first, or upstream does not say where
            after = self._requested_after
        self.items.insert(item, after if isinstance(after, str) else None)
        self._note_call(item, source, now)

    def _item_created(self, payload: bytes, body: Mapping[str, Any], now: float) -> None:
        """The beta's only event of an item that is not an answer."""
        self._item_added(payload, body, now)
        item = self.items.get(text(child(body, "item").get("id")))
        if item is not None:
            item.is_announced_done = True

    def _own_item(self, source: Mapping[str, Any], item_id: str) -> Mapping[str, Any]:
        """The item of the client's create that this one answers; empty if upstream made it."""
        self._requested_after: object = None
        entry = self.journal.first(kept.ITEM_CREATE, item_id)
        if entry is None and self.answers.output(item_id) is None and text(source.get("type")) not in _OUTPUT_TYPES:
            entry = self.journal.first(kept.ITEM_CREATE, "")
        if entry is None:
            return {}
        self.journal.resolve(entry)
        body = body_of(entry.raw, masked=True)
        # Behind an item that upstream lacks, the relay had it created first.
        self._requested_after = body.get("previous_item_id")
        return child(body, "item")

    def _note_call(self, item: Item, source: Mapping[str, Any], now: float) -> None:
        kind = source.get("type")
        if kind == "function_call_output":
            self.calls.pop(item.call_id, None)
        elif kind == "function_call" and item.is_done:
            self.calls[item.call_id] = now
        elif kind == "mcp_approval_request":
            self.approvals.add(item.item_id)
        elif kind == "mcp_approval_response":
            self.approvals.discard(text(source.get("approval_request_id")))

    def _item_done(self, _: bytes, body: Mapping[str, Any], now: float) -> None:
        source = child(body, "item")
        item = self.items.get(text(source.get("id")))
        if item is not None:
            item.is_announced_done = True
            self._complete(item, source, now, is_done=True)

    def _complete(self, item: Item, source: Mapping[str, Any], now: float, *, is_done: bool) -> None:
        """Take over what upstream says of an item that is known. What the client created stays as it created it."""
        size = item.size
        if item.kind is Kind.ANSWER:
            item.text = content_text(source) or item.text
            item.is_spoken = item.is_spoken or has_audio(source)
        elif item.kind is Kind.USER_SPEECH:
            item.text = item.text or content_text(source)
        elif item.kind is Kind.CALL and not item.is_done and is_done and source.get("status") != "incomplete":
            item.payload = call_payload(item.item_id, source)
            self.calls[item.call_id] = now
        elif source.get("type") == "mcp_call" and is_done:
            item.payload = mcp_text(item.item_id, source)
            item.kind = Kind.COPY if item.payload else Kind.UNKNOWN
        if item.kind is not Kind.CALL or source.get("status") != "incomplete":
            item.is_done = item.is_done or is_done
        self.items.changed(item, size)

    def _item_deleted(self, _: bytes, body: Mapping[str, Any], __: float) -> None:
        item_id = text(body.get("item_id"))
        self._acknowledge(kept.ITEM_DELETE, item_id)
        self.remove_item(item_id)

    def remove_item(self, item_id: str) -> None:
        """Forget an item that is deleted."""
        item = self.items.remove(item_id)
        if item is not None:
            self._forget(item)

    def _item_truncated(self, _: bytes, body: Mapping[str, Any], now: float) -> None:
        item_id = text(body.get("item_id"))
        self._acknowledge(kept.ITEM_TRUNCATE, item_id)
        self.truncate_item(item_id, finite_number(body.get("audio_end_ms")) or 0.0, now)

    def truncate_item(self, item_id: str, end_ms: float, now: float) -> Item | None:
        """Note how much of an answer was heard."""
        item = self.items.get(item_id)
        if item is not None:
            size, output = item.size, self.answers.output(item_id)
            if output is not None and not item.is_done:  # upstream deletes the transcript, and does not show it later
                item.text, item.audio_ms = self.answers.text_of(output), output.audio_ms
            item.cut_ms = end_ms if item.cut_ms is None else min(item.cut_ms, end_ms)
            self.items.changed(item, size)
        self.answers.stop_playing(now)
        return item

    def _item_retrieved(self, _: bytes, body: Mapping[str, Any], __: float) -> None:
        self._acknowledge(kept.ITEM_RETRIEVE, text(child(body, "item").get("id")))

    def _acknowledge(self, kind: str, item_id: str | None = None) -> None:
        entry = self.journal.first(kind, item_id)
        if entry is not None:
            self.journal.resolve(entry)

    # -- what the user says -------------------------------------------------------------------------------------------

    def _transcribed(self, _: bytes, body: Mapping[str, Any], __: float) -> None:
        item_id, words = text(body.get("item_id")), text(body.get("transcript"))
        self._untranscribed.pop(item_id, None)
        if self.is_transcription or words.strip():
            self.journal.forget(item_id)
        item = self.items.get(item_id)
        if item is not None:
            size = item.size
            item.text, item.awaits_transcript = words or item.text, False
            self.items.changed(item, size)

    def _committed(self, _: bytes, body: Mapping[str, Any], now: float) -> None:
        item_id = text(body.get("item_id"))
        is_detected = self.journal.committed(item_id, now, keep=bool(item_id))
        if self.is_transcription or not item_id:
            return
        if self.items.get(item_id) is None:
            item = Item(item_id, Kind.USER_SPEECH, is_spoken=True, is_done=True, is_announced=False)
            item.awaits_transcript = self.session.transcribes
            if item.awaits_transcript:
                self._untranscribed[item_id] = now
            self.items.insert(item, text(body.get("previous_item_id")) or None)
        if is_detected and (self.session.turn_detection or {}).get("create_response", True):
            self.answers.owe(now)

    def _cleared(self, *_: object) -> None:
        self.journal.cleared()

    def _speech_started(self, _: bytes, body: Mapping[str, Any], __: float) -> None:
        self.journal.speech_started(text(body.get("item_id")), finite_number(body.get("audio_start_ms")))

    def _speech_stopped(self, _: bytes, body: Mapping[str, Any], __: float) -> None:
        self.journal.speech_stopped(text(body.get("item_id")), finite_number(body.get("audio_end_ms")))

    def _idle_timeout(self, payload: bytes, body: Mapping[str, Any], now: float) -> None:
        self._speech_started(payload, body, now)
        self._speech_stopped(payload, body, now)

    # -- responses ----------------------------------------------------------------------------------------------------

    def _response_created(self, payload: bytes, body: Mapping[str, Any], _: float) -> None:
        self.answers.created(payload, body)

    def _response_done(self, _: bytes, body: Mapping[str, Any], now: float) -> None:
        for output in self.answers.done(body, now):
            self._end_output(output)

    def _output_added(self, payload: bytes, body: Mapping[str, Any], _: float) -> None:
        item = self.items.get(text(child(body, "item").get("id")))
        self.answers.output_added(payload, body, in_conversation=item is not None)

    def _output_done(self, payload: bytes, body: Mapping[str, Any], now: float) -> None:
        source = child(body, "item")
        item_id = text(source.get("id"))
        output = self.answers.output(item_id)
        if output is None:
            return
        output.done, output.text = payload, ""
        item = self.items.get(item_id)
        if item is not None:
            item.audio_ms = output.audio_ms
            if not item.is_done:
                self._complete(item, source, now, is_done=True)

    def _arguments_done(self, payload: bytes, body: Mapping[str, Any], now: float) -> None:
        item_id = text(body.get("item_id"))
        output = self.answers.output(item_id)
        if output is None:
            return
        output.arguments = payload
        item = self.items.get(item_id)
        if item is not None and not item.is_done:
            self._complete(item, output.item(), now, is_done=True)

    def _part_added(self, payload: bytes, body: Mapping[str, Any], _: float) -> None:
        output = self.answers.output(text(body.get("item_id")))
        if output is not None:
            output.parts.append(payload)
            item = self.items.get(output.item_id)
            if item is not None and text(child(body, "part").get("type")) in AUDIO_PARTS:
                item.is_spoken = True

    def _error(self, _: bytes, body: Mapping[str, Any], __: float) -> None:
        error = child(body, "error")
        self.journal.refused(text(error.get("event_id")), text(error.get("code")), text(error.get("param")))

    # -- upstream is lost ---------------------------------------------------------------------------------------------

    def upstream_lost(self, new_id: NewEventId) -> tuple[list[bytes], list[bytes | None]]:
        """End what is open. Returns the events for the client, and what is to be asked again.

        See `Answers.end_all`. While the user speaks, nothing is: the turn brings an answer.
        """
        events = list(self._announcements(new_id))
        done = {item.item_id for item in self.items if item.is_announced_done}
        ends, again, outputs = self.answers.end_all(new_id, done)
        for output in outputs:
            self._end_output(output)
        return events + ends, [] if self.journal.speech_is_open else again

    def _announcements(self, new_id: NewEventId) -> Iterator[bytes]:
        """What the client has not been sent of items that upstream had acknowledged, answers aside."""
        for item in self.items:
            if item.is_announced_done or self.answers.output(item.item_id) is not None:
                continue
            body, before = item.body(), self.items.before(item.item_id, present=False)
            fields = {"previous_item_id": None if before == ROOT else before, "item": body}
            if not item.is_announced:
                yield dumps({"type": kept.ITEM_ADDED, "event_id": new_id(), **fields})
            if item.is_done:
                yield dumps({"type": kept.ITEM_DONE, "event_id": new_id(), **fields})
            item.is_announced = item.is_announced_done = True

    def _end_output(self, output: Output) -> None:
        item = self.items.get(output.item_id)
        if item is None:
            return
        if item.is_done:
            item.is_announced_done = True
            return
        if item.kind is Kind.CALL:
            item.kind = Kind.UNKNOWN  # the next answer calls again
        item.is_announced_done = True
        size = item.size
        item.text, item.audio_ms, item.is_done = output.text, output.audio_ms, True
        self.items.changed(item, size)
