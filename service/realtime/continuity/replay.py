"""Brings a new upstream to the state of the mirror: its configuration, then its items. Pure.

`take` returns what to send, `received` gets every event of the new upstream until it takes over; none of them reaches the
client before, and later only those in `for_client`. While the old upstream goes on, `take` adds what the mirror has gained.
Items are created in order, each without `previous_item_id` where it is the last: in a chain, one refusal would be many.
"""

import base64
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from service.realtime.continuity import kept
from service.realtime.continuity.kept import dumps, payload_of, text
from service.realtime.continuity.mirror import Mirror
from service.realtime.continuity.mirror_items import Item, Kind, message, speech, with_id
from service.realtime.continuity.session_form import differing_keys
from service.realtime.continuity.tool_lists import LIST_TYPES, ToolLists
from service.realtime.events import parse_object
from service.realtime.values import child

EVENT_ID_PREFIX: Final = "relay_replay_"
REPLAY_TYPES: Final = (
    LIST_TYPES
    | kept.TRANSCRIPTION_TYPES
    | {
        kept.SESSION_UPDATED,
        kept.ITEM_ADDED,
        kept.ITEM_CREATED,
        kept.ITEM_DELETED,
        kept.ERROR,
    }
)
"""The types of upstream that `Replay.received` evaluates."""
_MAX_UNACKNOWLEDGED: Final = 200
_MAX_TAKEN: Final = 100  # items of one call of `take`: about 2 ms
_FEW_REFUSED: Final = 2  # do not fail a preparation


class ReplayFault(StrEnum):
    """Why a new upstream cannot take over."""

    UPDATE_REFUSED = "update_refused"
    UPDATE_UNEQUAL = "update_unequal"
    ITEMS_REFUSED = "items_refused"


