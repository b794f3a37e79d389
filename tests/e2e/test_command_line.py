"""tests/support/command_line.py: the programs of the Makefile end their child processes."""

import signal
import subprocess
import sys

import pytest

from tests.support.relay_process import ROOT

PROGRAM = """
import time
from tests.support.command_line import NOT_RUN, print_line, run_program
def main():
    try:
        print_line("ready")
        time.sleep({seconds})
        return NOT_RUN
    finally:
        print_line("ended")
run_program(main)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, None])
def test_program_that_a_signal_ends_cleans_up(number: signal.Signals | None) -> None:
    """Without a signal it exits with the code that `main` returns."""
    code = PROGRAM.format(seconds=0 if number is None else 60)
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        if number is not None:
            program.send_signal(number)
        assert program.stdout.readline() == "ended\n"
    assert program.returncode == (3 if number is None else 130)
