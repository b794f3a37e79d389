"""Gives a session another upstream connection: before the provider's limit (renewal) and after a loss (recovery).

    dial -> session.created (hidden) -> replay of configuration and items -> switch -> what upstream has not acknowledged

A renewal prepares the new connection while the old one carries, and switches between two turns. A recovery does the same
without an old one: what the client sends meanwhile is kept. When and how often is decided by `Swap`; here is what it does.
"""

import asyncio
import math
import random
import time
from functools import partial
from typing import Final

from service.realtime.continuity.continuity import PASSING, PENDING_APPROVAL, Boundary
from service.realtime.continuity.replay import Replay
from service.realtime.continuity.swap import Step, Swap, SwapState, is_recoverable
from service.realtime.scanner_items import Message
from service.relay.closing_sides import UPSTREAM_CLOSE_SECONDS, close_side
from service.relay.continuity.connections import RETIRED_SECONDS, close_later, retire
from service.relay.continuity.fair_slots import FairSlots
from service.relay.continuity.guarded_calls import GuardedCalls
from service.relay.continuity.kept_conversation import KeptConversation
from service.relay.continuity.kept_memory import KeptMemory
from service.relay.continuity.pool import ContinuityPool, Redial
from service.relay.continuity.preparation import Preparation
from service.relay.continuity.swap_host import SwapHost
from service.relay.continuity.swap_report import SwapReport
from service.relay.ending import CloseInstruction, Ending, relay_ended
from service.upstream.dial import UpstreamConnection
from service.wire.receiver import InputDiscarder

_WAKE_SECONDS: Final = 0.02  # the least time until what is due is tried again
_IDLE_SECONDS: Final = 3.75  # until the next tick that does something: of eight, the last one
_ENDED_AT_LIMIT: Final = Ending("session_expired", CloseInstruction(1001), CloseInstruction(1000), send_error=True)


