"""The items of a conversation as upstream's events change them, and what is awaited for them. Pure.

An event that acknowledges one of the client's removes that from the journal. `mirror.py` passes the events here.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from service.realtime.continuity import kept
from service.realtime.continuity.answers import Answers
from service.realtime.continuity.journal import Journal
from service.realtime.continuity.journal_entries import Entry
from service.realtime.continuity.kept import body_of, dumps, text
from service.realtime.continuity.mirror_items import (
    ROOT,
    Fate,
    Item,
    Items,
    Kind,
    call_payload,
    content_text,
    has_audio,
    mcp_text,
    new_item,
)
from service.realtime.continuity.open_responses import NewEventId, Output
from service.realtime.continuity.tool_lists import ToolLists
from service.realtime.events import parse_object
from service.realtime.values import child, finite_number

_NO_TRANSCRIPT_SECONDS: Final = 30.0  # later than that none comes
_MCP_CALL_SECONDS: Final = 120.0  # later than that no end of a call comes
_MAX_OPEN_CALLS: Final = 64  # that are kept beyond the limit on items
_OUTPUT_TYPES: Final = kept.MCP_CALL_TYPES | {"function_call", "mcp_list_tools", "mcp_approval_request"}


def lost_approval(request_id: str, event_id: object = None) -> dict[str, object]:
    """Return the error of an answer to a request for approval that is lost."""
    return {
        "type": "invalid_request_error",
        "code": "invalid_value",
        "message": f"The request for approval '{request_id}' was lost with a connection to the provider.",
        "param": "item.approval_request_id",
        "event_id": event_id,
    }


class McpCall(NamedTuple):
    """A call that an MCP server runs for upstream."""

    output_index: int
    since: float
    has_ended: bool = False  # but its item, which shows the result, is not done


class Conversation:
    """See the head of this file. Times are those at which the events passed."""

    def __init__(self, journal: Journal, answers: Answers, items: Items) -> None:
        self._journal = journal
        self._answers = answers
        self._requested_after: object = None  # where the client wanted the item that is being added
        self.items = items
        self.calls: dict[str, float] = {}  # function calls without output, and since when
        self.approvals: set[str] = set()  # requests that the client has not answered
        self.granted: dict[str, float] = {}  # that it has, of calls that have not begun, and since when
        self.tool_lists = ToolLists()  # that the client has been sent
        self.mcp_calls: dict[str, McpCall] = {}  # that run, often after their response
        self.untranscribed: dict[str, float] = {}  # turns whose transcript is due, and since when
        self.cut_transcripts: dict[str, float] = {}  # of these, that the client waits for since a swap, and until when

    @property
    def awaits_mcp(self) -> bool:
        """Whether a call of an MCP server runs, is about to begin, or waits for its approval."""
        return bool(self.approvals or self.granted or self.mcp_calls)

    # -- limits -------------------------------------------------------------------------------------------------------

    def trim(self, now: float) -> list[Item]:
        """Await no transcript that is long overdue, and drop the items beyond the limit; returns those."""
        for item_id in [
            item_id for item_id, since in self.untranscribed.items() if since < now - _NO_TRANSCRIPT_SECONDS
        ]:
            self._no_transcript(item_id)
        for item_id in [key for key, call in self.mcp_calls.items() if call.since < now - _MCP_CALL_SECONDS]:
            del self.mcp_calls[item_id]
        for item_id in [key for key, since in self.granted.items() if since < now - _MCP_CALL_SECONDS]:
            del self.granted[item_id]
        gone = self.items.limit(self.calls if len(self.calls) < _MAX_OPEN_CALLS else ())
        for item in gone:
            self._forget(item)
        return gone

    def _no_transcript(self, item_id: str) -> None:
        """Wait no longer for a transcript: the turn is created as audio."""
        self.untranscribed.pop(item_id, None)
        item = self.items.get(item_id)
        if item is not None:
            item.awaits_transcript = False
            self.items.changed(item)

    def _forget(self, item: Item) -> None:
        """Forget what is known of an item that is gone."""
        self._journal.forget(item.item_id)
        self.mcp_calls.pop(item.item_id, None)
        self.approvals.discard(item.item_id)
        self.untranscribed.pop(item.item_id, None)
        if item.kind is Kind.CALL:
            self.calls.pop(item.call_id, None)

    # -- events of items ----------------------------------------------------------------------------------------------

    def added(self, _: bytes, body: Mapping[str, Any], now: float) -> None:
        """Take up `conversation.item.added`, of an item that is new or was committed."""
        source = child(body, "item")
        item_id = text(source.get("id"))
        if not item_id:
            return
        known = self.items.get(item_id)
        if known is not None:
            known.is_announced = True
            self.complete(known, source, now, is_done=False)
            return
        item = new_item(source, self._own_item(source))
        output = self._answers.output(item_id)
        if output is not None:
            output.in_conversation = True
        after = body.get("previous_item_id")
        if after is None:  # first, or upstream does not say where
            after = self._requested_after
        self.items.insert(item, after if isinstance(after, str) else None)
        self.tool_lists.added(source)
        self._note_call(item, source, now)

    def created(self, payload: bytes, body: Mapping[str, Any], now: float) -> None:
        """Take up the only event of an item that some compatible servers send, as the beta did."""
        self.added(payload, body, now)
        item = self.items.get(text(child(body, "item").get("id")))
        if item is not None:
            item.is_announced_done = True

    def own_create(self, source: Mapping[str, Any]) -> Entry | None:
        """The client's create that an item which upstream adds answers; None if upstream made it."""
        item_id = text(source.get("id"))
        entry = self._journal.first(kept.ITEM_CREATE, item_id)
        if entry is None and self._answers.output(item_id) is None and text(source.get("type")) not in _OUTPUT_TYPES:
            entry = self._journal.first(kept.ITEM_CREATE, "")
        return entry

    def _own_item(self, source: Mapping[str, Any]) -> Mapping[str, Any]:
        """The item of that create; empty if upstream made it."""
        self._requested_after = None
        entry = self.own_create(source)
        if entry is None:
            return {}
        self._journal.resolve(entry)
        body = body_of(entry.raw, masked=True)
        self._requested_after = after = body.get("previous_item_id")
        behind = self.items.get(after) if isinstance(after, str) else None
        if isinstance(after, str) and (behind is None or behind.fate is Fate.ABSENT):
            self._requested_after = ROOT  # upstream lacks that one: the relay had it created after one before, or first
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
            self.approvals.discard(request_id := text(source.get("approval_request_id")))
            if source.get("approve") is True:
                self.granted[request_id] = now
        elif text(kind) in kept.MCP_CALL_TYPES:
            self.granted.pop(text(source.get("approval_request_id")), None)
            self.mcp_calls.setdefault(item.item_id, McpCall(0, now))

    def done(self, _: bytes, body: Mapping[str, Any], now: float) -> None:
        """Take up `conversation.item.done`."""
        source = child(body, "item")
        item = self.items.get(text(source.get("id")))
        self.tool_lists.goes_on(kept.ITEM_DONE, body)
        if item is not None:
            item.is_announced_done = True
            self.complete(item, source, now, is_done=True)

    def complete(self, item: Item, source: Mapping[str, Any], now: float, *, is_done: bool) -> None:
        """Take over what upstream says of an item that is known. What the client created stays as it created it."""
        size = item.size
        if item.kind is Kind.ANSWER:
            item.text = content_text(source) or item.text
            item.is_spoken = item.is_spoken or has_audio(source)
        elif item.kind is Kind.USER_SPEECH:
            item.text = item.text or content_text(source)
        elif item.kind is Kind.CALL and not item.is_done and is_done and source.get("status") != "incomplete":
            item.payload = call_payload(source)
            self.calls[item.call_id] = now
        elif text(source.get("type")) in kept.MCP_CALL_TYPES and is_done:
            if source.get("output") is not None or source.get("error") is not None:
                self.mcp_calls.pop(item.item_id, None)
            item.payload = mcp_text(source)
            item.kind = Kind.COPY if item.payload else Kind.UNKNOWN
        if item.kind is Kind.CALL and not item.is_done and is_done and source.get("status") == "incomplete":
            item.kind = Kind.UNKNOWN  # it never gets its arguments
        item.is_done = item.is_done or is_done
        self.items.changed(item, size)

    def mcp_call_ended(self, _: bytes, body: Mapping[str, Any], __: float) -> None:
        """Take up `response.mcp_call.completed` or `.failed`."""
        call = self.mcp_calls.pop(item_id := text(body.get("item_id")), None)
        item = self.items.get(item_id)
        if call is not None and item is not None and not item.is_announced_done:
            self.mcp_calls[item_id] = call._replace(has_ended=True)

    def listed(self, _: bytes, body: Mapping[str, Any], __: float) -> None:
        """Take up `mcp_list_tools.completed` or `.failed`."""
        self.tool_lists.goes_on(kept.MCP_LISTED, body)

    def deleted(self, _: bytes, body: Mapping[str, Any], __: float) -> None:
        """Take up `conversation.item.deleted`."""
        item_id = text(body.get("item_id"))
        self._acknowledge(kept.ITEM_DELETE, item_id)
        self.remove(item_id)

    def remove(self, item_id: str) -> None:
        """Forget an item that is deleted."""
        self.items.forget_dropped(item_id)
        item = self.items.remove(item_id)
        if item is not None:
            self._forget(item)

    def truncated(self, _: bytes, body: Mapping[str, Any], now: float) -> None:
        """Take up `conversation.item.truncated`."""
        item_id = text(body.get("item_id"))
        self._acknowledge(kept.ITEM_TRUNCATE, item_id)
        self.truncate(item_id, finite_number(body.get("audio_end_ms")) or 0.0, now)

    def truncate(self, item_id: str, end_ms: float, now: float) -> Item | None:
        """Note how much of an answer was heard."""
        item = self.items.get(item_id)
        if item is not None:
            size, output = item.size, self._answers.output(item_id)
            if output is not None and not item.is_done:  # upstream deletes the transcript, and does not show it later
                item.text, item.audio_ms = self._answers.text_of(output), output.audio_ms
            item.cut_ms = end_ms if item.cut_ms is None else min(item.cut_ms, end_ms)
            self.items.changed(item, size)
        self._answers.stop_playing(now)
        return item

    def retrieved(self, *_: object) -> None:
        """Take up `conversation.item.retrieved`, of which the item is not kept; upstream answers in order."""
        self._acknowledge(kept.ITEM_RETRIEVE)

    def _acknowledge(self, kind: str, item_id: str | None = None) -> None:
        entry = self._journal.first(kind, item_id)
        if entry is not None:
            self._journal.resolve(entry)

    # -- turns of the user --------------------------------------------------------------------------------------------

    def committed(self, item_id: str, after: str | None, now: float, *, awaits_transcript: bool) -> None:
        """Insert the item of a turn, unless it is known."""
        if self.items.get(item_id) is not None:
            return
        item = Item(item_id, Kind.USER_SPEECH, is_spoken=True, is_done=True, is_announced=False)
        item.awaits_transcript = item.is_transcript_due = awaits_transcript
        if awaits_transcript:
            self.untranscribed[item_id] = now
        self.items.insert(item, after)

    def partly_transcribed(self, payload: bytes) -> None:
        """Take up a part of a transcript."""
        item_id = text(parse_object(payload).get("item_id"))
        for known in (self.items.get(item_id), self._journal.turns.get(item_id)):
            if known is not None:
                known.is_partly_transcribed = True

    def transcribed(self, item_id: str, words: str) -> None:
        """Note the transcript of a turn, empty if there is none."""
        self.untranscribed.pop(item_id, None)
        item = self.items.get(item_id)
        if item is not None:
            size = item.size
            item.text, item.awaits_transcript, item.is_transcribed = words or item.text, False, True
            self.items.changed(item, size)

    # -- upstream is lost ---------------------------------------------------------------------------------------------

    def announcements(self, new_id: NewEventId) -> Iterator[bytes]:
        """What the client has not been sent of items that upstream has acknowledged, answers aside."""
        for item in self.items:
            is_unknown = item.kind is Kind.UNKNOWN and not item.payload  # what upstream began by itself
            if item.is_announced_done or is_unknown or self._answers.output(item.item_id) is not None:
                continue
            body, before = item.body(), self.items.before(item.item_id)
            fields = {"previous_item_id": None if before == ROOT else before, "item": body}
            if not item.is_announced:
                yield dumps({"type": kept.ITEM_ADDED, "event_id": new_id(), **fields})
            if item.is_done:
                yield dumps({"type": kept.ITEM_DONE, "event_id": new_id(), **fields})
            item.is_announced = item.is_announced_done = True

    def end_mcp(self, new_id: NewEventId) -> Iterator[bytes]:
        """End for the client the MCP calls that run, or may begin: another upstream knows neither them nor an approval."""
        for item_id, call in self.mcp_calls.items():
            if call.has_ended:
                continue
            place = {"output_index": call.output_index, "item_id": item_id}
            yield dumps({"type": kept.MCP_NOT_CALLED, "event_id": new_id()} | place)
        for request_id in self.granted:
            yield dumps({"type": kept.ERROR, "event_id": new_id(), "error": lost_approval(request_id)})
        self.mcp_calls.clear()
        self.approvals.clear()
        self.granted.clear()

    def end_output(self, output: Output) -> None:
        """Note that an item of an answer ends as far as it has arrived."""
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
