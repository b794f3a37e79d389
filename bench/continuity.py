"""`python -m bench.continuity`: what renewals and recoveries of upstream connections cost, and what they lose.

    .venv/dev/bin/python -m bench.continuity [PART ...] [--swaps N] [--calls N] [--seed N] [--sessions N] [--short]

Each part prints a line or a table. Exit code 1: a sample was lost or doubled, or a call ended that should have gone on.
"""

import argparse
import asyncio
import importlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from bench.callers import Caller, Site, site, switches_of
from bench.machine import describe, prepare
from bench.renew_cost import measure_cost
from bench.renewal import measure_renewal
from bench.spread import percentile, spread
from bench.swaps import measure_swaps
from service.simulator import Behaviour, End, SimulatorOptions

_ROUND_TRIPS_MS: Final = (0.0, 150.0)
_ITEMS: Final = (20, 200, 500)
_COST_SESSIONS: Final = 100  # of each mode
_ITEM_TEXT: Final = (
    "A sentence of about a hundred characters, as people say them to each other when they are on the phone."
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured."""

    swaps: int
    calls: int  # at the same time, with swaps
    sessions: int  # of the storm
    recoveries: int
    renewals: int
    memory_sessions: int
    cost_rounds: int
    first_seed: int


Part = Callable[[Sizes], Coroutine[None, None, bool]]


# -- recovery ---------------------------------------------------------------------------------------------------------


async def measure_recovery(sizes: Sizes) -> bool:
    """From the loss to the first audio at another connection."""
    for round_trip in _ROUND_TRIPS_MS:
        gaps = list[float]()
        async with site(SimulatorOptions(default=Behaviour(round_trip_ms=round_trip))) as running:
            for _ in range(sizes.recoveries):
                gaps.append(await _recover_once(running))
        expected = 3 * round_trip + 50
        _print(f"loss to first audio at {round_trip:.0f} ms of round trip: {spread(gaps)}; expected: {expected:.0f} ms")
    return True


async def _recover_once(running: Site) -> float:
    caller = await Caller.connect(running)
    await caller.configure()
    talking = asyncio.create_task(caller.be_silent(60))
    await asyncio.sleep(0.3)
    lost_at = time.monotonic()
    await running.simulator.drop_all(End.RESET, lane=caller.lane)
    async with asyncio.timeout(30):
        while not (switches := switches_of(caller)):  # noqa: ASYNC110 - it must not cost the loop more than a look
            await asyncio.sleep(0.002)
    talking.cancel()
    await asyncio.gather(talking, return_exceptions=True)
    await caller.close()
    return switches[0] - lost_at


# -- replay -----------------------------------------------------------------------------------------------------------


async def measure_replay(sizes: Sizes) -> bool:
    """What a conversation of many items costs at a recovery, and the input of the next answer."""
    del sizes
    async with site(SimulatorOptions(pace=0)) as running:
        for number, items in enumerate((0, *_ITEMS)):
            caller = await Caller.connect(running)
            for at in range(items):
                kind = "output_text" if at % 2 else "input_text"
                message = {
                    "type": "message",
                    "role": "assistant" if at % 2 else "user",
                    "content": [{"type": kind, "text": _ITEM_TEXT}],
                }
                await caller.send({"type": "conversation.item.create", "item": message})
            await caller.wait("conversation.item.done", items) if items else None
            await running.simulator.drop_all(End.RESET, lane=caller.lane)
            line = (await running.wait_log("session.recovered", number + 1))[-1]
            await caller.send({"type": "response.create"})
            await caller.wait("response.done")
            tokens = caller.usage[-1].get("input_tokens")
            _print(
                f"replay of {items} items: {line['bytes_sent']} bytes, {line['gap_seconds'] * 1000:.0f} ms until the switch; "
                f"the next answer has {tokens} tokens of input"
            )
            await caller.close()
    return True


# -- memory -----------------------------------------------------------------------------------------------------------


async def measure_memory(sizes: Sizes) -> bool:
    """Bytes of a session without and with continuity: silent, in a sentence; in another process after an hour of turns.

    The memory that speech has needed stays with the process, which reuses it for other speech only.
    """
    rows = dict[str, list[float]]()
    for mode in ("off", "renew"):
        rows[mode] = []
        for states in (_speech, _items):
            async with site(SimulatorOptions(pace=0), mode=mode) as running:
                before = running.process.memory().rss
                callers = [await Caller.connect(running) for _ in range(sizes.memory_sessions)]
                for caller in callers:
                    await caller.configure(create_response=False)
                async for _ in states(callers):
                    rows[mode].append((running.process.memory().rss - before) / sizes.memory_sessions)
                await asyncio.gather(*(caller.close() for caller in callers))
    for at, state in enumerate(("idle", "five seconds into a sentence", f"after {_HOUR_ITEMS} items")):
        off, renew = rows["off"][at], rows["renew"][at]
        _print(f"memory of a session, {state}: {off:.1f} kB off, {renew:.1f} kB renew: {renew - off:+.1f} kB")
    return True


_HOUR_ITEMS: Final = 480
_ITEM_SECONDS: Final = 0.1  # five between two ticks, or what waits to be read takes memory as well


async def _speech(callers: list[Caller]) -> AsyncIterator[None]:
    # Their microphones do not open at the same time, else all of them would keep the most at the same time.
    await asyncio.gather(*(_open_microphone(caller, at / len(callers)) for at, caller in enumerate(callers)))
    yield
    await asyncio.gather(*(caller.speak(5) for caller in callers))
    yield


async def _open_microphone(caller: Caller, after: float) -> None:
    await asyncio.sleep(after)
    await caller.be_silent(4 - after)


async def _items(callers: list[Caller]) -> AsyncIterator[None]:
    await asyncio.gather(*(caller.be_silent(1) for caller in callers))
    message: dict[str, Any] = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": _ITEM_TEXT}],
    }
    for _ in range(_HOUR_ITEMS):
        for caller in callers:
            await caller.send({"type": "conversation.item.create", "item": message})
        await asyncio.sleep(_ITEM_SECONDS)
    await asyncio.gather(*(caller.wait("conversation.item.done", _HOUR_ITEMS) for caller in callers))
    await asyncio.sleep(1.5)
    yield


# -- storm ------------------------------------------------------------------------------------------------------------


async def measure_storm(sizes: Sizes) -> bool:
    """Every session loses its upstream at once, while newcomers connect."""
    async with site(SimulatorOptions(pace=0)) as running:
        slots = asyncio.Semaphore(50)

        async def connect() -> Caller:
            async with slots:
                caller = await Caller.connect(running)
                await caller.configure(create_response=False)
                return caller

        callers = await asyncio.gather(*(connect() for _ in range(sizes.sessions)))
        before = [await _newcomer(running) for _ in range(5)]
        lost_at = time.monotonic()
        await running.simulator.drop_all(End.RESET)
        newcomers = list[float]()
        while (
            time.monotonic() < lost_at + 60
            and len(running.log("session.recovered", "session.not_recovered")) < sizes.sessions
        ):
            newcomers.append(await _newcomer(running))
            await asyncio.sleep(0.2)
        gaps = [line["gap_seconds"] for line in running.log("session.recovered")]
        ended = sum(caller.close_code is not None for caller in callers)
        await asyncio.gather(*(caller.close() for caller in callers))
    shares = ", ".join(f"{share:.0%} {percentile(gaps, share):.2f} s" for share in (0.5, 0.99, 1.0))
    _print(
        f"{sizes.sessions} sessions lost at once: {len(gaps)} recovered, {ended} ended; back after: {shares}; "
        f"{len(newcomers)} newcomers meanwhile: {spread(newcomers)}, before: {spread(before)}"
    )
    return len(gaps) == sizes.sessions


async def _newcomer(running: Site) -> float:
    began = time.monotonic()
    caller = await Caller.connect(running)
    took = caller.types["session.created"][0] - began
    await caller.close()
    return took


PARTS: Final[dict[str, Part]] = {
    "renewal": lambda sizes: measure_renewal(sizes.renewals, _print),
    "recovery": measure_recovery,
    "swaps": lambda sizes: measure_swaps(sizes.swaps, sizes.first_seed, sizes.calls, _print),
    "replay": measure_replay,
    "memory": measure_memory,
    "storm": measure_storm,
    "cost": lambda sizes: measure_cost(_COST_SESSIONS, sizes.cost_rounds, _print),
}


def main() -> int:
    """Measure the parts; returns 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m bench.continuity", description="Measures renewals and recoveries.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--swaps", type=int, default=1000)
    parser.add_argument("--sessions", type=int, default=1000, help="of the storm")
    parser.add_argument("--seed", type=int, default=1, help="of the first call with swaps")
    parser.add_argument("--calls", type=int, default=30, help="with swaps, at the same time")
    parser.add_argument("--short", action="store_true", help="a tenth of each")
    options = parser.parse_args()
    share = 10 if options.short else 1
    sizes = Sizes(
        swaps=options.swaps // share,
        calls=options.calls,
        sessions=options.sessions // share,
        recoveries=100 // share,
        renewals=240 // share,
        memory_sessions=60 // share,
        cost_rounds=20 // share,
        first_seed=options.seed,
    )
    prepare()
    _print(", ".join(describe().values()))

    # The load of "cost" needs the faster event loop; the others are measured on that of their figures so far.
    runs = [
        importlib.import_module("uvloop").run(PARTS[name](sizes)) if name == "cost" else asyncio.run(PARTS[name](sizes))
        for name in options.parts or PARTS
    ]
    return 0 if all(runs) else 1


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
