"""`python -m tests.continuity.every_event`: random conversations, each again and again with a loss at another of its events.

    python -m tests.continuity.every_event sockets --first-seed 1 --conversations 100
    python -m tests.continuity.every_event memory --first-seed 1 --conversations 10000
    python -m tests.continuity.every_event wide --first-seed 1 --conversations 10000

`sockets`: a relay and the simulator in this process, and a client on a socket. `memory`: only what a session keeps, on a
model of the API, with folding, renewals and further losses at random. `wide`: the same with more of the API. Prints a line
a minute, and each failure with the command that repeats it; a run goes on with `--first-seed`. Exit code 1: a conversation
failed.
"""

import argparse
import asyncio
import itertools
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from service import loop
from service.simulator import Behaviour, Fault, Moment, Simulator
from service.simulator.record import LANE_PARAMETER, ConnectionRecord
from tests.continuity.caller import PATH, Caller
from tests.continuity.conversations import ENDS, Talk, check_all
from tests.continuity.relays import Stage, stage
from tests.support.harness import eventually, open_raw
from tests.support.talk import Talk as MemoryTalk
from tests.support.talk import random_talk, talk_through
from tests.support.wide_talk import WideTalk, random_wide_talk

_SEEDS_OF_A_RELAY: Final = 20
"""Then a new one follows: numbered voices count to six hours, and logs are kept."""
_PIECE_MS: Final = 100  # of audio in an event, of which a loss can be at each
_STEPS: Final = 3  # of a conversation on sockets
_SHOW_SECONDS: Final = 60.0
_lanes: Final = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Failure:
    """What is needed to see it again."""

    where: str  # `sockets`, `memory` or `wide`
    seed: int
    event: int  # 0: none was lost
    error: BaseException

    def __str__(self) -> str:
        options = f"--first-seed {self.seed} --conversations 1 --event {self.event}"
        text = "".join(traceback.format_exception(self.error))
        return f"again: python -m tests.continuity.every_event {self.where} {options}\n{text}"


@dataclass
class Progress:
    """What has been tried so far."""

    conversations: int = 0
    runs: int = 0
    losses: int = 0
    failures: list[Failure] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=time.process_time)
    shown: float = field(default_factory=time.monotonic)

    def __str__(self) -> str:
        seconds, cpu = time.monotonic() - self.began, time.process_time() - self.cpu
        return (
            f"{self.conversations} conversations, {self.losses} losses in {self.runs} runs, {len(self.failures)} failed; "
            f"{seconds:.0f} s, {cpu:.0f} s of CPU, {1000 * cpu / max(1, self.runs):.1f} ms of CPU a run"
        )

    def count(self, event: int) -> None:
        """Count a run with a loss at this event, or without one."""
        self.runs += 1
        self.losses += event > 0
        self.show()

    def show(self) -> None:
        """Print it once a minute."""
        if time.monotonic() > self.shown + _SHOW_SECONDS:
            self.shown = time.monotonic()
            _print(f"  {self}")

    def failed(self, failure: Failure) -> None:
        """Report a failure."""
        self.failures.append(failure)
        _print(str(failure))


# -- on sockets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Lane:
    """The upstream connections of one of the calls on a simulator."""

    simulator: Simulator
    name: str

    @property
    def upstreams(self) -> list[ConnectionRecord]:
        """In the order of the dials."""
        return self.simulator.upstreams(self.name)

    @property
    def conversations(self) -> list[Any]:
        """The `ConversationRecord` of each of them."""
        return [record.conversation for record in self.upstreams if record.conversation is not None]

    def forget(self) -> None:
        """Free the records."""
        connections = self.simulator.connections
        connections[:] = [record for record in connections if record.lane != self.name]


