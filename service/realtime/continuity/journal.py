"""What a client has sent and upstream has not acknowledged, in order: audio and other events. Pure.

Audio is not acknowledged one by one. An append leaves the journal

* between turns when it has reached upstream, and for longer than upstream needs to notice that speech began in it;
* with the turn that it belongs to: from `speech_started` on, or without turn detection, nothing leaves until upstream has
  committed or cleared the buffer. A committed turn belongs to its item from then on, until that is transcribed.

Any other event leaves with its acknowledgement, or with that of a later one, because upstream processes them in order.
Positions are milliseconds of the audio that was sent to the current upstream, as in its `audio_start_ms`.
"""

from collections.abc import Sequence
from itertools import groupby
from math import inf
from typing import Final

from service.realtime.continuity.audio_length import PCM, AppendSizes
from service.realtime.continuity.journal_entries import (
    NOTICE_SECONDS,
    OVERHEAD_BYTES,
    START_MARGIN_MS,
    UNSENT,
    Append,
    Entry,
    Speech,
    Turn,
    span_of_turn,
)
from service.realtime.continuity.kept import (
    CLEAR,
    COMMIT,
    ITEM_CREATE,
    ITEM_DELETE,
    ITEM_RETRIEVE,
    ITEM_TRUNCATE,
    SESSION_UPDATE,
    body_of,
    text,
)
from service.realtime.continuity.kept_audio import KeptAudio, Run
from service.realtime.continuity.refusals import refused_type
from service.realtime.continuity.reopened_turns import Turns

UNANSWERED_SECONDS: Final = 10.0
"""An event that upstream has not acknowledged this long before another that reached it is never acknowledged."""
_MAX_TURNS: Final = 2_000  # also without their audio
_IN_ORDER: Final = frozenset({SESSION_UPDATE, ITEM_CREATE, ITEM_DELETE, ITEM_TRUNCATE, ITEM_RETRIEVE, COMMIT, CLEAR})


