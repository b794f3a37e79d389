"""As many messages as asked for through one relay, as fast as it forwards them: `make bench ARGS="soak --messages 10000000"`.

In rounds of ten minutes, each with new sessions. At the end of a round every chain is compared at its two ends.
"""

import argparse
import asyncio
import gc
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from bench.chains import ChainedIncoming, ChainedOutgoing
from bench.contenders import Contender
from bench.endpoints import Endpoint
from bench.load import SessionGroup, Upstream, Verdict
from bench.network import PacedWriter, Shape
from bench.process import Process

_CONCURRENCY: Final = 20
_ROUND_MINUTES: Final = 10.0  # a session lasts at most 65
_REPORT_MINUTES: Final = 1.0
_SAMPLE_SECONDS: Final = 0.5
_TICK_SECONDS: Final = 0.001
_WAIT_SECONDS: Final = 0.01
_IN_FLIGHT: Final = 24  # messages of one direction that have been sent and have not arrived
_DRAIN_SECONDS: Final = 60.0
_SEED: Final = 13
_SHAPES: Final = (
    (40, Shape("one message in a write")),
    (30, Shape("five messages in a write", messages=5)),
    (15, Shape("three messages in segments", messages=3, sizes=(1448, 1448))),
    (14, Shape("four messages in pieces", messages=4, sizes=(1, 6000))),
    (1, Shape("a message in small pieces", sizes=(1, 200))),
)
"""Of how many in a hundred writes."""


Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Direction:
    sender: Endpoint
    outgoing: ChainedOutgoing
    incoming: ChainedIncoming


@dataclass(slots=True)
class Total:
    """What has passed so far."""

    sent: int = 0
    received: int = 0
    sent_bytes: int = 0
    large: int = 0
    fragmented: int = 0
    sessions: int = 0
    verdict: Verdict = field(default_factory=Verdict)

    def __str__(self) -> str:
        verdict = self.verdict
        return (
            f"{self.received:,} of {self.sent:,} messages arrived, {self.sent_bytes / 1e9:.1f} GB, "
            f"{self.sessions} sessions, {self.large:,} above 64 KiB, {self.fragmented:,} in fragments; "
            f"{verdict.lost} lost, {verdict.disordered} out of order, {verdict.changed} chains differ"
        )

    def add(self, directions: list[_Direction], verdict: Verdict) -> None:
        """Add a round."""
        self.sent += sum(direction.outgoing.sent for direction in directions)
        self.received += sum(direction.incoming.received for direction in directions)
        self.sent_bytes += sum(direction.outgoing.sent_bytes for direction in directions)
        self.large += sum(direction.outgoing.large for direction in directions)
        self.fragmented += sum(direction.outgoing.fragmented for direction in directions)
        self.sessions += len(directions) // 2
        self.verdict = Verdict(
            self.verdict.lost + verdict.lost,
            self.verdict.disordered + verdict.disordered,
            self.verdict.changed + verdict.changed,
        )


