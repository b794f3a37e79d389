"""Which events of transcriptions the client is sent where two upstreams transcribe one turn. Pure.

The next upstream gets a turn as audio if the client has had no transcript of it, and may transcribe it once more; the one
before may still end its own transcription. The client is sent one end of each transcription, and its parts from one upstream.
"""

from collections.abc import Container, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

from service.realtime.continuity import kept
from service.realtime.continuity.kept import TRANSCRIPTION_PARTS, TRANSCRIPTION_TYPES, dumps, text
from service.realtime.continuity.mirror import Mirror
from service.realtime.continuity.mirror_items import Item, Kind
from service.realtime.continuity.open_responses import NewEventId

OVERDUE_SECONDS: Final = 10.0
"""Upstream may transcribe what it gets as audio in another item, or never; a transcript takes about two seconds."""
_NO_TRANSCRIPT: Final = {
    "type": "transcription_error",
    "code": "connection_lost",
    "message": "The connection to the provider was lost before the audio was transcribed.",
    "param": None,
}


class Transcripts:
    """Those of one session. The caller folds what has passed before it asks."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self._again: set[str] = set()  # items that the current upstream may transcribe again
        self._begun_before: set[str] = (
            set()
        )  # the client has parts of an upstream before, or lacks those of the current one
        self._begun: set[str] = set()  # it has those of the current one
        self._not_heard_again: set[str] = set()  # turns of a transcription session whose audio exceeded a limit

    def adopt(self, created_as_audio: AbstractSet[str], begun: AbstractSet[str], now: float) -> None:
        """Note what the new upstream may transcribe, and `begun` to before it took over."""
        mirror = self._mirror
        self._not_heard_again = {item_id for item_id, turn in mirror.journal.turns.items() if not turn.parts}
        self._again = set(created_as_audio) if mirror.session.transcribes else set()
        self._begun_before = {item.item_id for item in mirror.items if item.is_partly_transcribed} | begun
        self._begun = set()
        conversation = mirror.conversation
        due = conversation.cut_transcripts.keys() | conversation.untranscribed.keys()
        conversation.cut_transcripts = {item_id: now + OVERDUE_SECONDS for item_id in due if self._is_due(item_id)}

    def _is_due(self, item_id: str) -> bool:
        item = self._mirror.items.get(item_id)
        return item is not None and not item.is_transcribed

    def overdue(self, now: float, new_id: NewEventId) -> list[bytes]:
        """Return the ends of transcriptions that a swap has cut and the current upstream does not make."""
        ended: list[bytes] = []
        due = self._mirror.conversation.cut_transcripts
        for item_id in [item_id for item_id, until in due.items() if until <= now]:
            del due[item_id]
            if self._is_due(item_id):
                self._mirror.conversation.transcribed(item_id, "")
                ends = {"type": kept.NOT_TRANSCRIBED, "event_id": new_id(), "item_id": item_id, "content_index": 0}
                ended.append(dumps(ends | {"error": _NO_TRANSCRIPT}))
        return ended

    @property
    def are_any_due(self) -> bool:
        """Whether an event of upstream may have to be hidden."""
        return bool(self._again)

    def hides(self, event_type: str, body: Mapping[str, Any]) -> bool:
        """Whether the client is not sent an event of the current upstream."""
        item_id = text(body.get("item_id"))
        if item_id not in self._again:
            return False
        item = self._mirror.items.get(item_id)
        is_hidden = item is None or not is_awaited(item) or bool(item.text)
        if event_type in TRANSCRIPTION_PARTS:
            is_hidden = is_hidden or item_id in self._begun_before
            if not is_hidden:
                self._begun.add(item_id)
        else:
            self._again.discard(item_id)
        return is_hidden

    def hides_late(self, event_type: str, body: Mapping[str, Any], gone: Container[str]) -> bool:
        """Whether the client is not sent an event of an upstream before; `gone`: items that it knows and the mirror lacks."""
        item_id = text(body.get("item_id"))
        if event_type not in TRANSCRIPTION_TYPES:
            return True
        if self._mirror.is_transcription:  # it keeps no items, and the next upstream hears its turns again
            return item_id not in self._not_heard_again
        item = self._mirror.items.get(item_id)
        if item is None:
            return item_id not in gone
        if item.is_transcribed or item.text:
            return True
        if event_type in TRANSCRIPTION_PARTS:
            if item_id in self._begun:
                return True
            self._begun_before.add(item_id)
        return False


def is_awaited(item: Item) -> bool:
    """Whether the client may be sent a transcript of an item: it has had no end of one, and one is due."""
    return not item.is_transcribed and (item.kind is not Kind.USER_SPEECH or item.is_transcript_due)
