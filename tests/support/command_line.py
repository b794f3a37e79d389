"""What those test programs of the Makefile share that are no tests of pytest."""

import signal
import sys
from collections.abc import Callable
from typing import Final, NoReturn

NOT_RUN: Final = 3
"""The exit code where this machine lacks what a program needs; the Makefile accepts it."""


def print_line(text: str) -> None:
    """Print at once, also into a file or a pipe."""
    print(text, flush=True)  # noqa: T201 - a command line


def run_program(main: Callable[[], int]) -> NoReturn:
    """Exit with what `main` returns. SIGTERM interrupts it as Ctrl-C does, so that it ends its child processes."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
