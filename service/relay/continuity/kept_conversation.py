"""What a session keeps to go on with another upstream connection, as its pipes and its swaps use it.

The words stay in memory only, within `ContinuityLimits`, and go nowhere but to the next upstream connection.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from service.realtime.continuity.continuity import Continuity
from service.realtime.continuity.interception import Interception
from service.realtime.continuity.journal_entries import OVERHEAD_BYTES
from service.realtime.continuity.kept import (
    BODILESS,
    ERROR,
    KEEP_FROM_CLIENT,
    KEEP_FROM_UPSTREAM,
    MAX_KEPT_BYTES,
    RESPONSE_CREATED,
    RESPONSE_DONE,
)
from service.realtime.continuity.replay import Replay
from service.realtime.frames import Opcode, build_frame
from service.realtime.intricacy import is_intricate
from service.realtime.scanner_items import Message
from service.relay.pipe_owner import Verdict
from service.wire.leg import Leg

PING_SECONDS: Final = 0.9
"""How often upstream is asked whether it has received what the client says: until then, that is kept."""
_PING: Final = b"kept"  # of one connection only one ping is unanswered at a time
_PONG: Final = build_frame(Opcode.PONG, _PING)
_MAX_DELTA_BYTES: Final = 16_384
MAX_OTHER_BYTES: Final = 262_144
"""Of the client's events that are not kept while upstream is missing, because no swap repeats them."""