class Swapper:
    """The swaps of one session, from its start to its end.

    Ownership: it owns every upstream connection but the host's, and the tasks that dial and close them. `stop` aborts them,
    `wait_stopped` waits for the tasks.
    Errors: an unexpected exception of a dial or of a callback ends the session with `internal_error`.
    """

    def __init__(
        self, host: SwapHost, kept: KeptConversation, pool: ContinuityPool, redial: Redial, report: SwapReport
    ) -> None:
        self._host: SwapHost | None = host
        self._client = host.info.limited_as  # takes turns with others
        self._kept, self._pool, self._redial, self.report = kept, pool, redial, report
        self._clock = asyncio.get_running_loop().time
        self._swap = Swap(times=pool.times, random=random.random)
        self._expires_at: float | None = None
        self._original: Ending | None = None  # that of the session if it is not recovered; None unless upstream is lost
        self._dialling: asyncio.Task[object] | None = None
        self._new: Preparation | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._calls = GuardedCalls(host.fail)
        self._is_over, self._is_draining, self._idle_until = False, False, 0.0
        self._memory = KeptMemory(kept, pool)
        self._schedule(self._clock())

    # -- called by the session ----------------------------------------------------------------------------------------

    @property
    def is_lost(self) -> bool:
        """Whether the session has no upstream connection."""
        return self._original is not None

    def tick(self) -> None:
        """Do what is due; called twice a second. While only silence is said, most ticks do nothing."""
        now, continuity = self._clock(), self._kept.continuity
        if self._is_over or (now < self._idle_until and not continuity.log):
            return
        self._kept.tick()
        self._memory.update(is_lost=self.is_lost)
        self.report.not_renewable(continuity.not_renewable)
        self.report.text_answers(continuity.mirror.text_answers)
        if self._new is not None:
            self._new.check()
        if continuity.expires_at != self._expires_at:
            self._expires_at = continuity.expires_at
            self._schedule(now)
        self.advance()
        is_idle = self._swap.state is SwapState.LIVE and self._kept.is_idle
        self._idle_until = min(now + _IDLE_SECONDS, self._swap.next_at()) if is_idle else 0.0

    def lost(self, end: Ending, code: int | None, *, is_fatal: bool) -> bool:
        """Upstream is lost, which would end the session with `end`; returns whether the session goes on without it."""
        expired = end.reason == "session_expired"
        if self._is_over or self.is_lost or not is_recoverable(code, is_fatal=is_fatal, has_expired=expired):
            return False
        is_urgent = self._kept.continuity.boundary(now := self._clock()) is Boundary.NONE
        delay = self._pool.delay_of_recovery(self._client, is_urgent=is_urgent)
        if not self._lose(end, delay=delay):
            return False
        if self._host is not None:
            former = self._host.connection
            former.leg.start(InputDiscarder(former.leg))
            former.leg.release("sink_full")
            close_later(former, self._calls, close_side(former.leg, end.upstream, now + UPSTREAM_CLOSE_SECONDS))
        self._go_on()
        return True

    def event_kept(self) -> None:
        """An event of upstream passes. Where a switch waits for a boundary, it may be the last one before it."""
        if self._swap.state is SwapState.READY:
            self._calls.soon(self.advance)

    def stop_renewing(self) -> None:
        """Prepare no other connection from now on, and drop one that is prepared: the process drains. Raises nothing."""
        self._calls.run(self._stop_renewing)

    def _stop_renewing(self) -> None:
        self._is_draining = True
        if not self._is_over and not self.is_lost:
            self._drop_new()
            if self._swap.state is not SwapState.LIVE:
                self._swap.preparation_failed(self._clock())
            self._schedule(self._clock())

    def stop(self) -> None:
        """Abort everything: the session ends."""
        if self._is_over:
            return
        self._is_over, self._host = True, None
        self._drop_new()
        self._memory.leave()
        self._kept.stop()
        if self._timer is not None:
            self._timer.cancel()
        self._calls.stop()

    async def wait_stopped(self) -> None:
        """Wait until everything is closed, after `stop`."""
        await self._calls.wait_stopped(UPSTREAM_CLOSE_SECONDS)

    # -- the steps ----------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Take the step that is due, if one is."""
        if self._is_over:
            return
        now = self._clock()
        step = self._swap.due(now, lambda: self._kept.continuity.boundary(self._clock()))
        if self._swap.state is not SwapState.LIVE and self._obstacle is not None:
            self._stop_swap()
            step = None
        match step:
            case Step.PREPARE:
                self._prepare(now)
            case Step.DIAL:
                self._swap.dialling()
                self._start_dial(self._pool.recoveries)
            case Step.SWITCH:
                self._try_switch()
            case Step.FORCE:
                self._force()
            case Step.ABANDON if self._new is not None and self._new.await_no_lists():
                self._progressed()
            case Step.ABANDON | Step.RESTART:
                self._failed("timeout", is_final=False)
            case Step.GIVE_UP:
                self._give_up("timeout")
        self._wake()

    def _stop_swap(self) -> None:
        """Give up a swap that the conversation does not allow any more: the session stays as it is, or ends."""
        self._drop_new()
        if self.is_lost:
            self._give_up(self._obstacle or "")
        else:
            self._swap.preparation_failed(self._clock())
            self._swap.renew_never()

    @property
    def _obstacle(self) -> str | None:
        """Why the conversation cannot go on at another upstream; what has been replayed of it there is not all of it."""
        why = self._kept.continuity.not_renewable
        return None if why == PENDING_APPROVAL else why

    def _prepare(self, now: float) -> None:
        why = self._kept.continuity.not_renewable
        if why is None:
            self._swap.preparing(now)
            self.report.begin("renewal", now)
            self._start_dial(self._pool.renewals)
        elif why in PASSING:
            self._swap.postpone(now)
            self.report.postponed(why)
        else:
            self._swap.renew_never()

    def _force(self) -> None:
        """Go over to the prepared connection although an answer or a turn is open: the provider ends the session now."""
        host = self._host
        if host is None or self._kept.continuity.not_renewable is not None:
            return  # an event that ends this is one that is kept; or the provider's end decides
        if not host.can_swap:
            host.await_boundary(partial(self._calls.run, self.advance))
        elif self._lose(_ENDED_AT_LIMIT, is_forced=True):
            host.connection.leg.drop_data()  # else it would answer what the next one answers as well
            retire(host.connection, self._calls, self._old_message, RETIRED_SECONDS)
            self._go_on()

    def _lose(self, end: Ending, *, delay: float = 0.0, is_forced: bool = False) -> bool:
        """Go on without upstream, if that is possible; `end` is the ending otherwise."""
        host, now = self._host, self._clock()
        why = self._obstacle
        if host is None or why is not None or not host.can_swap:
            self.report.not_recovered(why or "inside_a_message")
            return False
        if not self._swap.lost(now, delay=delay, is_forced=is_forced):
            self.report.not_recovered("too_many")
            return False
        self._original, self._idle_until = end, 0.0
        self.report.begin("forced" if is_forced else "loss", now, reason=end.reason)
        host.count_received()
        host.upstream_missing(self._kept.lose_upstream())
        return True

    def _go_on(self) -> None:
        """Go on with the connection that is being prepared or dialled, or dial."""
        if self._new is not None:
            self._new.go_on_as_recovery()
        self.advance()

    def _give_up(self, why: str) -> None:
        (self.report.given_up if self._obstacle is None else self.report.not_recovered)(why)
        if self._host is not None and self._original is not None:
            self._host.end_unrecovered(relay_ended(why) if why == "relay_draining" else self._original)

    # -- the new connection -------------------------------------------------------------------------------------------

    def _start_dial(self, slots: FairSlots) -> None:
        self.report.attempts += 1
        self._new = Preparation(
            self._kept.continuity,
            self._swap,
            calls=self._calls,
            is_recovery=self.is_lost,
            on_progress=self._progressed,
            on_failed=self._failed,
        )
        work = self._new.dial_and_begin(self._redial, slots.slot(self._client), self._pool.times)
        self._dialling = self._calls.spawn(work)

    def _progressed(self) -> None:
        replay = self._new.replay if self._new is not None else None
        if replay is None:
            return
        if not self.is_lost:
            if self._swap.state is SwapState.PREPARING and replay.is_ready:
                self._swap.prepared()
            self._calls.soon(self.advance)
        elif replay.is_done:
            self._calls.soon(self._finish_recovery)

    def _failed(self, why: str, is_final: bool) -> None:  # noqa: FBT001 - of the callback
        self._drop_new()
        if self._is_over:
            return
        if not self.is_lost:
            self._swap.preparation_failed(self._clock())
            self.report.renewal_failed(why)
        elif is_final or not self._swap.attempt_failed(self._clock()):
            self._give_up(why)
        else:
            self._wake()

    def _try_switch(self) -> None:
        """Switch at this boundary, if the new connection is in sync; else bring it in sync, and wait for the next chance."""
        host, new = self._host, self._new
        if host is None or new is None or new.replay is None or not new.at_boundary or not host.can_swap:
            return
        is_answering = new.is_answering()
        if new.send_next(is_final=True) or not new.replay.is_done or not is_answering:
            return
        seconds = RETIRED_SECONDS if self._kept.continuity.awaits_transcripts else 0.0
        # At once: what the former connection still sends must not reach the client's pipe.
        retire(self._join(host, new), self._calls, self._old_message, seconds)

    def _finish_recovery(self) -> None:
        host, new = self._host, self._new
        if host is None or new is None or new.replay is None or not self.is_lost:
            return
        self._kept.continuity.boundary(self._clock())  # folds what the client has sent
        if self._obstacle is not None:
            self._stop_swap()
        elif not new.replay.is_done:  # items have exceeded their bound
            new.pump()
        elif new.at_boundary and new.is_answering():  # else the next delivery comes here again
            self._swap.replayed()
            self._join(host, new)

    def _join(self, host: SwapHost, new: Preparation) -> UpstreamConnection:
        """Make the new connection that of the session, in one turn of the event loop; returns the former one."""
        self._new = None
        connection, replay = new.hand_over()
        former = host.connection
        try:
            host.replace_upstream(connection)
            self._kept.flush(replay, connection.leg)
        except Exception:  # the session ends, which has one of the two
            former.abort()
            connection.abort()
            raise
        self._original = None
        self._swap.live()
        self._finished(replay)
        host.read_upstream()
        return former

    def _finished(self, replay: Replay) -> None:
        now = self._clock()
        self._expires_at = self._kept.continuity.expires_at
        self._schedule(now)
        self.report.done(now, replay, self._kept.continuity.lost_turns)

    def _drop_new(self) -> None:
        if self._dialling is not None and self._dialling is not asyncio.current_task():
            self._dialling.cancel()
        if self._new is not None:
            self._new.abort()
        self._dialling = self._new = None

    def _wake(self) -> None:
        """Take the next step in time, while upstream is missing or about to be replaced: ticks are for what can wait."""
        if self._timer is not None:
            self._timer.cancel()
        state, at, now = self._swap.state, self._swap.next_at(), self._clock()
        # An overdue switch waits for an event, or the tick.
        is_timed = state is not SwapState.LIVE and (at > now or state is not SwapState.READY)
        if is_timed and at < math.inf and not self._is_over:
            self._timer = self._calls.at(max(at, now + _WAKE_SECONDS), self.advance)

    def _old_message(self, message: Message) -> None:
        if self._host is not None:
            is_shown = self._kept.continuity.old_upstream_event(message.type or "", message.raw, self._clock())
            self._host.forward_late(message, is_shown=is_shown)

    # -- by the clock -------------------------------------------------------------------------------------------------

    def _schedule(self, now: float) -> None:
        if self._is_draining or not self._kept.continuity.is_renewed:
            self._swap.renew_never()
        else:
            self._swap.schedule(now, None if self._expires_at is None else self._expires_at - time.time())
