"""service/telemetry/log_writer.py, and a relay whose log nobody reads."""

import io
import threading
import time

from service.telemetry.log_writer import LogWriter
from tests.harness import eventually, open_raw
from tests.test_process import get, serving


class Stalling(io.StringIO):
    """A stream whose reader reads nothing until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = threading.Event()
        self.stuck = threading.Event()

    def write(self, text: str) -> int:
        """Wait for the reader."""
        self.stuck.set()
        self.reads.wait(10)
        return super().write(text)


def test_lines_keep_their_order() -> None:
    """All lines arrive whole, in order, before `close` returns; what comes after is nobody's."""
    out = io.StringIO()
    writer = LogWriter(out)
    for number in range(5000):
        writer.write(f"{number}\n")
    writer.close()

    assert [str(number) for number in range(5000)] == out.getvalue().split()
    assert 0 == writer.write("late\n")
    assert "late" not in out.getvalue()


def test_a_reader_that_stalls_costs_lines_and_not_time() -> None:
    """Beyond the bound lines are dropped and counted, oldest kept; it is told once there is room again."""
    out, dropped, told = Stalling(), list[int](), list[int]()
    writer = LogWriter(out, most_lines=10)
    writer.on_drop, writer.on_room = (lambda: dropped.append(1)), told.append
    writer.write("first\n")
    assert out.stuck.wait(5)
    for number in range(25):
        writer.write(f"{number}\n")

    assert (15, []) == (len(dropped), told)

    out.reads.set()
    while out.getvalue().count("\n") < 11:
        time.sleep(0.005)  # a thread that only writes has no event to wait for
    writer.write("again\n")
    writer.close()

    assert [15] == told
    assert ["first", *map(str, range(10)), "again"] == out.getvalue().split()


def test_a_reader_that_is_gone_is_no_error() -> None:
    """A closed stream loses lines, and nothing is raised anywhere."""
    out = io.StringIO()
    writer = LogWriter(out)
    out.close()
    writer.write("to nobody\n")
    writer.close()

    assert not writer._thread.is_alive()


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
