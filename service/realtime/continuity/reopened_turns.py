"""The turns of a transcription session that the next upstream hears again, so that their transcripts come. Pure.

For upstream they are other items. The client knows each by the id that the upstream before gave it, and waits for its
transcript under that id: what is about them is renamed, and hidden where the client has had it.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from service.realtime.continuity import kept
from service.realtime.continuity.kept import body_of, dumps, text
from service.realtime.continuity.mirror_items import Items
from service.realtime.frames import Opcode, build_frame
from service.realtime.values import child, finite_number

_ITEM_TYPES: Final = frozenset({kept.ITEM_ADDED, kept.ITEM_DONE, kept.ITEM_CREATED})
REOPENED_TYPES: Final = (
    _ITEM_TYPES | kept.TRANSCRIPTION_TYPES | {kept.SPEECH_STARTED, kept.SPEECH_STOPPED, kept.COMMITTED}
)
"""The types of events that may be about such a turn."""


class Turns(NamedTuple):
    """What is sent again: the items of the turns in order, those of which the client has parts, and how long they are."""

    item_ids: tuple[str, ...] = ()
    begun: frozenset[str] = frozenset()
    milliseconds: float = 0.0


class ReopenedTurns:
    """Those of the current upstream."""

    def __init__(self, items: Items) -> None:
        self._items = items
        self._turns = Turns()
        self._due: deque[str] = deque()  # that upstream has not committed, by the client's id
        self._untranscribed: set[str] = set()  # that it has committed, by its own id
        self._known_as: dict[str, str] = {}

    def adopt(self, turns: Turns) -> None:
        """Note what the new upstream is sent first."""
        self._turns, self._due = turns, deque(turns.item_ids)
        self._known_as, self._untranscribed = {}, set()

    @property
    def are_open(self) -> bool:
        """Whether events about them are due."""
        return bool(self._due or self._untranscribed)

    @property
    def are_any(self) -> bool:
        """Whether upstream may name one."""
        return bool(self._known_as)

    def take(self, event_type: str, raw: bytes) -> bytes | None:
        """Take up an event; returns the frame that is kept in its place if the client is not sent it, having had it."""
        if not self.are_open:
            return None
        body = body_of(raw, masked=False)
        if not self._is_hidden(event_type, body):
            return None
        return build_frame(Opcode.TEXT, dumps(self.renamed(body) or body))

    def _is_hidden(self, event_type: str, body: Mapping[str, Any]) -> bool:
        item_id = _item_of(body)
        if event_type == kept.SPEECH_STARTED:
            return self._begins(item_id, finite_number(body.get("audio_start_ms")))
        if event_type == kept.COMMITTED and self._due:
            self._known_as.setdefault(item_id, self._due.popleft())
            self._untranscribed.add(item_id)
            return True
        known_as = self._known_as.get(item_id)
        if known_as is None or event_type == kept.SPEECH_STOPPED:
            return known_as is not None
        if event_type in _ITEM_TYPES:
            item = self._items.get(known_as)
            is_done = event_type == kept.ITEM_DONE
            return item is not None and (item.is_announced_done if is_done else item.is_announced)
        if event_type in kept.TRANSCRIPTION_ENDS:
            self._untranscribed.discard(item_id)
        return event_type in kept.TRANSCRIPTION_PARTS and known_as in self._turns.begun

    def _begins(self, item_id: str, start_ms: float | None) -> bool:
        """Speech behind what is sent again is a turn of its own; upstream has then heard none in the rest of it."""
        if self._due and (start_ms is None or start_ms < self._turns.milliseconds):
            self._known_as[item_id] = self._due[0]
            return True
        self._due.clear()
        return False

    def renamed(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return an event with the ids that the client knows; None: they are those of the event."""
        changed: dict[str, Any] = {}
        for name in ("item_id", "previous_item_id"):
            if text(body.get(name)) in self._known_as:
                changed[name] = self._known_as[body[name]]
        item = child(body, "item")
        if text(item.get("id")) in self._known_as:
            changed["item"] = {**item, "id": self._known_as[item["id"]]}
        return {**body, **changed} if changed else None


def _item_of(body: Mapping[str, Any]) -> str:
    return text(body.get("item_id")) or text(child(body, "item").get("id"))
