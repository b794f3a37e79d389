"""`make e2e-store`: three relay processes on one real Redis, which writes each change to its disk.

    python -m tests.e2e.shared_store [--only NAME ...] [--seconds 10]

Prints a table of what callers saw and what was counted. Exit codes: 0 passed, 1 failed, 3 there is no redis-server.
"""

import argparse
import asyncio
import tempfile
import time
from pathlib import Path

from tests.e2e.shared_store.instances import DURABLE
from tests.e2e.shared_store.scenarios import SCENARIOS, Row, Surroundings
from tests.support.command_line import NOT_RUN, print_line, run_program
from tests.support.redis_server import RedisServer
from tools.debian import PackageUnavailable


def main() -> int:
    """Run the scenarios; returns the exit code."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="realtime-relay-store-") as folder:
        redis = RedisServer(Path(folder), *DURABLE)
        try:
            redis.start()
        except PackageUnavailable as exc:
            print_line(f"NOT RUN: e2e-store: redis-server is not available on this machine: {exc}")
            return NOT_RUN
        try:
            return asyncio.run(_run(Surroundings(redis, Path(folder), options.seconds), options.only))
        finally:
            redis.stop()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.shared_store", description="Three relays on one Redis.")
    parser.add_argument("--only", action="append", choices=[scenario.__name__ for scenario in SCENARIOS])
    parser.add_argument("--seconds", type=float, default=10.0, help="the length of a phase")
    return parser.parse_args()


async def _run(around: Surroundings, only: list[str] | None) -> int:
    rows: list[Row] = []
    failed = 0
    for scenario in SCENARIOS:
        if only and scenario.__name__ not in only:
            continue
        started = time.monotonic()
        try:
            rows += await scenario(around)
            result = "passed"
        except (AssertionError, OSError, EOFError, TimeoutError) as exc:
            failed += 1
            result = f"FAILED: {type(exc).__name__} {exc}"
        print_line(f"{scenario.__name__} {result} in {time.monotonic() - started:.0f} s")
    print_line("| what happens | what callers saw | what was counted |\n| --- | --- | --- |")
    for row in rows:
        print_line(f"| {' | '.join(row)} |")
    return 1 if failed else 0


if __name__ == "__main__":
    run_program(main)
