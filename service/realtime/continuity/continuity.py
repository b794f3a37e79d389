"""What a session keeps so that its conversation can go on at another upstream. Pure: no I/O, times are arguments.

Log, mirror and journal. Each event that passes is only appended to the log, by reference. `fold` takes it from there
into the mirror (what upstream has acknowledged) and the journal (what it has not), in the order in which the events passed,
so that nothing depends on when it is called. Any new upstream gets the mirror, then the journal: renewal and recovery are
that one operation.

    LIVE       keep_client, keep_upstream, keep_audio; fold at each tick; boundary
    lost       upstream_lost; keep_client goes on, nothing is forwarded
    replay     start_replay; take and received until it is done
    flush      begin_flush, then next_flush until it returns None: LIVE

A switch at a boundary is the same without `upstream_lost`.
"""

import base64
from enum import IntEnum
from typing import Final

from service.realtime.continuity import kept
from service.realtime.continuity.answers import asked_again
from service.realtime.continuity.interception import INTERCEPTED_TYPES, Interception, Interceptor, OwnEvents
from service.realtime.continuity.journal import Journal
from service.realtime.continuity.journal_entries import Append, Entry, LoggedAppends, LoggedAudio
from service.realtime.continuity.kept import dumps
from service.realtime.continuity.limits import ContinuityLimits
from service.realtime.continuity.mirror import Mirror
from service.realtime.continuity.mirror_items import Kind
from service.realtime.continuity.open_responses import CutAnswer
from service.realtime.continuity.reopened_turns import REOPENED_TYPES
from service.realtime.continuity.replay import Replay

PENDING_APPROVAL: Final = "mcp_approval"
PASSING: Final = frozenset({PENDING_APPROVAL, "no_session"})
"""Why a session is not renewable at present, but may be later."""
_ENTRIES_AT_ONCE: Final = 200  # folded in about a millisecond
_ALL: Final = 1 << 60
_NONE: Final = frozenset[str]()


class Boundary(IntEnum):
    """Whether upstream can be replaced now, so that the client does not notice."""

    NONE = 0
    HARD = 1  # nothing is active, owed, being spoken or unacknowledged, and no MCP call runs or waits for an approval
    SOFT = 2  # moreover no output of a tool and no transcript is awaited, and the answer is played out


