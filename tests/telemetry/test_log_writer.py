"""service/telemetry/log_writer.py, and a relay whose log nobody reads."""

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
    """A pipe that holds little: the descriptor to read from, the stream to write to."""
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


def test_lines_keep_their_order(pipe: Pipe) -> None:
    """All lines arrive whole, in order, before `close` returns; what comes after is nobody's."""
    reading, stream = pipe
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.extend(read_all(reading)))
    reader.start()
    writer = LogWriter(stream)
    stream.close()
    for number in range(5000):
        writer.write(f"{number} \udc80\n")  # a lone surrogate is no reason to lose a line
    writer.close(10)
    assert 0 == writer.write("late\n")
    reader.join(10)

    assert [f"{number} \\udc80" for number in range(5000)] == got


async def test_a_reader_that_stalls_costs_lines_and_not_time(pipe: Pipe) -> None:
    """Beyond the bound lines are dropped and counted, the oldest kept; it is told once there is room again."""
    reading, stream = pipe
    dropped, told = list[int](), list[int]()
    writer = LogWriter(stream, max_lines=10)
    writer.on_drop, writer.on_room = (lambda: dropped.append(1)), told.append
    stuck = "x" * 5000 + "\n"
    writer.write(stuck)
    await eventually(writer._lines.empty)
    for number in range(25):
        writer.write(f"{number}\n")
    assert (15, []) == (len(dropped), told)

    got = ""
    while "9\n" not in got:
        got += os.read(reading, 65_536).decode()
    writer.write("again\n")
    writer.close()

    assert [15] == told
    assert stuck + "".join(f"{number}\n" for number in range(10)) == got
    assert b"again\n" == os.read(reading, 65_536)


async def test_a_log_that_recovers_tells_of_what_it_lost(pipe: Pipe) -> None:
    """Through the real loggers, which hold a lock while they write: the line of the loss comes, and nothing stands still."""
    reading, stream = pipe
    writer, told = LogWriter(stream, max_lines=4), list[int]()
    writer.on_room = told.append
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
    await eventually(lambda: bool(told))
    log.warning("log.lines_dropped", lines=told[0])
    writer.close()
    stream.close()
    reader.join(10)

    events = [json.loads(line)["event"] for line in lines]
    assert [6] == told
    assert ["first.written", *["next.written"] * 4, "last.written", "log.lines_dropped"] == events


def test_a_reader_that_is_gone_is_no_error(pipe: Pipe) -> None:
    """Lines for nobody are counted as lost, and nothing is raised anywhere."""
    reading, stream = pipe
    lost = list[int]()
    writer = LogWriter(stream)
    writer.on_drop = lambda: lost.append(1)
    os.close(reading)
    writer.write("to nobody\n")
    writer.close()

    assert not writer._thread.is_alive()
    assert [1] == lost


async def test_a_relay_goes_on_while_nobody_reads_its_log() -> None:
    """With the pipe of its log full a relay answers, and ends on SIGTERM all the same."""
    async with serving(RELAY_ACCESS="tokens", RELAY_CLIENT_TOKENS="web:abcdefghijklmnop") as (relay, port, url):
        for _ in range(800):  # half a kilobyte of log each; the pipe and its reader hold 200 in all
            client = await open_raw(port)
            assert 401 == client.answer.status
            client.writer.close()
        assert 200 == await get(f"{url}/livez")
        relay.process.terminate()
        await eventually(lambda: relay.process.returncode is not None, 10)

        assert 0 == relay.process.returncode