class KeptConversation:
    """Joins the pipes of one session to its `Continuity`.

    `upstream` is None while the session has no upstream connection: what the client sends is then kept, and the client is not
    read once the bound of that is reached.
    """

    def __init__(
        self, continuity: Continuity, client: Leg, upstream: Leg, send_to_client: Callable[[bytes], object]
    ) -> None:
        self.continuity = continuity
        self._client = client
        self.upstream: Leg | None = upstream
        self._send_to_client = send_to_client
        self._clock = asyncio.get_running_loop().time
        self._others: list[bytes] = []
        self._other_bytes = 0
        self.awaited_pong = b""
        """The frame that answers the last ping; empty if it has arrived."""
        self._pinged_at = 0.0
        self.appends: list[bytes] = []
        """Whole messages of audio of the client that were forwarded, before `take_appends`."""
        self._taken_at = self._clock()
        self._has_audio = False  # since the last ping
        self.open_answers = 0
        """Of this connection. If there are several, the items of their audio matter."""

    @property
    def kept_bytes(self) -> int:
        """All bytes that are kept."""
        return self.continuity.kept_bytes + self._other_bytes

    # -- called by the pipes ------------------------------------------------------------------------------------------

    def take_appends(self, *, are_alike: bool = False) -> None:
        """Keep `appends`: before any other event is kept, and when they are many. `are_alike`: they have one size.

        A ping then follows them at once, so that one write carries both.
        """
        now, appends = self._clock(), self.appends
        if appends:
            self.continuity.keep_appends([*appends], self._taken_at, now, is_alike=are_alike)
            appends.clear()
            self._has_audio = True
            if self.upstream is None and self.continuity.is_full:
                self._client.hold("journal_full")
        self._taken_at = now
        self._ask_what_has_arrived(now)

    def keep_unread(self) -> None:
        """A message of the client was forwarded that is too large to be kept."""
        self.continuity.unkeepable()

    def keep_bodiless(self, event_type: str) -> None:
        """An event of a type in `BODILESS` was forwarded."""
        self.take_appends()
        self.continuity.keep_upstream(event_type, b"", self._clock())
        self._release_client()

    def keep_audio(self, events: int, size: int, item_id: str = "") -> None:
        """Events of audio of upstream were forwarded."""
        self.continuity.keep_audio(events, size, self._clock(), item_id)

    def pong_received(self, payload: bytes) -> None:
        """Upstream answered the ping with this payload."""
        if self.awaited_pong and payload == _PING:
            self.awaited_pong = b""
            self.continuity.reached(self._pinged_at)

    # -- called by the session, before it forwards --------------------------------------------------------------------

    def client_event(self, message: Message) -> Verdict:
        """Keep an event of the client, and have it forwarded unless the relay answers it or sends another in its place."""
        self.take_appends()
        continuity, event_type, now = self.continuity, message.type, self._clock()
        if event_type not in KEEP_FROM_CLIENT:
            if self.upstream is None:
                self._keep_other(message.raw)
            return Verdict.FORWARD
        if is_intricate(message.payload):  # before anything parses it
            continuity.unkeepable(is_intricate=True)
        interception = None
        if self.upstream is not None and event_type in continuity.intercepts:
            interception = continuity.intercept(event_type, message.raw, now)
        if self.upstream is not None and interception is not None:
            self._carry_out(interception, self.upstream)
        else:
            continuity.keep_client(event_type, message.raw, now)
        if continuity.is_full:
            self._client.hold("journal_full")
        return Verdict.FORWARD if interception is None else Verdict.DROP

    def is_swallowed(self, message: Message) -> bool:
        """Whether an event of upstream answers the relay, so that the client must not see it."""
        if message.type != ERROR and not self.continuity.swallows:
            return False
        return self.continuity.swallow(message.type or "", message.raw, self._clock())

    def delta_read(self, message: Message) -> None:
        """Keep a part of an answer's words, of a type in `DELTAS`. It acknowledges nothing, and its place does not matter."""
        if self.continuity.log or len(message.raw) > _MAX_DELTA_BYTES:
            self.upstream_event(message)
        else:
            self.continuity.mirror.answers.delta(message.payload)

    def placed(self, message: Message) -> Message | None:
        """Return an event of upstream without the name of an item that the client never saw; None: it has none."""
        payload = self.continuity.placed(message.type or "", message.raw, self._clock())
        return None if payload is None else Message(message.type, payload, build_frame(Opcode.TEXT, payload))

    def upstream_event(self, message: Message) -> None:
        """Keep an event of upstream that the client gets."""
        if message.type in BODILESS:
            if len(message.payload) <= MAX_KEPT_BYTES:  # else the pipe reports it
                self.keep_bodiless(message.type)
        elif message.type in KEEP_FROM_UPSTREAM:
            if message.type == RESPONSE_CREATED:
                self.open_answers += 1
            elif message.type == RESPONSE_DONE and self.open_answers:
                self.open_answers -= 1
            self.take_appends()
            if len(message.raw) > MAX_KEPT_BYTES or is_intricate(message.payload):
                self.continuity.unkeepable(is_intricate=len(message.raw) <= MAX_KEPT_BYTES)
            else:
                self.continuity.keep_upstream(message.type, message.raw, self._clock())
            self._release_client()  # not half a second later: the audio of a microphone may wait behind a picture

    # -- called by the swaps ------------------------------------------------------------------------------------------

    def lose_upstream(self) -> list[bytes]:
        """From now on there is no upstream; returns what ends the answers that it has cut, for the client."""
        self.take_appends()
        self.upstream = None
        return self.continuity.upstream_lost(self._clock())

    def flush(self, replay: Replay, upstream: Leg) -> None:
        """Send what the former upstream has not acknowledged to a connection that is in step with the conversation.

        All of it in one turn of the event loop, so that nothing the client sends can overtake it: the journal is bounded.
        """
        self.take_appends()
        continuity = self.continuity
        continuity.begin_flush(replay, self._clock())
        while (due := continuity.next_flush(self._clock())) is not None:
            self._carry_out(due, upstream)
        for raw in self._others:
            upstream.write(raw)
        self._others.clear()
        self._other_bytes = 0
        self.upstream, self.awaited_pong, self.open_answers = upstream, b"", 0
        self._client.release("journal_full")

    def tick(self) -> None:
        """Read a slice of what was kept, and ask upstream whether it has what was said; called twice a second."""
        self.take_appends()
        self.continuity.fold(self._taken_at)
        for payload in self.continuity.overdue(self._taken_at):
            self._send_to_client(payload)
        self._release_client()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is to be done, and what is kept does not grow: upstream is there, and hears silence."""
        if self.upstream is None or self._client.held_since is not None or self.continuity.log:
            return False
        journal = self.continuity.journal
        return journal.detects_turns and not journal.speech_is_open

    def stop(self) -> None:
        """Free everything, and read the client again: the session ends, and needs its close frame.

        Its closing handshakes take seconds, in which other sessions begin.
        """
        self.continuity.give_up("ended")
        self._others.clear()
        self._other_bytes = 0
        self.appends.clear()
        self._client.release("journal_full")
        self._send_to_client = (
            _send_nothing  # else it refers to the session, which would wait for the garbage collector
        )

    def hold_client(self) -> None:
        """Read no more of the client until there is an upstream: the sessions of the process keep too much."""
        if self.upstream is None:
            self._client.hold("journal_full")

    def _release_client(self) -> None:
        if self._client.held_since is not None and self.upstream is not None and not self.continuity.is_full:
            self._client.release("journal_full")

    def _ask_what_has_arrived(self, now: float) -> None:
        """Ping while the client sends silence: what was sent before a ping that is answered need not be sent again.

        A turn is kept whatever has arrived of it, so that no ping is needed before it is committed. Also ping while an event
        is not acknowledged: of one that upstream has for long, no acknowledgement will come.
        """
        if self.upstream is None or self.awaited_pong or now - self._pinged_at < PING_SECONDS:
            return
        journal = self.continuity.journal
        if (self._has_audio and not journal.is_in_turn) or journal.has_unacknowledged:
            self.awaited_pong, self._pinged_at, self._has_audio = _PONG, now, False
            self.upstream.send_control(Opcode.PING, _PING)

    def _keep_other(self, raw: bytes) -> None:
        self._others.append(raw)
        self._other_bytes += len(raw) + OVERHEAD_BYTES
        if self._other_bytes > MAX_OTHER_BYTES:
            self._client.hold("journal_full")

    def _carry_out(self, interception: Interception, upstream: Leg) -> None:
        for frame in interception.to_upstream:
            upstream.write(frame)
        for payload in interception.to_client:
            self._send_to_client(payload)


def _send_nothing(_: bytes) -> None:
    """The session has ended."""
