"""The real process while the wall clock jumps, with Debian's libfaketime."""

import asyncio
import signal
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from tests.support.client_calls import exchange_events, open_calls, read_to_end, sample_value, scrape, wait_for_scrape
from tests.support.relay_process import get, serving
from tools.debian import PackageUnavailable, unpack


def faked(folder: Path) -> dict[str, str]:
    """Variables that make a process add the offset in a file to its wall clock; its other clocks are real."""
    try:
        root = unpack("libfaketime", "usr/lib")
    except PackageUnavailable as exc:
        pytest.skip(str(exc))
    library = next(root.rglob("libfaketime.so.1"))
    offset = folder / "offset"
    offset.write_text("+0")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


HALF_OF_THE_JUMP: Final = 1800.0
"""Seconds: more than a busy machine adds, and less than an hour that is counted."""


@pytest.mark.parametrize("jump", ["+1h", "-1h"])
async def test_wall_clock_jump_of_an_hour(jump: str, tmp_path: Path) -> None:
    """A jump forwards or back ends no session and makes no check stale; durations and the drain keep real time."""
    # A busy machine may dial for longer than the eight seconds of the default.
    settings = {"RELAY_DIAL_TIMEOUT_SECONDS": "60", "RELAY_DRAIN_SECONDS": "1.5"}
    async with serving(**faked(tmp_path), **settings) as (process, port, internal):
        started = process.lines[-1]["timestamp"]
        clients = await open_calls(port, 20)
        (tmp_path / "offset").write_text(jump)
        for client in clients:
            await exchange_events(client)
        late = await open_calls(port, 5)
        lag = sample_value(await scrape(internal), "realtime_relay_event_loop_lag_seconds_count")
        text = await wait_for_scrape(
            internal, lambda text: sample_value(text, "realtime_relay_event_loop_lag_seconds_count") > lag + 1
        )
        assert 25 == sample_value(text, 'realtime_relay_sessions_active{api="realtime"}')
        assert sample_value(text, "realtime_relay_event_loop_lag_seconds_sum") < HALF_OF_THE_JUMP
        assert [200, 200, 200] == [await get(f"{internal}/{path}") for path in ("livez", "readyz", "healthz")]

        began = asyncio.get_running_loop().time()
        process.process.send_signal(signal.SIGTERM)
        endings = await asyncio.gather(*(read_to_end(client) for client in [*clients, *late]))
        assert 0 == await process.rest()
        assert {1001} == {ending.close[0] for ending in endings if ending.close is not None}
        assert 1.4 < asyncio.get_running_loop().time() - began < HALF_OF_THE_JUMP
    jumped = datetime.fromisoformat(process.lines[-1]["timestamp"]) - datetime.fromisoformat(started)
    assert abs(jumped) > timedelta(minutes=50)  # the process saw the jump
    durations = [line["duration_seconds"] for line in process.lines if line["event"] == "session.ended"]
    assert 25 == len(durations)
    assert all(0 < duration < HALF_OF_THE_JUMP for duration in durations)
