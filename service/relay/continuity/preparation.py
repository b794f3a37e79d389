"""One new upstream connection of a session that exists, from its dial until it is in sync with the conversation."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final

from service.deadlines import Deadline
from service.failures import Failure
from service.realtime.continuity.continuity import Continuity
from service.realtime.continuity.kept import payload_of
from service.realtime.continuity.replay import Replay
from service.realtime.continuity.swap import Swap, SwapTimes
from service.realtime.policy import SESSION_CREATED, SESSION_UPDATED
from service.realtime.scanner_items import Message, MessageEnd
from service.relay.continuity.connections import MessageReceiver
from service.relay.continuity.guarded_calls import GuardedCalls
from service.relay.continuity.pool import Redial
from service.relay.continuity.sideband import SidebandContinuity
from service.relay.watchdog import Probe
from service.upstream.dial import UpstreamConnection
from service.wire.leg import Leg

_LISTS_SHARE: Final = 0.2
"""The share of its time that a recovery waits for the tools of MCP servers: the user waits, but for an answer with them."""
PING_SECONDS: Final = 5.0
"""A prepared connection is pinged after this long without anything from upstream. It waits for minutes, and proxies on the
way forget a connection that is idle for one."""
ANSWER_SECONDS: Final = 5.0
"""A connection that answers no ping within this time is given up."""
_FRESH_SECONDS: Final = 1.0
"""Upstream that has sent something within this time is not pinged before it takes over."""
_FINAL_REASONS: Final = frozenset({"relay_draining"})


class Preparation:
    """Dials, hides `session.created`, and replays configuration and items; see `Replay`.

    `is_recovery`: there is no other connection, so everything is replayed at once, and a difference is better than none.
    `on_progress` is called when all that could be sent is sent, and again whenever upstream has answered, also a ping;
    `on_failed` once, with the reason and whether no other attempt can succeed. After it, and after `abort`, nothing happens.
    """

    def __init__(
        self,
        continuity: Continuity,
        swap: Swap,
        *,
        calls: GuardedCalls,
        is_recovery: bool,
        on_progress: Callable[[], object],
        on_failed: Callable[[str, bool], object],
    ) -> None:
        self._continuity = continuity
        self._swap = swap
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._is_recovery = is_recovery
        self._on_progress = on_progress
        self._on_failed = on_failed
        self._is_over = False
        self._probe: Probe | None = None  # the last ping, if it is not answered
        self._receiver: MessageReceiver | None = None
        self._lists_seconds = 0.0
        self._lists_timer: asyncio.TimerHandle | None = None
        self.connection: UpstreamConnection | None = None
        self.replay: Replay | None = None

    @property
    def at_boundary(self) -> bool:
        """Whether the connection is open, and all that it has sent is whole messages."""
        is_open = self.connection is not None and not self.connection.leg.at_eof
        return is_open and (self._receiver is None or self._receiver.at_boundary)

    def is_answering(self) -> bool:
        """Whether upstream has sent something lately; if not, it is pinged, and its answer is progress.

        A connection that waits for its turn may be dead, and a dead one that takes over is noticed only by its silence.
        """
        if self.connection is None or self._receiver is None:
            return self.connection is not None  # of a sideband nothing is read yet
        leg = self.connection.leg
        if self._probe is None and leg.last_received_at < self._loop.time() - _FRESH_SECONDS:
            self._ping(leg)
        return self._probe is None or self._probe.is_answered(leg)

    def check(self) -> None:
        """Ping the connection now and then, and give it up if it does not answer; called at each tick."""
        if self._is_over or self.connection is None:
            return
        leg, now = self.connection.leg, self._loop.time()
        if self._probe is not None and self._probe.is_answered(leg):
            self._probe = None
        if self._probe is None:
            if now - leg.last_received_at >= PING_SECONDS:
                self._ping(leg)
        elif self._probe.has_failed(now, leg, ANSWER_SECONDS):
            self._fail("silent")

    def _ping(self, leg: Leg) -> None:
        self._probe = Probe(leg.send_probe(), leg.acknowledged_bytes)

    async def dial_and_begin(self, redial: Redial, slot: AbstractAsyncContextManager[None], times: SwapTimes) -> None:
        """Dial within a slot, and begin. Cancellation aborts the attempt."""
        self._lists_seconds = times.recovery * _LISTS_SHARE
        seconds = times.recovery if self._is_recovery else max(times.recovery, times.dial)
        try:
            async with Deadline(seconds), slot:
                connected = await redial(is_recovery=self._is_recovery)
        except TimeoutError:
            self._fail("timeout")
        except Failure as failure:
            self._fail(failure.reason, is_final=failure.row.is_definite or failure.reason in _FINAL_REASONS)
        else:
            self._begin(connected)

    def go_on_as_recovery(self) -> None:
        """The other connection is lost: replay everything now, unless this one was lost as well."""
        self._is_recovery = True
        if self.connection is not None:
            self._ping(self.connection.leg)
        if self.replay is not None:
            self.replay.is_tolerant = True
            self._await_lists_for_a_while()
            self.pump()

    def await_no_lists(self) -> bool:
        """Wait for no list of tools any more, which may never come; returns whether all else is in sync."""
        if self.replay is not None:
            self.replay.awaits_lists = False
        return self.replay is not None and self.replay.is_ready

    def _await_lists_for_a_while(self) -> None:
        def go_on() -> None:
            self.await_no_lists()
            self.pump()

        if self._continuity.mirror.session.mcp_servers:
            self._lists_timer = self._calls.at(self._loop.time() + self._lists_seconds, go_on)

    def _stop(self) -> None:
        self._is_over = True
        self._receiver = None  # it refers to this object: the cycle would wait for the garbage collector
        if self._lists_timer is not None:
            self._lists_timer.cancel()

    def pump(self) -> None:
        """Send what is to be sent next, as far as the connection takes it."""
        connection, replay = self.connection, self.replay
        if self._is_over or connection is None or replay is None:
            return
        if connection.leg.full_since is not None:
            connection.leg.on_writable = partial(self._calls.run, self.pump)
        elif self.send_next(is_final=self._is_recovery):
            self._calls.soon(self.pump)
        elif replay.fault is not None:  # known once nothing else is left to send
            self._fail(replay.fault)
        else:
            self._on_progress()

    def send_next(self, *, is_final: bool) -> bool:
        """Send the next slice of the replay; returns whether there was one."""
        if self.connection is None or self.replay is None:
            return False
        payloads = self.replay.take(is_final=is_final)
        for payload in payloads:
            self.connection.leg.send_event(payload)
        return bool(payloads)

    def hand_over(self) -> tuple[UpstreamConnection, Replay]:
        """Give the connection to the session, which starts another receiver on it. Its `items` may be the client's."""
        assert self.connection is not None and self.replay is not None  # noqa: PT018, S101 - the caller has checked it
        self._stop()
        for event_type, raw in self.replay.for_client:
            payload = payload_of(raw, masked=False)
            self.connection.items += Message(event_type, payload, raw), MessageEnd(event_type, len(payload))
        return self.connection, self.replay

    def abort(self) -> None:
        """Close the connection."""
        self._stop()
        if self.connection is not None:
            self.connection.abort()

    def _begin(self, connected: UpstreamConnection) -> None:
        if self._is_over:
            connected.abort()
            return
        leg = connected.leg
        self.connection = connected
        if isinstance(self._continuity, SidebandContinuity):
            # It has no first event, and nothing is replayed: all that the call sends is the client's.
            self._start_replay(b"")
            self.pump()
            return
        receiver = MessageReceiver(
            leg,
            connected.scanner,
            calls=self._calls,
            on_message=self._received,
            on_lost=lambda: self._fail("lost"),
            on_read=self.pump,
        )
        self._receiver = receiver
        items, connected.items = connected.items, []
        receiver.process(items)
        leg.start(receiver)

    def _received(self, message: Message) -> None:
        if self.replay is not None:
            self.replay.received(message.type or "", message.raw)
            if message.type == SESSION_UPDATED and self.replay.is_configured:
                self._swap.configured(self._loop.time())
        elif message.type == SESSION_CREATED and not self._is_over:
            self._start_replay(message.payload)

    def _start_replay(self, created: bytes) -> None:
        now = self._loop.time()
        self.replay = self._continuity.start_replay(created, now, is_tolerant=self._is_recovery)
        self._swap.dialled(now)
        if self._is_recovery:
            self._await_lists_for_a_while()

    def _fail(self, why: str, *, is_final: bool = False) -> None:
        if not self._is_over:
            self.abort()
            self._on_failed(why, is_final)
