"""The demo client: it holds conversations through the relay, and causes failures on request.

    docker compose exec caller python /demo/caller.py fail --list
    docker compose exec caller python /demo/caller.py fail key-rejected flood --times 3 --pause 1

Exit codes of `fail`: 0 if every failure was observed as expected, 1 if one was not, 2 for an unknown name.
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

from calls import RelayClient, raise_refusal
from conversations import repeat_conversations
from failure_cases import (
    CLIENT_CASES,
    FAILURE_CASES,
    NO_FAILURE,
    PROVIDER_CASES,
    FailureCase,
    run_case,
    wait_until_connectable,
)

HEARTBEAT: Final = Path("/tmp/heartbeat")  # noqa: S108 - a tmpfs of this container
HEALTHY_SECONDS: Final = 60.0
MAX_REPETITIONS: Final = 1000
MAX_SECONDS: Final = 1800.0


def main() -> int:
    """Run a command and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="caller.py", description="Sends traffic through the relay, and causes failures on request."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="hold conversations until SIGTERM")
    run.add_argument(
        "--conversations", type=bounded(0, 50), default=6, help="number of concurrent conversations (0 to 50)"
    )
    fail = commands.add_parser("fail", help="cause failures and print the observed outcomes")
    fail.add_argument("names", nargs="*", metavar="NAME", help="name of a failure; see --list")
    fail.add_argument("--list", action="store_true", help="list the failures")
    fail.add_argument(
        "--times",
        type=bounded(1, MAX_REPETITIONS),
        default=1,
        help=f"repetitions of each failure (1 to {MAX_REPETITIONS})",
    )
    fail.add_argument("--pause", type=float, default=0.5, help="seconds between two failures (0.5)")
    commands.add_parser("healthy", help="exit 0 if a conversation received an answer within the last minute")
    arguments = parser.parse_args()
    if arguments.command == "healthy":
        return 0 if is_healthy() else 1
    if arguments.command == "run":
        asyncio.run(converse(arguments.conversations))
        return 0
    if arguments.list or not arguments.names:
        sys.stdout.write(listing())
        return 0
    unknown = [name for name in arguments.names if name not in FAILURE_CASES]
    if unknown:
        sys.stderr.write(f"Unknown failure: {', '.join(unknown)}; see fail --list\n")
        return 2
    return asyncio.run(run_cases(arguments.names, arguments.times, max(0.0, arguments.pause)))


def bounded(minimum: int, maximum: int) -> Callable[[str], int]:
    """A parser for integers within two bounds."""

    def parse(text: str) -> int:
        if not minimum <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(f"{text} is not between {minimum} and {maximum}")
        return int(text)

    return parse


def listing() -> str:
    """All failures with the reason that the relay reports."""
    lines = []
    for title, cases in (("The provider:", PROVIDER_CASES), ("The client:", CLIENT_CASES)):
        lines.append(title)
        lines += [f"  {name:<20} {expected(case)}" for name, case in cases.items()]
    return "\n".join(lines) + "\n"


def expected(case: FailureCase) -> str:
    """The expected outcome of a failure."""
    if case.reason == NO_FAILURE:
        return f"the call continues; event with {case.observed}" if case.observed else "the call continues"
    return case.reason if case.observed_reason == case.reason else f"{case.reason}, not reported to the client"


def is_healthy() -> bool:
    """Whether a conversation received an answer within `HEALTHY_SECONDS`."""
    with suppress(OSError):
        return time.time() - HEARTBEAT.stat().st_mtime < HEALTHY_SECONDS
    return False


def client() -> aiohttp.ClientSession:
    """An HTTP client whose refused upgrades raise Refused with the reason."""
    return aiohttp.ClientSession(middlewares=(raise_refusal,), connector=aiohttp.TCPConnector(limit=0))


def address() -> str:
    """The URL of the relay."""
    return os.environ.get("CALLER_URL", "http://127.0.0.1:8080").rstrip("/")


async def converse(conversations: int) -> None:
    """Hold conversations until SIGTERM."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    HEARTBEAT.touch()
    async with client() as http:
        relay = RelayClient(http, address())
        callers = [
            asyncio.create_task(repeat_conversations(relay, number, HEARTBEAT.touch, _write))
            for number in range(conversations)
        ]
        stop_wait = asyncio.create_task(stopped.wait())
        await asyncio.wait({*callers, stop_wait}, return_when=asyncio.FIRST_COMPLETED)
        failed = [caller for caller in callers if caller.done()]
        for task in (*callers, stop_wait):
            task.cancel()
        await asyncio.wait({*callers, stop_wait})
        for caller in failed:
            caller.result()  # raises: a conversation that ends by itself is a bug


async def run_cases(names: list[str], times: int, pause: float) -> int:
    """Cause each failure `times` times in sequence, for at most `MAX_SECONDS`; returns the exit code."""
    passed = True
    try:
        async with asyncio.timeout(MAX_SECONDS), client() as http:
            relay = RelayClient(http, address())
            for name in names:
                for _ in range(times):
                    passed = await _run(relay, name) and passed
                    await asyncio.sleep(pause)
    except TimeoutError:
        _write(f"stopped after {MAX_SECONDS:.0f} seconds\n")
        return 1
    return 0 if passed else 1


async def _run(relay: RelayClient, name: str) -> bool:
    case = FAILURE_CASES[name]
    if name in PROVIDER_CASES and not await wait_until_connectable(relay):
        _write(f"{name}: not tried, because the relay refuses every connection\n")
        return False
    outcome = await run_case(relay, case)
    as_expected = outcome.reason == case.observed_reason
    relay_reason = "" if case.reason in (case.observed_reason, NO_FAILURE) else f" (the relay: {case.reason})"
    _write(
        f"{name}: {outcome}{relay_reason}" + ("\n" if as_expected else f"\n{name}: NOT AS EXPECTED: {expected(case)}\n")
    )
    return as_expected


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