class Replay:
    """One new upstream. `is_tolerant`: after a loss, a call with a difference is better than none, and only counted."""

    def __init__(self, mirror: Mirror, created: bytes, *, is_tolerant: bool = False) -> None:
        self._mirror = mirror
        self._session: Mapping[str, Any] = child(parse_object(created), "session")  # of the new upstream
        self._created = created
        self.is_tolerant = is_tolerant
        self._fault: ReplayFault | None = None
        self._fallback: ReplayFault | None = None  # why the client's own updates are to be sent
        self._number = 0
        self._update_id = ""  # of the update that is not acknowledged
        self._own_tried = False
        self._configured_revision = -1
        self._seen_revision = -1  # of the items, when all of them were sent
        self._present: dict[str, int] = {}  # items that were created, and their revision then
        self._texts: dict[str, str] = {}  # of answers, as they were created
        self._calls: set[str] = set()
        self._pending: dict[str, tuple[str, str]] = {}  # event id: type of the acknowledgement, item id
        self.tool_lists = ToolLists()
        self.awaits_lists = True
        self.created_as_audio: set[str] = set()
        self.partly_transcribed: set[str] = set()  # of these
        self._transcribed_items: set[str] = set()
        self.for_client: list[tuple[str, bytes]] = []
        """Types and frames of events that may be the client's: they are read like others once upstream has taken over."""
        self.omitted: dict[str, str] = {}  # items that are not created, and why
        self.differing: tuple[str, ...] = ()
        self.sent_items = self.sent_bytes = 0
        self.refused: dict[str, str] = {}  # items, and the code of the error
        self._refused_revisions: dict[str, int] = {}

    # -- state --------------------------------------------------------------------------------------------------------

    @property
    def fault(self) -> ReplayFault | None:
        """Why this upstream cannot take over, or None."""
        if self._fault is ReplayFault.UPDATE_REFUSED or (self._fault and not self.is_tolerant):
            return self._fault
        if not self.is_tolerant and len(self.refused) > max(_FEW_REFUSED, self.sent_items / 10):
            return ReplayFault.ITEMS_REFUSED
        return None

    @property
    def is_configured(self) -> bool:
        """Whether the configuration is accepted."""
        is_answered = not self._update_id and self._fallback is None
        return is_answered and self._configured_revision == self._mirror.session.revision

    @property
    def is_ready(self) -> bool:
        """Whether all that was taken is acknowledged, and the model has the tools of all MCP servers.

        Their lists are not awaited if `awaits_lists` is set to False.
        """
        is_answered = not self._update_id and self._fallback is None
        if self.awaits_lists and not self.tool_lists.have(self._mirror.session.mcp_servers):
            return False
        return self._configured_revision >= 0 and is_answered and not self._pending

    @property
    def is_done(self) -> bool:
        """Whether it is in sync with the mirror since the last final `take`, and all is acknowledged."""
        return self.is_ready and self.is_configured and self._seen_revision == self._mirror.items.revision

    @property
    def created(self) -> bytes:
        """The payload of the new upstream's first session event."""
        return self._created

    @property
    def session(self) -> Mapping[str, Any]:
        """The effective session of the new upstream."""
        return self._session

    def has(self, item_id: str) -> bool:
        """Whether the new upstream has an item."""
        return item_id in self._present

    # -- what to send -------------------------------------------------------------------------------------------------

    def take(self, *, is_final: bool, max_bytes: int = 262_144) -> list[bytes]:
        """Return the next payloads to send; none while acknowledgements are missing, or if all was sent.

        `is_final`: include items that may still change, such as the user's speech whose transcript is due.
        """
        if self._fallback is not None and (update := self._own_update()):
            return [update]
        if self._update_id or self.fault is not None:
            return []
        if self._configured_revision != self._mirror.session.revision:
            update = self._mirror.session.update(self._session, self._next_id())
            self._configured_revision = self._mirror.session.revision
            if update:
                self._update_id = self._last_id
                self.sent_bytes += len(update)
                return [update]
        return self._take_items(is_final=is_final, max_bytes=max_bytes)

    def _own_update(self) -> bytes:
        """The client's own updates instead of the difference, once; else the fault stays."""
        fault, self._fallback = self._fallback, None
        update = b"" if self._own_tried else self._mirror.session.own_update(self._next_id())
        if not update:
            self._fault = fault
            return b""
        self._own_tried, self._update_id = True, self._last_id
        self.sent_bytes += len(update)
        return update

    def _take_items(self, *, is_final: bool, max_bytes: int) -> list[bytes]:
        items = self._mirror.items
        if self._seen_revision == items.revision or self._mirror.is_transcription:
            self._seen_revision = items.revision
            return []
        payloads = [self._delete(item_id) for item_id in [*self._present] if items.get(item_id) is None]
        order = list(items)
        last = max((index for index, item in enumerate(order) if item.item_id in self._present), default=-1)
        size, before, is_whole = 0, "root", True
        for index, item in enumerate(order):
            if not is_final and not item.is_settled:
                is_whole = False
                break
            if len(payloads) >= _MAX_TAKEN or size > max_bytes or len(self._pending) >= _MAX_UNACKNOWLEDGED:
                is_whole = False
                break
            created = self._step(item, before if index < last else None)
            payloads += created
            size += sum(map(len, created))
            if item.item_id in self._present:
                before = item.item_id
        if is_whole:
            self._seen_revision = items.revision
        self.sent_bytes += sum(map(len, payloads))
        return payloads

    def _step(self, item: Item, after: str | None) -> list[bytes]:
        """What brings one item in sync: nothing, a create, or for a text that was cut since, a delete and a create."""
        seen = self._present.get(item.item_id)
        if seen == item.revision:
            return []
        if seen is None:  # what is refused is not created again as it is, while an item after it may still change
            is_refused = self._refused_revisions.get(item.item_id) == item.revision
            return [] if is_refused else self._create(item, after)
        self._present[item.item_id] = item.revision
        if item.kind is not Kind.ANSWER or self._texts.get(item.item_id) == item.shown_text:
            return []
        return [self._delete(item.item_id), *self._create(item, after or self._before(item))]

    def _before(self, item: Item) -> str:
        """The last created item before another one; "root" if there is none."""
        found = "root"
        for earlier in self._mirror.items:
            if earlier is item:
                break
            if earlier.item_id in self._present:
                found = earlier.item_id
        return found

    def _create(self, item: Item, after: str | None) -> list[bytes]:
        form = self._form(item)
        if not form:
            return []
        self._present[item.item_id] = item.revision
        event: dict[str, object] = {"type": kept.ITEM_CREATE, "event_id": self._next_id()}
        if after is not None:
            event["previous_item_id"] = after
        self._pending[self._last_id] = (kept.ITEM_DONE, item.item_id)
        self.sent_items += 1
        return [dumps(event)[:-1] + b',"item":' + with_id(form, item.item_id) + b"}"]

    def _delete(self, item_id: str) -> bytes:
        self._present.pop(item_id)
        self._pending[event_id := self._next_id()] = (kept.ITEM_DELETED, item_id)
        return dumps({"type": kept.ITEM_DELETE, "event_id": event_id, "item_id": item_id})

    def _form(self, item: Item) -> bytes:
        """The JSON that creates an item, without its id; empty if it cannot be created."""
        form, why = self._form_of(item)
        if form:
            self.omitted.pop(item.item_id, None)
        else:
            self.omitted[item.item_id] = why
        return form

    def _form_of(self, item: Item) -> tuple[bytes, str]:
        match item.kind:
            case Kind.USER_SPEECH:
                return self._speech_of(item)
            case Kind.ANSWER:
                words = self._texts[item.item_id] = item.shown_text
                if not words.strip():
                    return b"", "empty"
                return message("assistant", "output_text", words), ""
            case Kind.CALL if item.is_done:
                self._calls.add(item.call_id)
                return item.payload, ""
            case Kind.COPY if not item.call_id or item.call_id in self._calls:
                if item.is_spoken:
                    self.created_as_audio.add(item.item_id)
                return item.payload, ""
            case Kind.COPY:
                return b"", "no_call"
        return b"", "unsupported"

    def _speech_of(self, item: Item) -> tuple[bytes, str]:
        if item.text.strip():
            return message("user", "input_text", item.text), ""
        turn = self._mirror.journal.turns.get(item.item_id)
        if turn is None:
            return b"", "no_transcript"
        if turn.is_over_limit:
            return b"", "audio_over_limit"
        if turn.form != self._mirror.journal.form:
            return b"", "format_changed"
        audio = turn.audio()
        if not audio:
            return b"", "no_transcript"
        self.created_as_audio.add(item.item_id)
        return speech(base64.b64encode(audio).decode()), ""

    def _next_id(self) -> str:
        self._number += 1
        return self._last_id

    @property
    def _last_id(self) -> str:
        return f"{EVENT_ID_PREFIX}{self._number}"

    # -- what comes back ----------------------------------------------------------------------------------------------

    def received(self, event_type: str, raw: bytes) -> None:
        """Evaluate an event of the new upstream."""
        if event_type not in REPLAY_TYPES:
            return
        body = parse_object(payload_of(raw, masked=False))
        if event_type == kept.SESSION_UPDATED:
            self._updated(child(body, "session"))
        elif event_type == kept.ERROR:
            error = child(body, "error")
            self._refused(text(error.get("event_id")), text(error.get("code")))
        elif event_type in kept.TRANSCRIPTION_TYPES:
            self._transcribed(event_type, raw, text(body.get("item_id")))
        elif self._is_of_list(event_type, body):
            self._listed(event_type, raw, body)
        elif event_type != kept.ITEM_ADDED:
            is_deleted = event_type == kept.ITEM_DELETED
            item_id = text(body.get("item_id")) if is_deleted else text(child(body, "item").get("id"))
            wanted = (kept.ITEM_DELETED if is_deleted else kept.ITEM_DONE, item_id)
            for event_id, due in self._pending.items():
                if due == wanted:
                    del self._pending[event_id]
                    break

    def _transcribed(self, event_type: str, raw: bytes, item_id: str) -> None:
        """The client may wait for the transcript of a turn that upstream has as audio."""
        if event_type in kept.TRANSCRIPTION_PARTS:
            self.partly_transcribed.add(item_id)
        elif item_id in self.created_as_audio and item_id not in self._transcribed_items:
            self._transcribed_items.add(item_id)
            self.for_client.append((event_type, raw))

    def _is_of_list(self, event_type: str, body: Mapping[str, Any]) -> bool:
        if event_type == kept.ITEM_ADDED:
            return self.tool_lists.added(child(body, "item"))
        return event_type in LIST_TYPES and self.tool_lists.goes_on(event_type, body)

    def _listed(self, event_type: str, raw: bytes, body: Mapping[str, Any]) -> None:
        """The client may wait for a list of tools, or for the rest of one."""
        item_id = text(body.get("item_id")) or text(child(body, "item").get("id"))
        if not self._mirror.conversation.tool_lists.have_whole(self.tool_lists.servers[item_id]):
            self.tool_lists.keep_due(item_id, event_type)
            self.for_client.append((event_type, raw))

    def _updated(self, session: Mapping[str, Any]) -> None:
        self._session = session
        if not self._update_id:
            return
        self._update_id = ""
        if self._configured_revision != self._mirror.session.revision:
            return  # the mirror has gone on: the next update is compared
        self.differing = differing_keys(self._mirror.session.wanted, session)
        if self.differing:
            self._fallback = ReplayFault.UPDATE_UNEQUAL
        else:
            self._fault = None

    def _refused(self, event_id: str, code: str) -> None:
        if self._update_id and event_id in {self._update_id, ""}:
            self._update_id = ""
            # With a difference, the update before was accepted: that may do after a loss.
            self._fallback = ReplayFault.UPDATE_UNEQUAL if self.differing else ReplayFault.UPDATE_REFUSED
            return
        if not event_id and self._pending:
            event_id = next(iter(self._pending))  # acknowledgements come in order
        kind, item_id = self._pending.pop(event_id, ("", ""))
        if kind == kept.ITEM_DONE:
            self._refused_revisions[item_id] = self._present.pop(item_id, -1)
            self.refused[item_id] = code or "other"
