"""What a client requests of items that its current upstream lacks, or has as text. Pure.

After a replay a spoken answer is text, and some items are absent. Upstream would refuse to truncate the one and to delete
the other, so the relay answers in its place: it replaces a text by what the user has heard of it, and hides the
acknowledgements of its own events.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from service.realtime.continuity import kept
from service.realtime.continuity.conversation import lost_approval
from service.realtime.continuity.kept import body_of, dumps, text
from service.realtime.continuity.mirror import Mirror
from service.realtime.continuity.mirror_items import ROOT, Fate, Item, Kind, message
from service.realtime.continuity.reopened_turns import REOPENED_TYPES, ReopenedTurns
from service.realtime.continuity.replay import EVENT_ID_PREFIX as REPLAY_ID_PREFIX
from service.realtime.continuity.replay import Replay
from service.realtime.continuity.tool_lists import LIST_TYPES, ShownLists
from service.realtime.continuity.transcripts import Transcripts
from service.realtime.events import parse_object
from service.realtime.frames import Opcode, build_frame
from service.realtime.values import child, finite_number

INTERCEPTED_TYPES: Final = frozenset(
    {kept.ITEM_CREATE, kept.ITEM_DELETE, kept.ITEM_RETRIEVE, kept.ITEM_TRUNCATE, kept.RESPONSE_CREATE}
)
EVENT_ID_PREFIX: Final = "relay_own_"
_ACKNOWLEDGEMENTS: Final = frozenset({kept.ITEM_ADDED, kept.ITEM_CREATED, kept.ITEM_DELETED, kept.ITEM_DONE})
_LIST_TYPES: Final = LIST_TYPES | {kept.ITEM_ADDED}
_PLACED: Final = frozenset({kept.COMMITTED, kept.ITEM_ADDED, kept.ITEM_CREATED, kept.ITEM_DONE})
_MESSAGES: Final = frozenset({Kind.ANSWER, Kind.USER_SPEECH})
_MASK: Final = 0x9E3779B1  # an odd number: each frame has another key


@dataclass(frozen=True, slots=True)
class Interception:
    """What happens in place of forwarding: frames to write upstream, and payloads of events for the client."""

    to_upstream: Sequence[bytes] = ()
    to_client: Sequence[bytes] = ()


class OwnEvents:
    """Numbers the relay's own events and frames them. `masked_frame` is a message as a client sends it."""

    def __init__(self) -> None:
        self._number = 0

    def new_id(self) -> str:
        """Return the id of an event for the client."""
        self._number += 1
        return f"event_relay{self._number:016d}"

    def new_upstream_id(self) -> str:
        """Return the id of an event for upstream."""
        self._number += 1
        return f"{EVENT_ID_PREFIX}{self._number}"

    def masked_frame(self, payload: bytes) -> bytes:
        """Return an event as one frame."""
        self._number += 1
        return build_frame(Opcode.TEXT, payload, (self._number * _MASK & 0xFFFFFFFF).to_bytes(4, "big"))


