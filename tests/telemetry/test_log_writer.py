"""service/telemetry/log_writer.py, and a relay whose log is not read."""

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO

import pytest
import structlog

from service.telemetry import logs
from service.telemetry.log_writer import LogWriter
from service.telemetry.redact import Redactor
from tests.support.harness import eventually, open_raw
from tests.support.relay_process import get, serving

Pipe = tuple[int, TextIO]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """A pipe of 4096 bytes: the descriptor to read from, the stream to write to."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with open(writing, "w", encoding="utf-8") as stream:  # noqa: PTH123 - a descriptor
        yield reading, stream
    with suppress(OSError):  # a test may have closed it
        os.close(reading)


def read_all(reading: int) -> list[str]:
    """All lines up to the end of the stream."""
    with open(reading, encoding="utf-8", closefd=False) as stream:
        return stream.read().splitlines()


def test_lines_are_written_in_order(pipe: Pipe) -> None:
    """All lines arrive whole and in order before `close` returns; a line after `close` is refused."""
    reading, stream = pipe
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.extend(read_all(reading)))
    reader.start()
    writer = LogWriter(stream)
    stream.close()
    for number in range(5000):
        writer.write(f"{number} \udc80\n")  # a lone surrogate is escaped, not lost
    writer.close(10)
    assert 0 == writer.write("late\n")
    reader.join(10)

    assert [f"{number} \\udc80" for number in range(5000)] == got


async def test_full_queue_drops_lines_without_blocking(pipe: Pipe) -> None:
    """Beyond the limit new lines are dropped and counted; `on_recovery` gets their number once there is room again."""
    reading, stream = pipe
    dropped, reported = list[int](), list[int]()
    writer = LogWriter(stream, on_drop=lambda: dropped.append(1), on_recovery=reported.append, max_lines=10)
    stuck = "x" * 5000 + "\n"
    writer.write(stuck)
    await eventually(writer._lines.empty)
    for number in range(25):
        writer.write(f"{number}\n")
    assert (15, []) == (len(dropped), reported)

    got = ""
    while "9\n" not in got:
        got += os.read(reading, 65_536).decode()
    writer.write("again\n")
    writer.close()

    assert [15] == reported
    assert stuck + "".join(f"{number}\n" for number in range(10)) == got
    assert b"again\n" == os.read(reading, 65_536)


async def test_dropped_lines_are_logged_after_recovery(pipe: Pipe) -> None:
    """With the real loggers, which hold a lock while they write: the number of lost lines is logged, without a deadlock."""
    reading, stream = pipe
    reported = list[int]()
    writer = LogWriter(stream, on_recovery=reported.append, max_lines=4)
    logs.configure("json", "info", Redactor([]), writer)
    log = structlog.get_logger()
    log.info("first.written", filler="x" * 5000)
    await eventually(writer._lines.empty)
    for _ in range(10):
        log.info("next.written")
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(read_all(reading)))
    reader.start()
    await eventually(writer._lines.empty)
    log.info("last.written")
    await eventually(lambda: bool(reported))
    log.warning("log.lines_dropped", lines=reported[0])
    writer.close()
    stream.close()
    reader.join(10)

    events = [json.loads(line)["event"] for line in lines]
    assert [6] == reported
    assert ["first.written", *["next.written"] * 4, "last.written", "log.lines_dropped"] == events


def test_closed_reader_is_counted_and_raises_nothing(pipe: Pipe) -> None:
    """Lines written to a closed pipe count as dropped."""
    reading, stream = pipe
    dropped = list[int]()
    writer = LogWriter(stream, on_drop=lambda: dropped.append(1))
    os.close(reading)
    writer.write("lost\n")
    writer.close()

    assert not writer._thread.is_alive()
    assert [1] == dropped


async def test_relay_serves_and_stops_while_its_log_is_not_read() -> None:
    """With the pipe of its log full the relay answers requests, and exits 0 on SIGTERM."""
    async with serving(RELAY_ACCESS="tokens", RELAY_CLIENT_TOKENS="web:abcdefghijklmnop") as (relay, port, url):
        for _ in range(800):  # half a kilobyte of log each; the pipe and its reader hold 200 in all
            client = await open_raw(port)
            assert 401 == client.answer.status
            client.writer.close()
        assert 200 == await get(f"{url}/livez")
        relay.process.terminate()
        await eventually(lambda: relay.process.returncode is not None, 10)

        assert 0 == relay.process.returncode
