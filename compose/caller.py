"""The demo's caller: it keeps conversations going, and makes failures when it is asked to.

    docker compose exec caller python /demo/caller.py fail --list
    docker compose exec caller python /demo/caller.py fail key-rejected flood --times 3 --pause 1

Exit codes of `fail`: 0 if every failure looked as it should, 1 if one did not, 2 for a name that there is not.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import aiohttp

from calls import Line, hear_why
from conversations import keep_talking
from troubles import CLIENTS, SCENARIOS, TROUBLES, WELL, Trouble, all_is_well, make_trouble

HEARTBEAT: Final = Path("/tmp/heartbeat")  # noqa: S108 - a tmpfs of this container's own
HEALTHY_SECONDS: Final = 60.0
MOST_TIMES: Final = 1000
MOST_SECONDS: Final = 1800.0


def main() -> int:
    """Run a command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="caller.py", description="Makes traffic for the relay, and failures on request."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="keep conversations going")
    run.add_argument("--conversations", type=bounded(0, 50), default=6, help="how many at once (0 to 50)")
    fail = commands.add_parser("fail", help="make failures, and print what the caller saw of them")
    fail.add_argument("names", nargs="*", metavar="NAME", help="which; see --list")
    fail.add_argument("--list", action="store_true", help="list the failures")
    fail.add_argument("--times", type=bounded(1, MOST_TIMES), default=1, help=f"how often each (1 to {MOST_TIMES})")
    fail.add_argument("--pause", type=float, default=0.5, help="seconds between two (0.5)")
    commands.add_parser("healthy", help="exit 0 if somebody was answered within the last minute")
    arguments = parser.parse_args()
    if arguments.command == "healthy":
        return 0 if is_healthy() else 1
    if arguments.command == "run":
        asyncio.run(talk(arguments.conversations))
        return 0
    if arguments.list or not arguments.names:
        sys.stdout.write(listing())
        return 0
    unknown = [name for name in arguments.names if name not in TROUBLES]
    if unknown:
        sys.stderr.write(f"There is no {', '.join(unknown)}; see fail --list\n")
        return 2
    return asyncio.run(fail_all(arguments.names, arguments.times, max(0.0, arguments.pause)))


def bounded(least: int, most: int) -> Callable[[str], int]:
    """A parser of numbers between two others."""

    def parse(text: str) -> int:
        if not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
        return int(text)

    return parse


def listing() -> str:
    """Every failure with the relay's name for it."""
    lines = []
    for title, troubles in (("The provider:", SCENARIOS), ("The client:", CLIENTS)):
        lines.append(title)
        lines += [f"  {name:<20} {expected(trouble)}" for name, trouble in troubles.items()]
    return "\n".join(lines) + "\n"


def expected(trouble: Trouble) -> str:
    """What is to come of a failure."""
    if trouble.reason == WELL:
        return f"the call lives on; {trouble.seen} in an event" if trouble.seen else "the call lives on"
    return (
        trouble.reason if trouble.told == trouble.reason else f"{trouble.reason}, of which the caller is told nothing"
    )


def is_healthy() -> bool:
    """Whether somebody was answered of late."""
    with suppress(OSError):
        return time.time() - HEARTBEAT.stat().st_mtime < HEALTHY_SECONDS
    return False


def client() -> aiohttp.ClientSession:
    """The connections of a caller; a refusal tells why."""
    return aiohttp.ClientSession(middlewares=(hear_why,), connector=aiohttp.TCPConnector(limit=0))


def address() -> str:
    """Where the relay is."""
    return os.environ.get("CALLER_URL", "http://127.0.0.1:8080").rstrip("/")


async def talk(conversations: int) -> None:
    """Keep conversations going until SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    HEARTBEAT.touch()
    async with client() as http:
        line = Line(http, address())
        callers = [
            asyncio.create_task(keep_talking(line, number, HEARTBEAT.touch, _say)) for number in range(conversations)
        ]
        ends = asyncio.create_task(stopped.wait())
        await asyncio.wait({*callers, ends}, return_when=asyncio.FIRST_COMPLETED)
        broken = [caller for caller in callers if caller.done()]
        for task in (*callers, ends):
            task.cancel()
        await asyncio.wait({*callers, ends})
        for caller in broken:
            caller.result()  # one that has failed by itself is a bug, told with its traceback


async def fail_all(names: list[str], times: int, pause: float) -> int:
    """Make each failure so often, one after the other, within half an hour."""
    well = True
    try:
        async with asyncio.timeout(MOST_SECONDS), client() as http:
            line = Line(http, address())
            for name in names:
                for _ in range(times):
                    well = await _fail(line, name) and well
                    await asyncio.sleep(pause)
    except TimeoutError:
        _say(f"stopped after {MOST_SECONDS:.0f} seconds\n")
        return 1
    return 0 if well else 1


async def _fail(line: Line, name: str) -> bool:
    trouble = TROUBLES[name]
    if name in SCENARIOS and not await all_is_well(line):
        _say(f"{name}: not tried, because no call comes about\n")
        return False
    outcome = await make_trouble(line, trouble)
    right = outcome.reason == trouble.told
    said = "" if trouble.reason in (trouble.told, WELL) else f" (the relay: {trouble.reason})"
    _say(f"{name}: {outcome}{said}" + ("\n" if right else f"\n{name}: NOT AS EXPECTED: {expected(trouble)}\n"))
    return right


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
