"""A client, a relay and upstreams in one thread, for tests of continuity: the relay's part is `Continuity`, without I/O.

The network is two queues, of which a test delivers as much as it likes. A loss empties both: what was under way is gone.
"""

import json
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from service.realtime.continuity.continuity import Boundary, Continuity
from service.realtime.continuity.kept import APPEND, AUDIO_DELTA, KEEP_FROM_CLIENT, KEEP_FROM_UPSTREAM, payload_of
from service.realtime.continuity.limits import ContinuityLimits
from service.realtime.continuity.replay import Replay
from service.realtime.frames import Opcode, build_frame, read_header
from tests.support.reference_api import Event, ReferenceApi

_KEY: Final = b"\x12\x34\x56\x78"
_MAX_APPENDS: Final = 5
_TRANSCRIPTION: Final = "conversation.item.input_audio_transcription."


def client_frame(event: Event) -> bytes:
    """An event as a client sends it."""
    audio = event.get("audio")
    if not isinstance(audio, str):
        return build_frame(Opcode.TEXT, json.dumps(event).encode(), _KEY)
    # The encoder would search the audio for characters to escape, which is most of the time of a test.
    rest = json.dumps({name: value for name, value in event.items() if name != "audio"})
    return build_frame(Opcode.TEXT, f'{rest[:-1]}, "audio": "{audio}"}}'.encode(), _KEY)


def upstream_frame(event: Event) -> bytes:
    """An event as upstream sends it."""
    return build_frame(Opcode.TEXT, json.dumps(event, separators=(",", ":")).encode())


def messages_of(frames: bytes) -> list[Event]:
    """The events in a client's frames."""
    found, offset = [], 0
    while offset < len(frames):
        header = read_header(frames, offset, masked=True)
        assert not isinstance(header, int)
        end = offset + header.size + header.length
        found.append(json.loads(payload_of(frames[offset:end], masked=True)))
        offset = end
    return found


@dataclass
class Leg:
    """An upstream, and what is under way to and from it."""

    api: ReferenceApi
    up: deque[Event]
    down: deque[Event]

    def deliver_up(self, count: int) -> None:
        """Let the upstream process events of the client."""
        for _ in range(min(count, len(self.up))):
            event = self.up.popleft()
            if event["type"] == "ping":
                self.emit()
                self.down.append(event)
            else:
                self.api.receive(event)

    def emit(self) -> None:
        """Put on the way what the upstream has sent."""
        self.down += self.api.out
        self.api.out.clear()