class Journal:
    """See the head of this file. `audio_limit`: the bytes of all kept appends; `event_limit`: those of other events."""

    def __init__(self, *, audio_limit: int, event_limit: int) -> None:
        self._audio_limit = audio_limit
        self._event_limit = event_limit
        self._sizes = AppendSizes()
        self._order = 0
        self._position_ms = 0.0
        self._audio = KeptAudio()
        self.events: list[Entry] = []
        self.turns: dict[str, Turn] = {}  # by the id of their item
        self.speech: Speech | None = None
        self.audio_bytes = self.event_bytes = 0
        self.form = PCM
        self.detects_turns = True
        self.padding_ms = 300.0
        self.silence_ms = 200.0
        self.reached_at = 0.0  # what was sent before this time has reached upstream
        self.is_sent = True  # False while there is no upstream to send to
        self._speech_was_open = False  # at the last loss; what was replayed is kept until upstream has noticed it
        self._is_beheaded = False  # the beginning of what is not committed exceeded the limit
        self._may_go_on = False  # the speech in which the client committed or cleared: kept for a while

    # -- what the client sends ----------------------------------------------------------------------------------------

    @property
    def appends(self) -> list[Append]:
        """The audio that upstream may not have processed, one by one."""
        return self._audio.entries

    def append(self, frames: Sequence[bytes], since: float, now: float) -> None:
        """Add appends that were sent between two times, evenly as far as is known."""
        step = (now - since) / len(frames)
        for _, group in groupby(frames, len):
            run = list(group)
            self.append_run(run, since, step)
            since += len(run) * step

    def append_run(self, run: list[bytes], since: float, step: float) -> None:
        """Add appends of one size, each sent `step` seconds behind the one before. The list is the journal's from now on."""
        count, size = len(run), len(run[0])
        audio = self._sizes.known.get(size)
        if audio is None:
            audio = self._sizes.audio_bytes(run[0])
        length, start = audio / self.form.bytes_per_ms, UNSENT
        if self.is_sent:
            start = self._position_ms
            self._position_ms = start + count * length
        self._audio.add(Run(self._order + 1, run, since + step, step, length, start))
        self._order += count
        self.audio_bytes += size * count

    def add(self, kind: str, raw: bytes, now: float, *, event_id: str = "", item_id: str = "") -> Entry:
        """Add another event."""
        entry = Entry(self._next_order(), kind, raw, now, event_id, item_id, self.is_sent)
        self.events.append(entry)
        self.event_bytes += entry.size
        return entry

    def _place(self, append: Append) -> None:
        append.start_ms = self._position_ms
        self._position_ms = append.end_ms

    def _next_order(self) -> int:
        self._order += 1
        return self._order

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be read from the client."""
        return self.event_bytes > self._event_limit or (not self.is_sent and self.audio_bytes > self._audio_limit)

    # -- what upstream does with audio --------------------------------------------------------------------------------

    def speech_started(self, item_id: str, start_ms: float | None) -> None:
        """Keep what is behind the start of speech until it is committed."""
        self._speech_was_open = False
        self.speech = Speech(item_id, start_ms)
        if start_ms is not None:
            self._drop_before(min(start_ms, self._position_ms) - START_MARGIN_MS)

    def speech_stopped(self, item_id: str, end_ms: float | None) -> None:
        """Remember where the turn ends; it is cut off when it is committed."""
        if self.speech is None:
            self.speech = Speech(item_id, None)
        self.speech.end_ms = end_ms

    def committed(self, item_id: str, now: float, *, keep: bool) -> bool:
        """Cut the turn off that became an item; returns whether upstream's turn detection has committed it.

        `keep`: its audio is kept until `forget`. A client's commit cuts where it was sent, upstream's where speech stopped.
        """
        commit = self.first(COMMIT)
        speech = self.speech
        has_stopped = speech is not None and speech.end_ms is not None and speech.item_id == item_id
        if commit is not None and not has_stopped:
            start = speech.start_ms or 0.0 if speech is not None else 0.0
            end = rest = max((append.end_ms for append in self.appends if append.order < commit.order), default=0.0)
            self.resolve(commit)
        else:
            commit = None
            start, end, rest = span_of_turn(self.speech, self.appends, now, self._position_ms, self.silence_ms)
        if keep:
            kept = [append for append in self.appends if append.end_ms > start and append.start_ms < end]
            parts = [append.part(start, end) for append in kept]
            turn = Turn(self.form, parts, is_beheaded=self._is_beheaded)
            self.forget(item_id)
            self.turns[item_id] = turn
            while len(self.turns) > _MAX_TURNS:
                self.forget(next(iter(self.turns)))
            self.audio_bytes += turn.size
        self._may_go_on = commit is not None and (speech is not None or self._may_go_on)
        self._is_beheaded = self._speech_was_open = False
        self.speech = None
        self._cut(rest)
        return commit is None

    def _cut(self, rest_ms: float) -> None:
        """Remove the audio before `rest_ms`."""
        self._drop_before(rest_ms)
        if self.appends and self.appends[0].start_ms < rest_ms:
            self.appends[0] = self.appends[0].rest(rest_ms)

    def cleared(self) -> None:
        """Remove the audio that the client had cleared."""
        clear = self.first(CLEAR)
        self._may_go_on = clear is not None and (self.speech is not None or self._may_go_on)
        self.speech, self._speech_was_open, self._is_beheaded = None, False, False
        if clear is None:
            return
        self.resolve(clear)
        self._drop_first(sum([append.order < clear.order for append in self.appends]))

    def forget(self, item_id: str) -> None:
        """Free the audio of a turn whose transcript is known, or whose item is deleted."""
        turn = self.turns.pop(item_id, None)
        if turn is not None:
            self.audio_bytes -= turn.size

    def _drop_before(self, position_ms: float) -> None:
        self.audio_bytes -= self._audio.drop(sent_before=inf, ended_before=position_ms)

    def _drop_first(self, count: int = 1) -> None:
        self.audio_bytes -= sum([len(append.raw) for append in self.appends[:count]])
        del self.appends[:count]

    def trim(self) -> None:
        """Free what is not needed any more, and what exceeds the limit."""
        if not self.is_sent:
            return
        if self.speech is None and self.detects_turns and not self._speech_was_open and not self._may_go_on:
            # Upstream has noticed no speech in it.
            self.audio_bytes -= self._audio.drop_silence(self.reached_at, self.padding_ms / 1000 + NOTICE_SECONDS)
        if self.events or self._speech_was_open or self._may_go_on:
            self._trim_events()
        if self.audio_bytes > self._audio_limit:
            self._limit_audio()

    def _trim_events(self) -> None:
        unanswered = [entry for entry in self.events if entry.time < self.reached_at - UNANSWERED_SECONDS]
        for entry in unanswered:
            self.resolve(entry)
        if self._audio.first_time < self.reached_at - UNANSWERED_SECONDS:
            self._speech_was_open = self._may_go_on = False

    def _limit_audio(self) -> None:
        for turn in self.turns.values():
            if not turn.is_over_limit and self.audio_bytes > self._audio_limit:
                self.audio_bytes -= turn.size
                turn.parts, turn.is_over_limit = [], True
        while self.audio_bytes > self._audio_limit and self.appends:
            has_arrived = self.appends[0].time <= self.reached_at
            self._drop_first()
            self._is_beheaded = self.speech is not None or not self.detects_turns or not has_arrived

    # -- acknowledgements of other events -----------------------------------------------------------------------------

    def first(self, kind: str, item_id: str | None = None) -> Entry | None:
        """The oldest unacknowledged event of a type, of an item if one is named."""
        for entry in self.events:
            if entry.is_sent and entry.kind == kind and item_id in {None, entry.item_id}:
                return entry
        return None

    def reached(self, sent_at: float) -> None:
        """Note that what was sent before a time has reached upstream."""
        self.reached_at = max(self.reached_at, sent_at)

    def resolve(self, entry: Entry) -> None:
        """Remove an event that upstream has processed, and those that upstream must have processed before."""
        done = [
            earlier
            for earlier in self.events
            if earlier is entry
            or (earlier.is_sent and earlier.order < entry.order and {entry.kind, earlier.kind} <= _IN_ORDER)
        ]
        self.reached(entry.time)
        for earlier in done:
            self.remove(earlier)

    def refused(self, event_id: str, code: str, param: str) -> Entry | None:
        """Remove the event that an `error` answers, and return it; None if it is none of these."""
        kind = refused_type(code, param)
        named = [entry for entry in self.events if event_id and entry.event_id == event_id]
        entry = next((entry for entry in named if entry.kind == kind), named[0] if named else None)
        if entry is None and not event_id:
            entry = self.first(kind) if kind else None
        if entry is not None:
            self.resolve(entry)
        return entry

    # -- another upstream ---------------------------------------------------------------------------------------------

    def upstream_lost(self) -> None:
        """Keep everything from now on: there is no upstream to send it to."""
        self.is_sent = False
        self._speech_was_open = self._speech_was_open or self.speech is not None
        self.speech = None
        self._position_ms = 0.0  # on another upstream
        for append in self.appends:
            append.start_ms = UNSENT
        for entry in self.events:
            entry.is_sent = False

    def unsent(self) -> list[Append | Entry]:
        """Return what the current upstream has not been sent, in order."""
        appends = [append for append in self.appends if append.start_ms == UNSENT]
        events = [entry for entry in self.events if not entry.is_sent]
        return sorted([*appends, *events], key=lambda entry: entry.order)

    def ask(self, kind: str, frames: list[bytes]) -> None:
        """Put events in front of all others, to be sent first."""
        entries = [
            Entry(0, kind, raw, 0.0, text(body_of(raw, masked=True).get("event_id")), is_sent=False) for raw in frames
        ]
        self.events[:0] = entries
        self.event_bytes += sum(entry.size for entry in entries)

    def reopen_turns(self, commit: bytes) -> Turns:
        """Make the audio of all kept turns unsent again, each with the commit that ends it if no turn detection does."""
        again = tuple(item_id for item_id, turn in self.turns.items() if turn.parts)
        begun = frozenset(item_id for item_id in again if self.turns[item_id].is_partly_transcribed)
        order, appends = -sum(len(turn.parts) + 1 for turn in self.turns.values()), list[Append]()
        for turn in self.turns.values():
            for raw, first, last in turn.parts:
                appends.append(Append(order, raw, 0.0, last - first, offset_ms=first))
                order += 1
            if turn.parts and not self.detects_turns:
                self.events.append(entry := Entry(order, COMMIT, commit, 0.0, is_sent=False))
                self.event_bytes += entry.size
            order += 1
        self.turns.clear()
        self.appends[:0] = appends
        return Turns(again, begun, sum(append.length_ms for append in appends))

    def take_beheaded(self) -> bool:
        """Whether the beginning of what is sent again was dropped, once."""
        was_beheaded, self._is_beheaded = self._is_beheaded, False
        return was_beheaded

    def remove(self, entry: Entry) -> None:
        """Remove an event that is not to be sent."""
        self.events.remove(entry)
        self.event_bytes -= entry.size

    def replace(self, entry: Entry, raw: bytes) -> None:
        """Change the frames of an event, as the next upstream is to get it."""
        self.event_bytes += len(raw) - len(entry.raw)
        entry.raw = raw

    def sent(self, entry: Append | Entry, now: float) -> None:
        """Count an entry as sent to the current upstream just now."""
        entry.time = now
        if isinstance(entry, Append):
            self._place(entry)
        else:
            entry.is_sent = True

    @property
    def size(self) -> int:
        """The bytes that it keeps in memory, also for audio in many small pieces."""
        pieces = len(self._audio) + sum(len(turn.parts) for turn in self.turns.values())
        return self.audio_bytes + self.event_bytes + pieces * OVERHEAD_BYTES

    @property
    def speech_is_open(self) -> bool:
        """Whether upstream has noticed speech that it has not committed, or the one before it had and this one will."""
        return self.speech is not None or self._speech_was_open

    @property
    def is_in_turn(self) -> bool:
        """Whether all audio is kept until upstream commits or clears the buffer, whatever has reached it."""
        return self.speech is not None or not self.detects_turns

    @property
    def has_unacknowledged(self) -> bool:
        """Whether an event other than an append is unacknowledged."""
        return bool(self.events)
