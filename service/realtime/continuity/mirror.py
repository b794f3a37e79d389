"""What upstream has acknowledged: the session, the conversation, what is open or owed. Pure.

A mirror is fed with a session's events in the order in which they passed, long after they did. It moves the events of the
client through the journal: each acknowledgement removes one.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from service.realtime.continuity import kept, session_form
from service.realtime.continuity.answers import Answers
from service.realtime.continuity.audio_length import audio_format
from service.realtime.continuity.conversation import Conversation, McpCall
from service.realtime.continuity.journal import Journal
from service.realtime.continuity.journal_entries import Entry
from service.realtime.continuity.kept import body_of, payload_of, text
from service.realtime.continuity.mirror_items import Items
from service.realtime.continuity.open_responses import AUDIO_PARTS, CutAnswer, NewEventId
from service.realtime.events import parse_object
from service.realtime.values import child, finite_number

TRANSCRIPT_SECONDS: Final = 5.0
"""How long a boundary waits for a transcript."""
_HANDLERS_OF_CONVERSATION: Final[Mapping[str, Callable[[Conversation, bytes, Mapping[str, Any], float], None]]] = {
    kept.ITEM_ADDED: Conversation.added,
    kept.ITEM_CREATED: Conversation.created,
    kept.ITEM_DONE: Conversation.done,
    kept.ITEM_DELETED: Conversation.deleted,
    kept.ITEM_TRUNCATED: Conversation.truncated,
    kept.ITEM_RETRIEVED: Conversation.retrieved,
    kept.MCP_CALLED: Conversation.mcp_call_ended,
    kept.MCP_NOT_CALLED: Conversation.mcp_call_ended,
    kept.MCP_LISTED: Conversation.listed,
    kept.MCP_NOT_LISTED: Conversation.listed,
}


class Mirror:
    """See the head of this file. Times are those at which the events passed."""

    def __init__(self, journal: Journal, *, item_limit: int, image_limit: int) -> None:
        self.journal = journal
        self.session = session_form.SessionForm()
        self.answers = Answers(journal)
        self.items = Items(item_limit, image_limit)
        self.conversation = Conversation(journal, self.answers, self.items)
        self.failure: str | None = None  # why the session is not renewable
        self.is_restored = False  # the current upstream knows earlier answers as text
        self.text_answers = 0  # of such an upstream, where speech was due

    # -- fed by the log -----------------------------------------------------------------------------------------------

    def client_event(self, kind: str, raw: bytes, now: float) -> Entry | None:
        """Take up an event of the client; returns its entry if it is no audio."""
        if kind == kept.APPEND:
            self.journal.append((raw,), now, now)
            return None
        body = body_of(raw, masked=True)
        item_id = text(child(body, "item").get("id")) or text(body.get("item_id"))
        if kind == kept.RESPONSE_CANCEL:
            item_id = text(body.get("response_id"))
            self.answers.cancel(item_id)
        return self.journal.add(kind, raw, now, event_id=text(body.get("event_id")), item_id=item_id)

    def upstream_event(self, kind: str, raw: bytes, now: float) -> None:
        """Take up an event of upstream."""
        payload = payload_of(raw, masked=False)
        if kind in kept.DELTAS:
            self.answers.delta(payload)
        elif kind in kept.TRANSCRIPTION_PARTS:
            self.conversation.partly_transcribed(payload)
        elif handler := self._HANDLERS.get(kind):
            handler(self, payload, parse_object(payload), now)
        elif of_conversation := _HANDLERS_OF_CONVERSATION.get(kind):
            of_conversation(self.conversation, payload, parse_object(payload), now)

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
        if self.conversation.calls or self.answers.played_until > now:
            return False
        if self.is_transcription and self.journal.turns:  # they would be transcribed, and paid for, twice
            return False
        return all(since <= now - TRANSCRIPT_SECONDS for since in self.conversation.untranscribed.values())

    def trim(self, now: float) -> None:
        """Drop what is beyond a limit, and answers that are owed for so long that none will come."""
        self.answers.trim(now)
        if self.conversation.trim(now) and self.session.keeps_all:
            self.failure = "items_over_limit"

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
        source = child(child(session, "audio"), "input")
        turns = child(source, "turn_detection")
        self.journal.detects_turns = isinstance(source.get("turn_detection"), Mapping)
        self.journal.padding_ms = finite_number(turns.get("prefix_padding_ms")) or 300.0
        self.journal.silence_ms = finite_number(turns.get("silence_duration_ms")) or 200.0

    # -- what the user says -------------------------------------------------------------------------------------------

    def _transcribed(self, _: bytes, body: Mapping[str, Any], __: float) -> None:
        item_id, words = text(body.get("item_id")), text(body.get("transcript"))
        if self.is_transcription or words.strip():
            self.journal.forget(item_id)
        self.conversation.transcribed(item_id, words)

    def _committed(self, _: bytes, body: Mapping[str, Any], now: float) -> None:
        item_id = text(body.get("item_id"))
        is_detected = self.journal.committed(item_id, now, keep=bool(item_id))
        if self.is_transcription or not item_id:
            return
        after = text(body.get("previous_item_id")) or None
        self.conversation.committed(item_id, after, now, awaits_transcript=self.session.transcribes)
        if is_detected and self.session.answers_turns:
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
        if self.is_restored:
            self.text_answers += self.answers.is_text(child(body, "response"), is_spoken=self.session.is_spoken)
        for output in self.answers.done(body, now):
            self.conversation.end_output(output)

    def _output_added(self, payload: bytes, body: Mapping[str, Any], now: float) -> None:
        source = child(body, "item")
        item_id = text(source.get("id"))
        if text(source.get("type")) in kept.MCP_CALL_TYPES:
            index = int(finite_number(body.get("output_index")) or 0)
            self.conversation.mcp_calls[item_id] = McpCall(index, now)
        self.answers.output_added(payload, body, in_conversation=self.items.get(item_id) is not None)

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
                self.conversation.complete(item, source, now, is_done=True)

    def _arguments_done(self, payload: bytes, body: Mapping[str, Any], now: float) -> None:
        item_id = text(body.get("item_id"))
        output = self.answers.output(item_id)
        if output is None:
            return
        output.arguments = payload
        item = self.items.get(item_id)
        if item is not None and not item.is_done:
            self.conversation.complete(item, output.item(), now, is_done=True)

    def _part_added(self, payload: bytes, body: Mapping[str, Any], _: float) -> None:
        output = self.answers.output(text(body.get("item_id")))
        if output is not None:
            is_audio = text(child(body, "part").get("type")) in AUDIO_PARTS
            self.answers.part_added(output, payload, is_audio=is_audio)
            item = self.items.get(output.item_id)
            if item is not None and is_audio:
                item.is_spoken = True

    def _error(self, _: bytes, body: Mapping[str, Any], __: float) -> None:
        error = child(body, "error")
        self.journal.refused(text(error.get("event_id")), text(error.get("code")), text(error.get("param")))

    # -- upstream is lost ---------------------------------------------------------------------------------------------

    def upstream_lost(self, new_id: NewEventId) -> tuple[list[bytes], list[CutAnswer]]:
        """End what is open. Returns the events for the client, and the answers that were cut.

        See `Answers.end_all`. While the user speaks, only what is outside the conversation is wanted: the turn brings an
        answer, unless the client asks for each.
        """
        events = [*self.conversation.announcements(new_id), *self.conversation.end_mcp(new_id)]
        done = {item.item_id for item in self.items if item.is_announced_done}
        ends, cut, outputs = self.answers.end_all(new_id, done)
        for output in outputs:
            self.conversation.end_output(output)
        if self.journal.speech_is_open and self.session.answers_turns:
            cut = [answer for answer in cut if answer.is_outside]
        return events + ends, cut

    # Not bound methods of each mirror, which would be a reference cycle: what was said would wait for the garbage collector.
    _HANDLERS: ClassVar[Mapping[str, Callable[["Mirror", bytes, Mapping[str, Any], float], None]]] = {
        kept.SESSION_CREATED: _session_created,
        kept.SESSION_UPDATED: _session_updated,
        kept.TRANSCRIBED: _transcribed,
        kept.NOT_TRANSCRIBED: _transcribed,
        kept.COMMITTED: _committed,
        kept.CLEARED: _cleared,
        kept.SPEECH_STARTED: _speech_started,
        kept.SPEECH_STOPPED: _speech_stopped,
        kept.IDLE_TIMEOUT: _idle_timeout,
        kept.RESPONSE_CREATED: _response_created,
        kept.RESPONSE_DONE: _response_done,
        kept.OUTPUT_ADDED: _output_added,
        kept.OUTPUT_DONE: _output_done,
        kept.ARGUMENTS_DONE: _arguments_done,
        kept.PART_ADDED: _part_added,
        kept.ERROR: _error,
    }
