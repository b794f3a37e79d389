"""The audio of a client that upstream may not have processed yet, in the order in which it was sent. Pure.

An open microphone sends events of one size, and nearly all of them are freed unread. They are kept as runs: the frames in a
list, with one length, one position and one time for all. An `Append` for each is created only where a turn begins or ends,
or where the audio has to be sent again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, inf

from service.realtime.continuity.journal_entries import Append


@dataclass(slots=True, eq=False)
class Run:
    """Appends of one size, so of one length. The first was sent at `time`, each further one `step` seconds later."""

    order: int  # of the first one, in the journal
    frames: list[bytes]
    time: float
    step: float
    length_ms: float
    start_ms: float

    def sent_before(self, time: float) -> int:
        """How many of them were sent before a time."""
        count, since = len(self.frames), time - self.time
        if since <= 0:
            return 0
        return count if since > count * self.step else ceil(since / self.step)

    def forget(self, count: int) -> None:
        """Remove the first ones."""
        del self.frames[:count]
        self.order += count
        self.time += count * self.step
        self.start_ms += count * self.length_ms

    def appends(self) -> Iterator[Append]:
        """Return each of them."""
        for at, raw in enumerate(self.frames):
            start_ms = self.start_ms + at * self.length_ms
            yield Append(self.order + at, raw, self.time + at * self.step, self.length_ms, start_ms)


class KeptAudio:
    """See the head of this file."""

    __slots__ = ("_entries", "_runs")

    def __init__(self) -> None:
        self._entries: list[Append] = []
        self._runs: list[Run] = []  # after the entries

    def __len__(self) -> int:
        return len(self._entries) + sum([len(run.frames) for run in self._runs])

    @property
    def entries(self) -> list[Append]:
        """All of it, one by one; it may be changed."""
        for run in self._runs:
            self._entries += run.appends()
        self._runs.clear()
        return self._entries

    def add(self, run: Run) -> None:
        """Add appends after all others."""
        self._runs.append(run)

    @property
    def first_time(self) -> float:
        """When the first one was sent."""
        if self._entries:
            return self._entries[0].time
        return self._runs[0].time if self._runs else inf

    def end_before(self, time: float) -> float:
        """The position after what was sent before a time; 0 if there is none."""
        for run in reversed(self._runs):
            if count := run.sent_before(time):
                return run.start_ms + count * run.length_ms
        return next((append.end_ms for append in reversed(self._entries) if append.time < time), 0.0)

    def drop_silence(self, reached_at: float, seconds: float) -> int:
        """Remove what was sent this long before a time, with as much audio after it that was sent until then; see `drop`."""
        sent_before = reached_at - seconds
        if self.first_time >= sent_before:
            return 0
        return self.drop(sent_before=sent_before, ended_before=self.end_before(reached_at) - seconds * 1000)

    def drop(self, *, sent_before: float, ended_before: float) -> int:
        """Remove the first ones, as long as both are true of them; returns their bytes.

        Looks at one frame of a run only: the others are in no cache of the processor.
        """
        size, done, runs = 0, 0, self._runs
        for append in self._entries:
            if append.time >= sent_before or append.end_ms > ended_before:
                break
            size, done = size + len(append.raw), done + 1
        del self._entries[:done]
        while runs and not self._entries:
            run = runs[0]
            frames, since, early_ms = run.frames, sent_before - run.time, ended_before - run.start_ms
            if since <= 0 or early_ms < 0:
                break
            count = total = len(frames)
            if since <= count * run.step:
                count = ceil(since / run.step)
            if early_ms < count * run.length_ms:
                count = int(early_ms / run.length_ms)
            size += count * len(frames[0])
            if count < total:
                run.forget(count)
                break
            del runs[0]
        return size
