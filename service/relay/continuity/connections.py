"""Upstream connections of a session that do not carry it: one that is prepared, and one that has been replaced."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Final

from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Item, Message
from service.relay.continuity.guarded_calls import GuardedCalls
from service.upstream.dial import UpstreamConnection
from service.wire.control import handle_control
from service.wire.leg import Leg
from service.wire.turns import feed_some

RETIRED_SECONDS: Final = 2.0
"""How long a connection that has been replaced is read for late transcriptions."""


class MessageReceiver:
    """The receiver of an upstream leg whose events are not forwarded. It shows the messages that the scanner reads whole.

    `on_read` is called after each delivery, `on_lost` once upstream has closed, lost or broken the connection, all by
    `calls`. The receiver answers control frames and does not close the leg; its owner does.
    """

    def __init__(
        self,
        leg: Leg,
        scanner: Scanner,
        *,
        calls: GuardedCalls,
        on_message: Callable[[Message], object],
        on_lost: Callable[[], object],
        on_read: Callable[[], object] = lambda: None,
    ) -> None:
        self._calls = calls
        self._leg = leg
        self._scanner = scanner
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_read = on_read

    @property
    def at_boundary(self) -> bool:
        """Whether all that was received is whole messages."""
        return self._scanner.at_message_boundary and not self._scanner.mid_frame

    def receive(self, data: bytes) -> None:
        """Called by the leg."""
        self._calls.run(self._receive, data)

    def _receive(self, data: bytes) -> None:
        self.process(feed_some(self._leg, self._scanner, data))

    def process(self, items: list[Item]) -> None:
        """Process what was received."""
        for item in items:
            if isinstance(item, Message):
                self._on_message(item)
            elif handle_control(self._leg, item) is not None:
                self._on_lost()
                return
        self._on_read()

    def peer_lost(self) -> None:
        """Called by the leg."""
        self._calls.run(self._on_lost)


class RetiredConnection:
    """A connection that has been replaced: from its creation on, what it sends goes to `on_message` and nowhere else."""

    def __init__(
        self, connected: UpstreamConnection, calls: GuardedCalls, on_message: Callable[[Message], object]
    ) -> None:
        self._connected = connected
        self._is_over = asyncio.Event()
        leg = connected.leg
        receiver = MessageReceiver(
            leg, connected.scanner, calls=calls, on_message=on_message, on_lost=self._is_over.set
        )
        leg.start(receiver)
        leg.release("sink_full")

    async def close(self, seconds: float) -> None:
        """Read it for `seconds`, then close it with 1000. Cancellation aborts it."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._is_over.wait()
            if self._is_over.is_set():
                self._connected.leg.close()
            else:
                await self._connected.close()
        finally:
            self._connected.abort()


def retire(
    connected: UpstreamConnection, calls: GuardedCalls, on_message: Callable[[Message], object], seconds: float
) -> None:
    """Read a connection that has been replaced for `seconds`, and close it."""
    close_later(connected, calls, RetiredConnection(connected, calls, on_message).close(seconds))


def close_later(connected: UpstreamConnection, calls: GuardedCalls, work: Coroutine[object, object, object]) -> None:
    """Close a connection by `work`; it is aborted in the end, also if the work is cancelled before it has begun."""
    calls.spawn(work).add_done_callback(lambda _: connected.abort())
