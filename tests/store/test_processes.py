"""Three processes on one Redis: 500 callers of a client with 100 sessions, then one process is killed."""

import asyncio
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from service.store.interface import Limits, Scope
from service.store.membership import OwnLease
from service.store.redis_backend import RedisBackend, connect
from service.store.shared import SharedStore
from service.store.url import parse_store_url
from service.telemetry.shared_store import StoreMetrics
from tests.support.harness import within
from tests.support.redis_server import RedisServer

ROOT: Final = Path(__file__).resolve().parents[2]
PROCESSES: Final = 3
CALLERS: Final = 500
MAXIMUM: Final = 100
LEASE_SECONDS: Final = float(os.environ.get("TEST_LEASE_SECONDS", "2"))
"""TEST_LEASE_SECONDS=25 runs the test in real time; `pytest -s` then prints after how many seconds the places are free."""
_LIMITS: Final = [Limits(scope=Scope("kiosk"), sessions=MAXIMUM)]


async def _serve(url: str) -> None:
    """One process: each line on standard input is a number of callers to try at once; it prints how many got a lease."""
    parsed = parse_store_url(url)
    assert parsed is not None
    store = SharedStore(
        RedisBackend(connect(parsed), lease_seconds=LEASE_SECONDS),
        StoreMetrics("relay", CollectorRegistry()),
        mode="closed",
        heartbeat_seconds=LEASE_SECONDS / 8,
        call_seconds=10.0,
    )
    await store.join()
    keeper = asyncio.create_task(store.keep_leases())
    held = []
    while line := await asyncio.to_thread(sys.stdin.readline):
        results = await asyncio.gather(*(store.acquire(_LIMITS) for _ in range(int(line))))
        granted = [result for result in results if isinstance(result, OwnLease)]
        held += granted
        print(len(granted), flush=True)  # noqa: T201 - the answer to the test
    keeper.cancel()


async def _ask(process: Process, callers: int) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"%d\n" % callers)
    return int(await within(process.stdout.readline(), 60))


async def test_places_are_never_exceeded_and_those_of_a_killed_process_are_free_again(
    redis_server: RedisServer,
) -> None:
    """Exactly the maximum is granted, before and after the kill."""
    command = (sys.executable, "-m", "tests.store.test_processes", redis_server.url.replace("/0", "/1"))
    processes = [
        await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=PIPE, stdout=PIPE) for _ in range(PROCESSES)
    ]
    try:
        granted = await asyncio.gather(*(_ask(process, CALLERS // PROCESSES) for process in processes))
        assert sum(granted) == MAXIMUM

        victim = max(range(PROCESSES), key=granted.__getitem__)
        processes[victim].kill()
        await processes[victim].wait()
        killed_at = time.monotonic()
        live = [process for process in processes if process.returncode is None]
        again = 0
        for _ in range(1200):
            again += sum(await asyncio.gather(*(_ask(process, CALLERS // PROCESSES) for process in live)))
            if again >= granted[victim]:
                break
            await asyncio.sleep(0.05)
        assert again == granted[victim]
        print(f"{again} places free after {time.monotonic() - killed_at:.1f} s")  # noqa: T201 - with -s
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1]))
