"""Times net of the waiting for a core, from the kernel's counters."""

import os
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos import waiting
from chaos.waiting import CoreWait, NetTimes, RoundTrips

MILLISECOND = 1_000_000  # nanoseconds
MAIN, OTHER, OWN = -1, -2, -3  # descriptors


class Kernel:
    """Takes the place of clock and counters: a main thread that has waited, and another that has run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.waited, self.others_ran, self.own_waited = 100.0, 0, 0, 0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        counters: dict[int, Callable[[], tuple[int, int]]] = {
            MAIN: lambda: (0, self.waited),
            OTHER: lambda: (self.others_ran, 0),
            OWN: lambda: (0, self.own_waited),
        }
        monkeypatch.setattr(waiting, "_counters", lambda at: counters[at]())

    def pass_milliseconds(self, passed: float, *, waited: float = 0, others_ran: float = 0) -> None:
        """Let time pass, of which the main thread waited for a core, and in which the other ran."""
        self.now += passed / 1000
        self.waited += int(waited * MILLISECOND)
        self.others_ran += int(others_ran * MILLISECOND)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel at a fixed time."""
    return Kernel(monkeypatch)


def net_times() -> NetTimes:
    """Of a relay with two threads."""
    wait, own = CoreWait(-1), CoreWait(-1)
    wait._main, wait._others, own._main = MAIN, [OTHER], OWN
    return NetTimes(wait, own)


def test_waiting_within_a_time_is_taken_off(kernel: Kernel) -> None:
    """Not what was waited before it, and not below zero."""
    times = net_times()
    kernel.pass_milliseconds(50, waited=30)
    times.add(10)  # samples at its end
    kernel.pass_milliseconds(50, waited=20)
    times.add(50)
    kernel.pass_milliseconds(10, waited=40)
    times.add(10)

    assert [50, 10] == list(times.measured)[1:]
    assert [30, 0] == [round(net) for net in times.net][1:]


def test_other_threads_of_the_process_are_no_other_programs(kernel: Kernel) -> None:
    """The relay's own threads are its cost."""
    times = net_times()
    times.add(1)
    kernel.pass_milliseconds(50, waited=20, others_ran=15)
    times.add(50)

    assert 45 == round(times.net[-1])


def test_waiting_of_this_process_is_taken_off_for_the_last_wake_up(kernel: Kernel) -> None:
    """Not what it waited before, while the relay worked."""
    times = net_times()
    times._own_wait.sample()
    for waited in (20, 5):
        kernel.pass_milliseconds(30)
        kernel.own_waited += waited * MILLISECOND
        times._own_wait.sample()
    times.add(60)

    assert 55 == round(times.net[-1])


def test_latencies_of_the_benchmark_become_net_times(kernel: Kernel) -> None:
    """In milliseconds; the array itself stays empty."""
    times = net_times()
    latencies = RoundTrips(times)
    latencies.append(7 * MILLISECOND)

    assert array("d", [7]) == times.net
    assert not latencies


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="the kernel does not count")
def test_counters_of_this_process_are_read() -> None:
    """And descriptors are closed."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    wait = CoreWait(os.getpid())
    wait._times[-1] = 0.0
    wait.sample()

    assert wait._waited[-1] != 0
    wait.close()
    assert before == len(list(Path("/proc/self/fd").iterdir()))
