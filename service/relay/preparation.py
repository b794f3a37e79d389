"""One new upstream connection of a session that exists, from its dial until it is in step with the conversation."""

import asyncio
from collections.abc import Callable
from typing import Final

from service.failures import Failure
from service.realtime.continuity import Continuity
from service.realtime.policy import SESSION_CREATED, SESSION_UPDATED
from service.realtime.replay import Replay
from service.realtime.scanner_items import Message
from service.realtime.swap import Swap
from service.relay.connections import MessageReceiver
from service.relay.continuity_pool import Redial
from service.relay.sideband_continuity import SidebandContinuity
from service.upstream.dial import UpstreamConnection

_LISTS_SHARE: Final = 0.2
"""The share of its time that a recovery waits for the tools of MCP servers: the user waits, but for an answer with them."""
_FINAL_REASONS: Final = frozenset({"relay_draining"})


class Preparation:
    """Dials, hides `session.created`, and replays configuration and items; see `Replay`.

    `is_recovery`: there is no other connection, so everything is replayed at once, and a difference is better than none.
    `on_progress` is called when all that could be sent is sent, and again whenever upstream has answered; `on_failed` once,
    with the reason and whether no other attempt can succeed. After it, and after `abort`, nothing happens any more.
    """

    def __init__(
        self,
        continuity: Continuity,
        swap: Swap,
        *,
        is_recovery: bool,
        on_progress: Callable[[], object],
        on_failed: Callable[[str, bool], object],
    ) -> None:
        self._continuity = continuity
        self._swap = swap
        self._loop = asyncio.get_running_loop()
        self._is_recovery = is_recovery
        self._on_progress = on_progress
        self._on_failed = on_failed
        self._is_over = False
        self._dialling: asyncio.Task[None] | None = None
        self._receiver: MessageReceiver | None = None
        self._lists_seconds = 0.0
        self._lists_timer: asyncio.TimerHandle | None = None
        self.connection: UpstreamConnection | None = None
        self.replay: Replay | None = None

    @property
    def at_boundary(self) -> bool:
        """Whether the connection is open, and all that it has sent is whole messages."""
        is_open = self.connection is not None and not self.connection.leg.at_eof
        return is_open and self._receiver is not None and self._receiver.at_boundary

    async def dial_and_begin(self, redial: Redial, slots: asyncio.Semaphore, timeout_seconds: float) -> None:
        """Dial within a slot, and begin. Cancellation aborts the attempt."""
        self._lists_seconds = timeout_seconds * _LISTS_SHARE
        try:
            async with asyncio.timeout(timeout_seconds), slots:
                connected = await redial()
        except TimeoutError:
            self._fail("timeout")
        except Failure as failure:
            self._fail(failure.reason, is_final=failure.row.is_definite or failure.reason in _FINAL_REASONS)
        else:
            self._begin(connected)

    def go_on_as_recovery(self) -> None:
        """The other connection is lost: replay everything now."""
        self._is_recovery = True
        if self.replay is not None:
            self.replay.is_tolerant = True
            self._await_lists_for_a_while()
            self.pump()

    def await_no_lists(self) -> bool:
        """Wait for no list of tools any more, which may never come; returns whether all else is in step."""
        if self.replay is not None:
            self.replay.awaits_lists = False
        return self.replay is not None and self.replay.is_ready

    def _await_lists_for_a_while(self) -> None:
        def go_on() -> None:
            self.await_no_lists()
            self.pump()

        if self._continuity.mirror.session.mcp_servers:
            self._lists_timer = self._loop.call_later(self._lists_seconds, go_on)

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
            connection.leg.on_writable = self.pump
        elif self.send_next(is_final=self._is_recovery):
            self._loop.call_soon(self.pump)
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
        """Give the connection to the session, which starts another receiver on it."""
        assert self.connection is not None and self.replay is not None  # noqa: PT018, S101 - the caller has checked it
        self._stop()
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
        receiver = MessageReceiver(
            leg,
            connected.scanner,
            on_message=self._received,
            on_lost=lambda: self._fail("lost"),
            on_read=self.pump,
        )
        self._receiver = receiver
        if isinstance(self._continuity, SidebandContinuity):
            self._start_replay(b"")  # a sideband has no first event
        items, connected.items = connected.items, []
        receiver.process(items)
        leg.start(receiver)
        leg.release("first_event")

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
