"""service/machine.py: limits on memory and open files lower the session limit below RELAY_MAX_SESSIONS."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from service.machine import max_sessions_by_memory
from tests.support.harness import within
from tests.support.relay_process import environment


@pytest.mark.parametrize(
    ("text", "sessions"),
    [
        ("536870912\n", 1648),
        ("max\n", None),
        ("1000\n", 1),
        ("", None),
        ("9223372036854771712\n", None),
        (str(1 << 40), (1 << 40) // (256 << 10) - 400),
    ],
)
def test_memory_limit_is_read_from_cgroups(text: str, sessions: int | None, tmp_path: Path) -> None:
    """100 MiB plus 256 KiB for each session must fit. `max`, nearly 2^63 (cgroups 1) and an empty file are no limit."""
    file = tmp_path / "memory.max"
    file.write_text(text, encoding="ascii")

    assert sessions == max_sessions_by_memory([tmp_path / "missing", file])


def test_memory_for_conversations_is_no_longer_there_for_sessions(tmp_path: Path) -> None:
    """Where every session keeps its conversation, the bound of that is reserved."""
    file = tmp_path / "memory.max"
    file.write_text(str(512 << 20), encoding="ascii")

    assert max_sessions_by_memory([file]) == 1648
    assert max_sessions_by_memory([file], reserved_bytes=128 << 20) == 1136


@pytest.mark.parametrize(("files", "lowered"), [(300, 100), (5000, None)])
async def test_limit_on_open_files_lowers_the_session_limit(files: int, lowered: int | None) -> None:
    """One warning at the start names the limit and the remedy."""
    child = await asyncio.create_subprocess_exec(
        "sh", "-c", f'ulimit -n {files} && exec "$0" -m service serve', sys.executable,
        env=environment(RELAY_UPSTREAM="simulator", RELAY_MAX_SESSIONS="2000"),
        cwd="/", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stderr is not None
    lines: list[Any] = []
    try:
        while not lines or lines[-1]["event"] != "service.started":
            lines.append(json.loads(await within(child.stderr.readline(), 60)))
    finally:
        child.terminate()
        await child.communicate()
    warnings = [line for line in lines if line["event"] == "limit.lowered"]

    assert [lowered] * bool(lowered) == [line["max_sessions"] for line in warnings]
    assert all("ulimit -n" in line["remedy"] and line["level"] == "warning" for line in warnings)
