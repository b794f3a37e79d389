"""`make e2e-continuity`: unmodified SDKs hold calls that outlive their upstream connection.

    python -m tests.e2e.continuity_clients [--only CLIENT ...] [--row ROW ...] [--at-once N]
    python -m tests.e2e.continuity_clients --row long    a call of two hours, twenty times as fast
    python -m tests.e2e.continuity_clients --beside      SDKs that reconnect by themselves, on the same faults

Each SDK runs as a program of its own, between a microphone that counts aloud and the relay in front of the built-in
simulator. Every sample that is said must be in exactly one turn of the conversation, and every sample of an answer must be
heard once. Exit codes: 0 passed, 1 failed, 3 some clients did not run, since this machine or its registries lack what they
need.
"""

import argparse
import asyncio
import time
from pathlib import Path

from tests.e2e.continuity_clients import beside
from tests.e2e.continuity_clients.clients import CLIENTS, Client
from tests.e2e.continuity_clients.long_call import LONG
from tests.e2e.continuity_clients.rows import ROWS, Row
from tests.e2e.live_clients.environments import EnvironmentUnavailable, WrongPackage
from tests.e2e.live_clients.outcome import ClientFailed
from tests.support.command_line import NOT_RUN, print_line, run_program


def main() -> int:
    """Install the clients, hold the calls, print the results; returns the exit code."""
    options = _options()
    clients = [client for client in CLIENTS if not options.only or client.name in options.only]
    rows = [row for row in (*ROWS, LONG) if (row.name in options.row if options.row else row is not LONG)]
    if options.beside:
        return asyncio.run(_run_beside(options.only, options.at_once))
    return asyncio.run(_run_all(clients, rows, options.at_once))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.continuity_clients", description="SDKs in continuity.")
    names = [client.name for client in CLIENTS]
    parser.add_argument(
        "--only", action="append", choices=[*names, "strands"], help="run this client; may be repeated. Default: all"
    )
    rows = [row.name for row in (*ROWS, LONG)]
    parser.add_argument(
        "--row", action="append", choices=rows, help="run this row; may be repeated. Default: all but long"
    )
    parser.add_argument(
        "--beside", action="store_true", help="print the comparison with SDKs that reconnect by themselves"
    )
    parser.add_argument("--at-once", type=int, default=3, help="calls at the same time (3)")
    return parser.parse_args()


async def _run_all(clients: list[Client], rows: list[Row], at_once: int) -> int:
    started, slots = time.monotonic(), asyncio.Semaphore(at_once)
    counts = {"passed": 0, "failed": 0, "not run": 0}

    async def run(client: Client, environment: Path, row: Row) -> None:
        async with slots:
            try:
                summary = await row.run(client, environment)
            except (ClientFailed, AssertionError, OSError) as exc:  # the others: a call that does not begin
                counts["failed"] += 1
                print_line(f"FAILED: {client.name} {row.name}: {exc}")
            else:
                counts["passed"] += 1
                print_line(f"{client.name} {row.name}: {summary}")

    for client in clients:
        try:
            environment = await asyncio.to_thread(client.install)
        except EnvironmentUnavailable as exc:
            counts["not run"] += len(rows)
            print_line(f"NOT RUN: {client.name}: {exc}")
        except WrongPackage as exc:
            counts["failed"] += len(rows)
            print_line(f"FAILED: {client.name}: {exc}")
        else:
            await asyncio.gather(*(run(client, environment, row) for row in rows))
    print_line(
        ", ".join(f"{count} {name}" for name, count in counts.items()) + f", in {time.monotonic() - started:.0f} s"
    )
    return 1 if counts["failed"] else NOT_RUN if counts["not run"] else 0


async def _run_beside(only: list[str] | None, at_once: int) -> int:
    contenders = [one for one in beside.CONTENDERS if not only or one.client.name in only]
    environments = [await asyncio.to_thread(one.client.install) for one in contenders]
    slots = asyncio.Semaphore(at_once)

    async def measure(contender: beside.Contender, environment: Path, scenario: beside.Scenario) -> str:
        async with slots:
            return await beside.measure(contender, environment, scenario)

    print_line(beside.HEAD)
    for scenario in beside.SCENARIOS:
        pairs = zip(contenders, environments, strict=True)
        for row in await asyncio.gather(*(measure(*pair, scenario) for pair in pairs)):
            print_line(row)
    return 0


if __name__ == "__main__":
    run_program(main)