class ContinuedCall:
    """A session with a client that keeps one socket. `new_api` makes the next upstream."""

    def __init__(
        self, new_api: Callable[[], ReferenceApi], limits: ContinuityLimits | None = None, *, fold_entries: int = 3
    ) -> None:
        self._new_api = new_api
        self._fold_entries = fold_entries
        self.now = 100.0
        self.continuity = Continuity(limits)
        self.leg: Leg | None = self._dial()
        self.seen: list[Event] = []  # by the client
        self.passed = 0  # events that passed the relay, either way
        self.points: list[int] = []  # the numbers of those that are no audio
        self.lose_at: Counter[int] = Counter()  # numbers of events after which upstream is lost
        self.losses = self.renewals = 0
        self.replay: Replay | None = None  # of a renewal
        self.next_leg: Leg | None = None
        self.refused: list[str] = []
        self._open_answers = 0  # of the current upstream
        self._pinged_at = self._taken_at = self.now
        self._appends: list[bytes] = []  # that passed, and are kept together, as the relay does it

    def _dial(self) -> Leg:
        leg = Leg(self._new_api(), deque(), deque())
        leg.emit()
        return leg

    # -- the client ---------------------------------------------------------------------------------------------------

    def send(self, event: Event) -> None:
        """The client sends an event."""
        kind, raw = event["type"], client_frame(event)
        if kind != APPEND:
            self._take_appends()
        if self.leg is not None and kind in self.continuity.intercepts:
            done = self.continuity.intercept(kind, raw, self.now)
            if done is not None:
                self._write(self.leg, done.to_upstream)
                self._to_client(done.to_client)
                return
        assert kind in KEEP_FROM_CLIENT
        if self.leg is not None:
            self.leg.up.append(event)
        if kind != APPEND:
            self.continuity.keep_client(kind, raw, self.now)
        else:
            self._appends.append(raw)
            if self.leg is None or len(self._appends) > _MAX_APPENDS:
                self._take_appends()
        self._count(kind)

    def _take_appends(self) -> None:
        if self._appends:
            self.continuity.keep_appends(self._appends, self._taken_at, self.now)
            self._appends = []
        self._taken_at = self.now

    def _to_client(self, payloads: Any) -> None:
        self.seen += [json.loads(payload) for payload in payloads]

    @staticmethod
    def _write(leg: Leg, frames: Any) -> None:
        for frame in frames:
            leg.up.extend(messages_of(frame))

    # -- the network --------------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self._take_appends()
        if self.leg is not None and self.now > self._pinged_at + 0.2:
            self._pinged_at = self.now
            self.leg.up.append({"type": "ping", "at": self.now})
        self.continuity.fold(self.now, self._fold_entries)

    def deliver(self, up: int, steps: int, down: int) -> None:
        """Let upstream process events, do something by itself, and let the client get events."""
        if self.leg is None:
            return
        self.leg.deliver_up(up)
        for _ in range(steps):
            self.leg.api.step()
        self.leg.emit()
        for _ in range(min(down, len(self.leg.down) if self.leg else 0)):
            if self.leg is None:
                return
            self._receive(self.leg, self.leg.down.popleft())

    def _receive(self, leg: Leg, event: Event) -> None:
        kind, raw = event["type"], upstream_frame(event)
        if kind == "ping":
            self.continuity.reached(event["at"])
            return
        if kind == AUDIO_DELTA:
            self.seen.append(event)
            item_id = event["item_id"] if self._open_answers > 1 else ""
            self.continuity.keep_audio(1, len(raw), self.now, item_id)
        else:
            if kind in KEEP_FROM_UPSTREAM:
                self._take_appends()
                if (kind == "error" or self.continuity.swallows) and self.continuity.swallow(kind, raw, self.now):
                    return
                placed = self.continuity.placed(kind, raw, self.now)
                if placed is not None:
                    event = json.loads(placed)
                    raw = upstream_frame(event)
                self.continuity.keep_upstream(kind, raw, self.now)
                self._open_answers += (kind == "response.created") - (kind == "response.done")
            self.seen.append(event)
        self._count(kind)

    def _count(self, kind: str) -> None:
        self.passed += 1
        if kind not in {APPEND, AUDIO_DELTA}:
            self.points.append(self.passed)
        if self.lose_at[self.passed] and self.leg is not None:
            self.lose()

    def settle(self) -> None:
        """Deliver everything until nothing happens any more."""
        for _ in range(10_000):
            assert self.leg is not None
            before = (len(self.seen), self.passed, len(self.leg.up))
            self.deliver(1_000, 1, 1_000)
            if self.leg is None:
                self.recover()
            api = self.leg.api
            if before == (len(self.seen), self.passed, len(self.leg.up)) and api.is_idle and not self.leg.down:
                return
        raise AssertionError("the call does not come to rest")

    # -- another upstream ---------------------------------------------------------------------------------------------

    def lose(self) -> None:
        """Upstream is lost, with all that is under way."""
        self._take_appends()
        self.leg = None
        self.losses += 1
        self._to_client(self.continuity.upstream_lost(self.now))

    def recover(self, lost_at: tuple[int, ...] = (), flush_lost_at: int = 0) -> None:
        """Replay and flush at a new upstream.

        It is lost after these numbers of replayed events, each once, and after a number of steps of the flush.
        """
        due = list(lost_at)
        leg, replay = self.next_leg, self.replay
        self.next_leg = self.replay = None
        while True:
            if leg is None or replay is None:
                leg = self._dial()
                created = json.dumps(leg.down.popleft()).encode()
                replay = self.continuity.start_replay(created, self.now)
            replay.is_tolerant = True
            if self._replay(leg, replay, due):
                break
            leg = replay = None
        self._flush(leg, replay, flush_lost_at)
        if self.leg is None:
            self.recover()

    def _replay(self, leg: Leg, replay: Replay, due: list[int]) -> bool:
        sent = 0
        while not replay.is_done:
            payloads = replay.take(is_final=True, max_bytes=4_000)
            for payload in payloads:
                leg.up.append(json.loads(payload))
                sent += 1
                if due and sent >= due[0]:
                    due.pop(0)
                    return False
            self._acknowledge(leg, replay)
            assert payloads or replay.is_done, "the replay does not go on"
        return True

    def _acknowledge(self, leg: Leg, replay: Replay) -> None:
        leg.deliver_up(len(leg.up))
        leg.emit()
        while leg.down:
            event = leg.down.popleft()
            replay.received(event["type"], upstream_frame(event))
        assert replay.fault is None, replay.fault
        self.refused += replay.refused.values()

    def _flush(self, leg: Leg, replay: Replay, lost_at: int = 0) -> None:
        self._take_appends()
        self.continuity.begin_flush(replay, self.now)
        self.leg, self._open_answers = leg, 0
        steps = 0
        while (step := self.continuity.next_flush(self.now, max_bytes=5_000)) is not None:
            self._write(leg, step.to_upstream)
            self._to_client(step.to_client)
            steps += 1
            if lost_at:  # upstream answers meanwhile
                self.deliver(3, 3, 2)
            if steps == lost_at and self.leg is not None:
                self.lose()
            if self.leg is None:
                return

    def prepare(self) -> None:
        """Begin a renewal, or bring the new upstream in sync again."""
        if self.leg is None:
            return
        if self.next_leg is None:
            self.next_leg = self._dial()
            created = json.dumps(self.next_leg.down.popleft()).encode()
            self.replay = self.continuity.start_replay(created, self.now)
        assert self.replay is not None
        while payloads := self.replay.take(is_final=False, max_bytes=4_000):
            self.next_leg.up.extend(map(json.loads, payloads))
            self._acknowledge(self.next_leg, self.replay)

    def switch(self) -> bool:
        """Go over to the new upstream, if there is one and this is a boundary."""
        if self.leg is None or self.next_leg is None or self.replay is None:
            return False
        if self.continuity.boundary(self.now) is Boundary.NONE:
            return False
        old, leg, replay = self.leg, self.next_leg, self.replay
        while payloads := replay.take(is_final=True, max_bytes=4_000):
            leg.up.extend(map(json.loads, payloads))
            self._acknowledge(leg, replay)
        assert replay.is_done
        self.next_leg = self.replay = None
        self.renewals += 1
        self._flush(leg, replay)
        while old.api._unheard:
            old.api.step()
        old.emit()
        for event in old.down:
            if self.continuity.old_upstream_event(event["type"], upstream_frame(event), self.now):
                self.seen.append(event)
        return True


def client_view(seen: list[Event]) -> list[str]:
    """The ids of the items in the order in which a client that saw these events has them."""
    order: list[str] = []
    for event in seen:
        if event["type"] == "conversation.item.added":
            item_id, after = event["item"]["id"], event["previous_item_id"]
            assert item_id not in order, f"{item_id} was added twice"
            order.insert(order.index(after) + 1 if after in order else 0 if after is None else len(order), item_id)
        elif event["type"] == "conversation.item.deleted":
            order.remove(event["item_id"])
    return order