async def check_on_sockets(seeds: Iterable[int], progress: Progress, *, at_once: int, event: int | None = None) -> None:
    """Hold the conversations of these seeds with a loss at each of their events, or at one."""
    left = iter(seeds)
    while batch := list(itertools.islice(left, _SEEDS_OF_A_RELAY)):
        async with stage(RELAY_MAX_RECONNECTS_PER_MINUTE="0") as found:
            talks = iter([Talk(seed, _STEPS) for seed in batch])
            await asyncio.gather(*(_hold_each(found, talks, progress, event) for _ in range(at_once)))


async def _hold_each(found: Stage, talks: Iterator[Talk], progress: Progress, event: int | None) -> None:
    for talk in talks:
        events = await _try(found, talk, event or 0, progress)
        for number in range(1, events + 1) if event is None else ():
            await _try(found, talk, number, progress)
        progress.conversations += 1


async def _try(found: Stage, talk: Talk, event: int, progress: Progress) -> int:
    """Hold a conversation with a loss at this event, 0: without one; returns the number of events of its first connection."""
    progress.count(event)
    found.relay.logs.clear()
    lane = _Lane(found.simulator, f"lane-{next(_lanes)}")
    faults = (Fault(Moment.EITHER, ENDS[event % len(ENDS)], count=event),) if event else ()
    found.simulator.set_dials(Behaviour(faults=faults), lane=lane.name)
    try:
        await _hold(found, lane, talk)
        return int(lane.conversations[0].event_count)
    except Exception as error:  # noqa: BLE001 - reported; the next run follows
        progress.failed(Failure("sockets", talk.seed, event, error))
        return 0
    finally:
        lane.forget()


async def _hold(found: Stage, lane: _Lane, talk: Talk) -> None:
    caller = Caller(
        await open_raw(found.relay.app.public_port, f"{PATH}&{LANE_PARAMETER}={lane.name}"), piece_ms=_PIECE_MS
    )
    try:
        await caller.until("session.created")
        await talk.hold(caller)
        check_all(lane, caller)
        if lane.upstreams[0].ended_by is not None:
            await eventually(lambda: len(lane.upstreams) > 1)
    finally:
        await caller.stop()


# -- without sockets --------------------------------------------------------------------------------------------------


def check_in_memory(
    seeds: Iterable[int], progress: Progress, *, event: int | None = None, is_wide: bool = False
) -> None:
    """The same on a model of the API."""
    for seed in seeds:
        events = _talk(seed, event or 0, progress, is_wide=is_wide)
        for number in range(1, events + 1) if event is None else ():
            _talk(seed, number, progress, is_wide=is_wide)
        progress.conversations += 1


def _talk(seed: int, event: int, progress: Progress, *, is_wide: bool) -> int:
    """Returns the number of events."""
    progress.count(event)
    steps, plan, options = random_wide_talk(seed) if is_wide else random_talk(seed)
    kind = WideTalk if is_wide else MemoryTalk
    try:
        return talk_through(steps, plan, (event,) if event else (), kind=kind, **options).call.passed
    except Exception as error:  # noqa: BLE001 - reported; the next run follows
        progress.failed(Failure("wide" if is_wide else "memory", seed, event, error))
        return 0


# -- the program ------------------------------------------------------------------------------------------------------


def main() -> int:
    """Run it; returns 1 if a conversation failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.continuity.every_event", description=__doc__)
    parser.add_argument("where", choices=("sockets", "memory", "wide"))
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--conversations", type=int, default=100)
    parser.add_argument("--event", type=int, help="only a loss at this event; 0: none")
    parser.add_argument("--at-once", type=int, default=8, help="conversations on sockets")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.conversations)
    progress = Progress()
    if options.where != "sockets":
        check_in_memory(seeds, progress, event=options.event, is_wide=options.where == "wide")
    else:
        with asyncio.Runner(loop_factory=loop.new_event_loop) as runner:
            runner.run(check_on_sockets(seeds, progress, at_once=options.at_once, event=options.event))
    _print(f"{progress}; seeds {seeds[0]} to {seeds[-1]}")
    return 1 if progress.failures else 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