class Interceptor:
    """Answers for an upstream that has replaced another."""

    def __init__(self, mirror: Mirror, own: OwnEvents, replay: Replay, now: float) -> None:
        self._mirror = mirror
        self._own = own
        self._due: dict[str, list[tuple[str, str]]] = {}  # by the id of our event: types and items of acknowledgements
        self._gone = set(mirror.items.dropped)  # ids of items that the mirror dropped, and upstream lacks
        self._tool_lists = replay.tool_lists  # that upstream began before it took over
        self._shown_lists = ShownLists()
        self._shown_lists.adopt(replay.tool_lists, mirror.conversation.tool_lists)
        self.transcripts = Transcripts(mirror)
        self.transcripts.adopt(replay.created_as_audio, replay.partly_transcribed, now)
        self.reopened_turns = ReopenedTurns(mirror.items)
        for item in mirror.items:
            if not replay.has(item.item_id):
                item.fate = Fate.ABSENT
            else:
                item.fate = Fate.TEXT if item.kind is Kind.ANSWER and item.is_spoken else Fate.SAME
        self._lacks_items = any(item.fate is Fate.ABSENT for item in mirror.items)  # upstream, of what the client knows

    # -- events of the client -----------------------------------------------------------------------------------------

    def intercept(self, event_type: str, raw: bytes, now: float) -> Interception | bytes | None:
        """Return what happens instead of forwarding, or the event as upstream can process it; None: nothing is changed."""
        if event_type not in INTERCEPTED_TYPES:
            return None
        body = body_of(raw, masked=True)
        if event_type == kept.ITEM_CREATE:
            return self._create(body)
        if event_type == kept.RESPONSE_CREATE:
            return self._request(body)
        item_id = text(body.get("item_id"))
        item = self._mirror.items.get(item_id)
        if event_type == kept.ITEM_DELETE:
            return self._delete(item_id)
        if event_type == kept.ITEM_RETRIEVE:
            return self._retrieve(item_id, body)
        is_deleted = self._mirror.journal.first(kept.ITEM_DELETE, item_id) is not None  # by then: upstream refuses it
        if is_deleted or not (self._is_absent(item_id) or (item is not None and item.fate is Fate.TEXT)):
            return None
        return self._truncate(item, body, now)

    def _is_absent(self, item_id: str, *, or_unknown: bool = False) -> bool:
        """Whether the client knows an item that upstream lacks."""
        item = self._mirror.items.get(item_id)
        return item.fate is Fate.ABSENT if item is not None else or_unknown or item_id in self._gone

    def _create(self, body: Mapping[str, Any]) -> Interception | bytes | None:
        item_id = text(child(body, "item").get("id"))
        if item_id and self._is_absent(item_id):
            message = f"Error adding item: an item with id '{item_id}' already exists."
            return self._refuse(body, "item_create_duplicate_item_id", message)
        request_id = text(child(body, "item").get("approval_request_id"))
        if request_id and self._is_absent(request_id):
            error = lost_approval(request_id, body.get("event_id"))
            return Interception(to_client=[self._answer(kept.ERROR, error=error)])
        after = body.get("previous_item_id")
        if not isinstance(after, str):
            return None
        item = self._mirror.items.get(after)
        if item is not None and item.fate is Fate.ABSENT:
            before = self._before(after)
        elif item is None and after in self._gone:
            before = self._mirror.items.place_of(after)
            if self._is_absent(before):
                before = self._before(before)
        else:
            return None
        return self._own.masked_frame(dumps({**body, "previous_item_id": before}))

    def _refuse(self, body: Mapping[str, Any], code: str, message: str, param: str | None = None) -> Interception:
        """Answer an event of the client as upstream would, but for the reason."""
        error = {
            "type": "invalid_request_error",
            "code": code,
            "message": message,
            "param": param,
            "event_id": body.get("event_id"),
        }
        return Interception(to_client=[self._answer(kept.ERROR, error=error)])

    def request_again(self, raw: bytes) -> bytes:
        """Return the frames of a request for an answer that was cut, without references to items that are deleted since."""
        return self._request(body_of(raw, masked=True), is_again=True) or raw

    def _request(self, body: Mapping[str, Any], *, is_again: bool = False) -> bytes | None:
        """Leave out references to items that upstream lacks: it would refuse the whole request."""
        response = child(body, "response")
        source = response.get("input")
        parts = source if isinstance(source, list) else []
        references = [part for part in parts if isinstance(part, Mapping) and part.get("type") == "item_reference"]
        lacking = {
            item_id for part in references if self._is_absent(item_id := text(part.get("id")), or_unknown=is_again)
        }
        known = [part for part in parts if part not in references or text(part.get("id")) not in lacking]
        if len(known) == len(parts):
            return None
        return self._own.masked_frame(dumps({**body, "response": {**response, "input": known}}))

    def _retrieve(self, item_id: str, body: Mapping[str, Any]) -> Interception | None:
        """Show an item that upstream lacks, such as an answer of which nothing was heard, or state why it is lost."""
        if not self._is_absent(item_id):
            return None
        item = self._mirror.items.get(item_id)
        if item is not None and (item.payload or item.kind in _MESSAGES):
            status = {"status": "incomplete"} if item.kind is Kind.UNKNOWN else {}  # a call without its arguments
            return Interception(to_client=[self._answer(kept.ITEM_RETRIEVED, item=item.body() | status)])
        why = (
            "the conversation exceeds what the relay keeps of it (items_over_limit)"
            if item is None
            else "items of this type are not restored (unsupported)"
        )
        message = f"Error retrieving item: the connection to the provider was replaced, and '{item_id}' is lost: {why}."
        return self._refuse(body, "item_retrieve_invalid_item_id", message, "item_id")

    def _delete(self, item_id: str) -> Interception | None:
        if not self._is_absent(item_id):
            return None
        self._place_before(item_id)
        self._mirror.conversation.remove(item_id)
        self._gone.discard(item_id)
        return Interception(to_client=[self._answer(kept.ITEM_DELETED, item_id=item_id)])

    def _place_before(self, item_id: str) -> None:
        """Have what the client has put after an item put after the one before it: the deletion is done before that."""
        items, journal = self._mirror.items, self._mirror.journal
        before = items.before(item_id) if items.get(item_id) is not None else items.place_of(item_id)
        for entry in journal.events:
            body = body_of(entry.raw, masked=True) if entry.kind == kept.ITEM_CREATE else {}
            if body.get("previous_item_id") == item_id:
                journal.replace(entry, self._own.masked_frame(dumps({**body, "previous_item_id": before})))

    def _truncate(self, item: Item | None, body: Mapping[str, Any], now: float) -> Interception:
        """`item`: None if it exceeded a limit, so that nothing of it is left to be cut."""
        item_id, end_ms = text(body.get("item_id")), finite_number(body.get("audio_end_ms")) or 0.0
        heard_before = item.shown_text if item is not None else ""
        self._mirror.conversation.truncate(item_id, end_ms, now)
        place = {"content_index": body.get("content_index", 0), "audio_end_ms": body.get("audio_end_ms", 0)}
        answer = self._answer(kept.ITEM_TRUNCATED, item_id=item_id, **place)
        words = item.shown_text if item is not None else ""
        if item is None or item.fate is Fate.ABSENT or words == heard_before:
            return Interception(to_client=[answer])
        frames = [self._send(kept.ITEM_DELETE, {"item_id": item.item_id}, [(kept.ITEM_DELETED, item.item_id)])]
        if words.strip():
            frames.append(self._send_text(item, words))
        else:
            item.fate, self._lacks_items = Fate.ABSENT, True
        return Interception(frames, [answer])

    def _send_text(self, item: Item, words: str) -> bytes:
        before = self._before(item.item_id)
        form = {"id": item.item_id, **parse_object(message("assistant", "output_text", words))}
        due = [(kept.ITEM_ADDED, item.item_id), (kept.ITEM_DONE, item.item_id)]
        return self._send(kept.ITEM_CREATE, {"previous_item_id": before, "item": form}, due)

    def _before(self, item_id: str) -> str:
        """The item before another one, of those that upstream has and will have when it processes what is sent now."""
        lacking = {entry.item_id for entry in self._mirror.journal.events if entry.kind == kept.ITEM_DELETE}
        return self._mirror.items.before(item_id, lacking)

    def _send(self, kind: str, fields: Mapping[str, Any], due: list[tuple[str, str]]) -> bytes:
        event_id = self._own.new_upstream_id()
        self._due[event_id] = due
        return self._own.masked_frame(dumps({"type": kind, "event_id": event_id, **fields}))

    def _answer(self, kind: str, **fields: object) -> bytes:
        return dumps({"type": kind, "event_id": self._own.new_id(), **fields})

    # -- events of upstream -------------------------------------------------------------------------------------------

    def may_misplace(self, event_type: str) -> bool:
        """Whether upstream may name another item before than the client knows, or none."""
        if event_type in REOPENED_TYPES and self.reopened_turns.are_any:
            return True
        if event_type in LIST_TYPES and self._tool_lists.are_any:
            return True
        return event_type in _PLACED and (self._lacks_items or self._tool_lists.are_any or bool(self._due))

    @property
    def swallows(self) -> bool:
        """Whether an event of upstream may have to be hidden."""
        if self._due or self.transcripts.are_any_due or self._shown_lists.are_open or self.reopened_turns.are_open:
            return True
        return any(entry.event_id.startswith(EVENT_ID_PREFIX) for entry in self._mirror.journal.events)

    def swallow(self, event_type: str, raw: bytes) -> bool:
        """Whether the client is not sent an event of upstream.

        It answers one of the relay's own, repeats a transcript, or goes on with what upstream began before the switch.
        """
        if self._shown_lists.are_open and event_type in _LIST_TYPES:
            is_hidden = self._shown_lists.hides(event_type, body_of(raw, masked=False))
            if is_hidden is not None:
                return is_hidden
        if event_type in kept.TRANSCRIPTION_TYPES:
            return self.transcripts.are_any_due and self.transcripts.hides(event_type, body_of(raw, masked=False))
        if event_type != kept.ERROR and (event_type not in _ACKNOWLEDGEMENTS or not self._due):
            return False
        body = body_of(raw, masked=False)
        if event_type == kept.ERROR:
            return self._is_own_error(text(child(body, "error").get("event_id")))
        if event_type == kept.ITEM_CREATED:  # the only acknowledgement of some servers
            is_ours = self._take_due(kept.ITEM_ADDED, text(child(body, "item").get("id")))
            return is_ours and self._take_due(kept.ITEM_DONE, text(child(body, "item").get("id")))
        return self._take_due(event_type, text(body.get("item_id")) or text(child(body, "item").get("id")))

    def placed(self, event_type: str, raw: bytes) -> bytes | None:
        """Return the payload of an event with an item before that the client knows; None: it has one.

        What is appended is after the last item for the client. Upstream names another, or none, where it has begun a list
        that the client never saw, or lacks the last items: for good, or because the relay is replacing one.
        """
        body = body_of(raw, masked=False)
        renamed = self._shown_lists.renamed(body) if event_type in LIST_TYPES else None
        renamed = renamed or self.reopened_turns.renamed(body)
        if renamed is not None or event_type not in _PLACED:
            return dumps(renamed) if renamed is not None else None
        source, before = child(body, "item"), body.get("previous_item_id")
        item_id = text(source.get("id")) or text(body.get("item_id"))
        if self._mirror.items.get(item_id) is not None:
            known = self._mirror.items.before(item_id)
            if before is None and event_type == kept.ITEM_DONE:  # some servers never name it here
                return None
        elif self._is_appended(event_type, source) and self._is_last(before):
            known = self._mirror.items.last_id
        else:
            return None
        place = None if known == ROOT else known
        return None if place == before else dumps({**body, "previous_item_id": place})

    def _is_appended(self, event_type: str, source: Mapping[str, Any]) -> bool:
        """Whether a new item is after all others: what upstream makes is, and what the client gives no place."""
        create = None if event_type == kept.COMMITTED else self._mirror.conversation.own_create(source)
        return create is None or not isinstance(body_of(create.raw, masked=True).get("previous_item_id"), str)

    def _is_last(self, before: object) -> bool:
        """Whether upstream has nothing that the client knows after the item that it names, or nothing at all."""
        if self._tool_lists.has(text(before)):
            return True
        replaced = {item_id for due in self._due.values() for _, item_id in due}
        for item in reversed(self._mirror.items):
            if item.item_id == before:
                return True
            if item.fate is not Fate.ABSENT and item.item_id not in replaced:
                return False
        return before is None

    def _is_own_error(self, event_id: str) -> bool:
        """An item that is created anew may be refused late, as an image that is checked after its acknowledgement."""
        if not event_id.startswith((EVENT_ID_PREFIX, REPLAY_ID_PREFIX)):
            return False
        for kind, item_id in self._due.pop(event_id, ()):
            item = self._mirror.items.get(item_id)
            if kind == kept.ITEM_ADDED and item is not None:
                item.fate, self._lacks_items = Fate.ABSENT, True
        self._mirror.journal.refused(event_id, "", "")
        return True

    def _take_due(self, event_type: str, item_id: str) -> bool:
        for event_id, due in self._due.items():
            if (event_type, item_id) in due:
                due.remove((event_type, item_id))
                if not due:
                    del self._due[event_id]
                return True
        return False

    def hides_late(self, event_type: str, raw: bytes) -> bool:
        """Whether the client is not sent an event of an upstream before: it is sent transcripts of items that it knows."""
        return self.transcripts.hides_late(event_type, body_of(raw, masked=False), self._gone)