class Continuity:
    """One session. See the head of this file."""

    is_renewed = True  # before upstream ends it

    def __init__(self, limits: ContinuityLimits | None = None) -> None:
        self._limits = limits or ContinuityLimits()
        self.log: list[tuple[str, bytes | LoggedAudio | LoggedAppends, float]] = []
        self._own = OwnEvents()
        self._new_state()
        self._reason: str | None = None  # why the session is not renewable, once for all
        self._is_off = False
        self._is_lost = False
        self._cut: list[CutAnswer] = []
        self._has_settled = False
        self._announcements: list[bytes] = []  # for the client, of what the upstream before has acknowledged
        self.lost_turns: dict[str, int] = {}

    def _new_state(self) -> None:
        self._log_bytes, limits = 0, self._limits
        self.journal = Journal(audio_limit=limits.audio_bytes, event_limit=limits.journal_bytes)
        self.mirror = Mirror(self.journal, item_limit=limits.item_bytes, image_limit=limits.image_bytes)
        self._interceptor: Interceptor | None = None  # of an upstream that has replaced another

    # -- what passes --------------------------------------------------------------------------------------------------

    def keep_client(self, event_type: str, raw: bytes, now: float) -> None:
        """Keep a client's message of a type in `KEEP_FROM_CLIENT`: once it was forwarded, or instead of that."""
        self.log.append((event_type, raw, now))
        self._log_bytes += len(raw)
        if self._log_bytes > self._limits.log_bytes:
            self.fold(now, _ALL)

    def keep_appends(self, frames: list[bytes], since: float, now: float, *, is_alike: bool = False) -> None:
        """Keep audio of the client, each message as one frame or as its fragments, that was sent between two times.

        The list is kept, too. `is_alike`: the messages are known to have one size.
        """
        if self.log:
            size = sum(map(len, frames))
            self.log.append((kept.APPEND, LoggedAppends(frames, since, size), now))
            self._log_bytes += size
            if self._log_bytes > self._limits.log_bytes:
                self.fold(now, _ALL)
        elif not self._is_off:  # at once: nothing that passed before is to be folded
            if is_alike:
                self.journal.append_run(frames, since, (now - since) / len(frames))
            else:
                self.journal.append(frames, since, now)
            if self.journal.audio_bytes > self._limits.audio_bytes:
                self.journal.trim()

    def keep_upstream(self, event_type: str, raw: bytes, now: float) -> None:
        """Keep an upstream message of a type in `KEEP_FROM_UPSTREAM` that the client was sent."""
        self.log.append((event_type, raw, now))
        self._log_bytes += len(raw)
        if self._log_bytes > self._limits.log_bytes or self.journal.is_full:
            self.fold(now, _ALL)

    def keep_audio(self, events: int, size: int, now: float, item_id: str = "") -> None:
        """Count events of an answer's audio, and the bytes of their frames; before any later event is kept."""
        if self.log:
            self.log.append((kept.AUDIO_DELTA, LoggedAudio(events, size, item_id), now))
        else:
            self.mirror.answers.audio_passed(events, size, now, item_id)

    def reached(self, sent_at: float) -> None:
        """Note that what was sent before a time has reached upstream: a ping that was sent then is answered.

        Only this, and acknowledgements, free the audio of an open microphone.
        """
        self.journal.reached(sent_at)
        if not self.log:  # else speech may begin in it
            self.journal.trim()

    def unkeepable(self, *, is_intricate: bool = False) -> None:
        """Note that a message of a kept type could not be kept: the session is not renewable. See `is_intricate`."""
        self.give_up("kept_event_too_intricate" if is_intricate else "kept_event_too_large")

    def fold(self, now: float, max_entries: int = _ENTRIES_AT_ONCE) -> bool:
        """Take up to `max_entries` from the log; returns whether there are more."""
        try:
            return self._fold(now, max_entries)
        except RecursionError:  # JSON that is nested as deep as can be read, but not written
            self.unkeepable(is_intricate=True)
            return False

    def _fold(self, now: float, max_entries: int) -> bool:
        log, mirror = self.log, self.mirror
        if self._is_off:
            log.clear()
            self._log_bytes = 0
        taken = log[:max_entries]
        del log[:max_entries]
        for kind, raw, time in taken:
            if isinstance(raw, LoggedAudio):
                mirror.answers.audio_passed(raw.events, raw.size, time, raw.item_id)
                continue
            if isinstance(raw, LoggedAppends):
                self._log_bytes -= raw.size
                self.journal.append(raw.frames, raw.since, time)
                continue
            self._log_bytes -= len(raw)
            (mirror.client_event if kind in kept.KEEP_FROM_CLIENT else mirror.upstream_event)(kind, raw, time)
        if not log:
            mirror.trim(now)
            self.journal.trim()
        return bool(log)

    # -- state --------------------------------------------------------------------------------------------------------

    @property
    def kept_bytes(self) -> int:
        """All bytes that are kept."""
        return self._log_bytes + self.journal.size + self.mirror.size

    @property
    def not_renewable(self) -> str | None:
        """Why no other upstream can continue the conversation, or None. Only those of `PASSING` pass."""
        if self._reason or self.mirror.failure:
            return self._reason or self.mirror.failure
        if not self.mirror.session.type:
            return "no_session"
        if not self.mirror.session.is_supported:  # that of the beta, or of another API
            return "unsupported_session"
        return PENDING_APPROVAL if self.mirror.conversation.approvals else None

    def give_up(self, reason: str) -> None:
        """Free everything: the session is not renewable from now on."""
        self._reason, self._is_off = reason, True
        self.log.clear()
        self._new_state()

    @property
    def is_full(self) -> bool:
        """Whether the client must be held back."""
        return self.journal.is_full

    @property
    def expires_at(self) -> float | None:
        """When upstream ends the session, in seconds since 1970, or None."""
        return self.mirror.session.expires_at

    def boundary(self, now: float) -> Boundary:
        """Fold everything and return whether upstream can be replaced now."""
        self.fold(now, _ALL)
        if not self.journal.is_sent or self.mirror.answers.is_open:
            return Boundary.NONE
        journal = self.journal
        if self.mirror.conversation.awaits_mcp or journal.speech_is_open or journal.has_unacknowledged:
            return Boundary.NONE
        return Boundary.SOFT if self.mirror.is_soft(now) else Boundary.HARD

    @property
    def awaits_transcripts(self) -> bool:
        """Whether the current upstream may still send the transcript of a turn, however long that takes."""
        return bool(self.mirror.conversation.untranscribed or (self.mirror.is_transcription and self.journal.turns))

    # -- another upstream ---------------------------------------------------------------------------------------------

    def start_replay(self, created: bytes, now: float, *, is_tolerant: bool = False) -> Replay:
        """Begin to configure a new upstream, from the payload of its `session.created`. `is_tolerant`: after a loss."""
        self.fold(now, _ALL)
        return Replay(self.mirror, created, is_tolerant=is_tolerant)

    def upstream_lost(self, now: float) -> list[bytes]:
        """Return the events that end for the client what upstream leaves open. The second call for a loss has no effect."""
        self.fold(now, _ALL)
        if self._is_lost:
            return []
        self._is_lost = True
        events, cut = self.mirror.upstream_lost(self._own.new_id)
        self._cut = self._cut or cut
        self._has_settled = any(payload.startswith(b'{"type":"response.done"') for payload in events)
        self.journal.upstream_lost()
        return events

    def begin_flush(self, replay: Replay, now: float) -> None:
        """Go over to the new upstream, which is in sync with the mirror. See `next_flush`."""
        self.fold(now, _ALL)
        if not self._is_lost:
            self._announcements = [*self.mirror.conversation.announcements(self._own.new_id)]
            self.journal.upstream_lost()
        self._is_lost = False
        self._interceptor = interceptor = Interceptor(self.mirror, self._own, replay, now)
        self._count_lost(replay)
        self.mirror.session.moved(replay.created)
        self.mirror.is_restored = True
        if self.mirror.is_transcription:
            interceptor.reopened_turns.adopt(self.journal.reopen_turns(self._own_frame(kept.COMMIT)))
        self._ask_again(interceptor)

    def _count_lost(self, replay: Replay) -> None:
        turns = self.journal.turns
        cut = [item_id for item_id in replay.created_as_audio if item_id in turns and turns[item_id].is_beheaded]
        if lost := len(cut) + self.journal.take_beheaded():
            self.lost_turns["audio_over_limit"] = self.lost_turns.get("audio_over_limit", 0) + lost
        if dropped := self.mirror.items.dropped_messages:
            self.lost_turns["items_over_limit"] = dropped
        for item in self.mirror.items:
            why = "refused" if item.item_id in replay.refused else replay.omitted.get(item.item_id)
            if why and item.kind is Kind.USER_SPEECH:
                self.lost_turns[why] = self.lost_turns.get(why, 0) + 1

    def _own_frame(self, kind: str) -> bytes:
        return self._own.masked_frame(dumps({"type": kind, "event_id": self._own.new_upstream_id()}))

    def _ask_again(self, interceptor: Interceptor) -> None:
        """Ask for the answers that were cut, as far as they are still wanted."""
        if self._has_settled or self._cut:
            create = kept.RESPONSE_CREATE
            requests = asked_again(self.journal, self._cut)
            again = [interceptor.request_again(raw) if raw else self._own_frame(create) for raw in requests]
            self.journal.ask(create, again)
        self._cut, self._has_settled = [], False

    def next_flush(self, now: float, max_bytes: int = 262_144) -> Interception | None:
        """Return what to send next to the new upstream, and to the client; None if nothing is left: the session is live."""
        self.fold(now, _ALL)
        frames: list[bytes] = []
        answers, self._announcements = self._announcements, []
        size = 0
        for entry in self.journal.unsent():
            if size >= max_bytes:
                break
            answered = len(answers)
            sent = [self._append(entry)] if isinstance(entry, Append) else self._entry(entry, answers, now)
            if sent is not None:
                self.journal.sent(entry, now)
            frames += sent or ()
            size += sum(map(len, [*(sent or ()), *answers[answered:]]))
        if not frames and not answers:
            self.journal.is_sent = True
            return None
        return Interception(frames, answers)

    def _append(self, append: Append) -> bytes:
        if not append.offset_ms:
            return append.raw
        audio = base64.b64encode(append.audio(self.journal.form)).decode()
        return self._own.masked_frame(dumps({"type": kept.APPEND, "audio": audio}))

    def _entry(self, entry: Entry, answers: list[bytes], now: float) -> list[bytes] | None:
        """The frames of an event, changed as upstream can process it; None if the relay answers it."""
        done = self._interceptor.intercept(entry.kind, entry.raw, now) if self._interceptor else None
        if isinstance(done, Interception):
            self.journal.remove(entry)
            answers += done.to_client
            return list(done.to_upstream) if done.to_upstream else None
        return [done or entry.raw]

    # -- after a swap ------------------------------------------------------------------------------------------------

    @property
    def intercepts(self) -> frozenset[str]:
        """The client's types that `intercept` gets before they are forwarded."""
        return INTERCEPTED_TYPES if self._interceptor else _NONE

    def intercept(self, event_type: str, raw: bytes, now: float) -> Interception | None:
        """Return what happens in place of forwarding and keeping an event; None: forward and keep it."""
        self.fold(now, _ALL)
        done = self._interceptor.intercept(event_type, raw, now) if self._interceptor else None
        if not isinstance(done, bytes):
            return done
        self.keep_client(event_type, done, now)
        return Interception([done])

    @property
    def swallows(self) -> bool:
        """Whether upstream's events of kept types go to `swallow` before they are forwarded; an `error` always does."""
        return self._interceptor is not None and self._interceptor.swallows

    def swallow(self, event_type: str, raw: bytes, now: float) -> bool:
        """Whether an event of upstream is neither forwarded nor kept."""
        interceptor = self._interceptor
        if event_type in REOPENED_TYPES:
            self.fold(now, _ALL)
            if interceptor and (hidden := interceptor.reopened_turns.take(event_type, raw)) is not None:
                self.keep_upstream(event_type, hidden, now)
                return True
        return interceptor is not None and interceptor.swallow(event_type, raw)

    def overdue(self, now: float) -> list[bytes]:
        """Return events that end for the client what the current upstream was to go on with, and has not."""
        found = self._interceptor if self.journal.is_sent else None
        return [] if found is None else found.transcripts.overdue(now, self._own.new_id)

    def placed(self, event_type: str, raw: bytes, now: float) -> bytes | None:
        """Return the payload that replaces an event of upstream, because for the client another item is before."""
        if self._interceptor is None or not self._interceptor.may_misplace(event_type):
            return None
        self.fold(now, _ALL)
        return self._interceptor.placed(event_type, raw)

    def old_upstream_event(self, event_type: str, raw: bytes, now: float) -> bool:
        """Whether an event of the upstream before is forwarded: a late transcript of a known item is, and it is kept."""
        self.fold(now, _ALL)
        if self._interceptor is None or self._interceptor.hides_late(event_type, raw):
            return False
        if event_type in kept.KEEP_FROM_UPSTREAM:
            self.keep_upstream(event_type, raw, now)
        return True