class _Flow:
    """Sends in all directions, as long as less than `_IN_FLIGHT` messages of a direction are on their way."""

    def __init__(self, group: SessionGroup, limit: int) -> None:
        self.directions: list[_Direction] = []
        for client, upstream in group.pairs():
            assert upstream is not None  # noqa: S101 - the session is open
            assert client.incoming is not None  # noqa: S101 - set in __init__
            session, key = client.incoming.session, client._key  # noqa: SLF001 - of this package
            for sender, receiver, masked in ((client, upstream, True), (upstream, client, False)):
                outgoing = ChainedOutgoing(session, key=key if masked else b"")
                incoming = ChainedIncoming(session, is_masked=masked)
                sender.outgoing, receiver.incoming = outgoing, incoming
                self.directions.append(_Direction(sender, outgoing, incoming))
        self._limit = limit
        self._rng = random.Random(_SEED)  # noqa: S311 - shapes of writes, no secret
        self._writers = [writer for share, shape in _SHAPES for writer in [PacedWriter(shape)] * share]
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    @property
    def sent(self) -> int:
        """Messages so far."""
        return sum(direction.outgoing.sent for direction in self.directions)

    @property
    def received(self) -> int:
        """Messages so far."""
        return sum(direction.incoming.received for direction in self.directions)

    @property
    def has_failed(self) -> bool:
        """Whether a connection has ended, or a message was not the one that was due."""
        return any(each.sender.transport is None or each.incoming.first_difference for each in self.directions)

    def start(self) -> None:
        """Send until `stop`, or until the limit is reached."""
        self._tick()

    def stop(self) -> None:
        """Send no new message."""
        if self._handle is not None:
            self._handle.cancel()

    async def finish(self, seconds: float) -> None:
        """Wait until what has been begun is written: a large message in small pieces takes seconds."""
        for _ in range(round(seconds / _WAIT_SECONDS)):
            if not any(each.sender.is_within_frame for each in self.directions):
                return
            await asyncio.sleep(_WAIT_SECONDS)

    @property
    def is_complete(self) -> bool:
        """Whether the limit is reached."""
        return self.sent >= self._limit

    def _tick(self) -> None:
        random_share, writers, count = self._rng.random, self._writers, len(self._writers)
        for direction in self.directions:
            if (
                direction.outgoing.sent - direction.incoming.received < _IN_FLIGHT
                and not direction.sender.is_within_frame
            ):
                writers[int(random_share() * count)].send(direction.sender)
        if not self.is_complete:
            self._handle = self._loop.call_later(_TICK_SECONDS, self._tick)


class Endurance:
    """A run: rounds until the number of messages is reached or the time has passed; it ends at the first difference."""

    def __init__(
        self, contender: Contender, process: Process, upstream: Upstream, options: argparse.Namespace, report: Report
    ) -> None:
        self._contender = contender
        self._process = process
        self._upstream = upstream
        self._options = options
        self._report = report
        self._started = time.perf_counter()
        self._total = Total()

    async def run(self) -> Verdict:
        """Send; returns the verdict of all rounds."""
        total = self._total
        while (
            total.received < self._options.messages and self._minutes < self._options.minutes and total.verdict.is_clean
        ):
            await self._round()
        self._report(f"{self._options.messages:,} messages were asked for. {total}")
        if not total.verdict.is_clean:
            self._report(self._process.log_tail())
        return total.verdict

    @property
    def _minutes(self) -> float:
        return (time.perf_counter() - self._started) / 60

    async def _round(self) -> None:
        group = SessionGroup(self._contender, self._upstream)
        try:
            await group.open(self._options.sessions, concurrency=_CONCURRENCY)
            flow = _Flow(group, self._options.messages - self._total.received)
            await self._send(flow)
            await flow.finish(_DRAIN_SECONDS)
            await group.drain(_DRAIN_SECONDS)
            self._total.add(flow.directions, group.verdict())
        finally:
            await group.close()
        for direction in flow.directions:
            if difference := direction.incoming.first_difference:
                self._report(f"session {direction.outgoing.session}: {difference}")
        self._report(f"{self._minutes:5.1f} min, compared: {self._total}")

    async def _send(self, flow: _Flow) -> None:
        """Send for the length of a round, and report each minute."""
        minutes = min(_ROUND_MINUTES, self._options.minutes - self._minutes)
        ends, next_report = self._minutes + minutes, self._minutes + _REPORT_MINUTES
        flow.start()
        while self._minutes < ends and not flow.is_complete and not flow.has_failed:
            await asyncio.sleep(_SAMPLE_SECONDS)
            if self._minutes >= next_report:
                next_report += _REPORT_MINUTES
                gc.collect()
                reached = self._total.received + flow.received
                self._report(
                    f"{self._minutes:5.1f} min: {reached:,} messages, {reached / self._minutes / 60:,.0f}/s; "
                    f"RSS {self._process.memory().rss} kB, {self._process.open_files()} open files"
                )
        flow.stop()
