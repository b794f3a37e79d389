"""Runs one relay as a process: configures logging and signals, and closes the log at the end."""

import asyncio
import sys
from collections.abc import Sequence
from typing import Final

import structlog

from service import loop, signals
from service.app import App
from service.relay.drain import DrainResult
from service.settings import Settings
from service.telemetry import logs
from service.telemetry.log_writer import LogWriter

_MAX_INTEGER_DIGITS: Final = 640
"""The least that Python accepts. The time to parse a number grows with the square of its length: with the default of 4,300 an
event of 2 MB delays all sessions by 40 ms."""


async def serve(settings: Settings, unread_keys: Sequence[str] = ()) -> DrainResult:
    """Run a relay until a signal stops it; returns how the open sessions ended. Raises CannotListen.

    `unread_keys` states where a key is set but not read, if the simulator is used for want of a key.
    """
    sys.set_int_max_str_digits(_MAX_INTEGER_DIGITS)
    signals.block()  # threads that are started now inherit this: at the end, no signal finds one that takes it
    app = App(settings, unread_keys=unread_keys)
    running_loop = asyncio.get_running_loop()
    writer = LogWriter(
        sys.stderr,
        on_drop=app.metrics.log_lines_dropped.inc,
        on_recovery=lambda lines: running_loop.call_soon_threadsafe(_report_dropped_lines, lines),
    )
    logs.configure(settings.log_format, settings.log_level, app.redactor, writer)
    loop.log_unhandled_exceptions()
    await loop.start_threads()
    app.handle_signals(on_terminal=sys.stderr.isatty())
    signals.unblock()
    try:
        await app.start()
        loop.freeze_garbage_collector()
        result = await app.run()
        structlog.get_logger().info("service.stopped")
        return result
    finally:
        signals.block()
        writer.close()
        signals.ignore()


def _report_dropped_lines(lines: int) -> None:
    structlog.get_logger().warning(
        "log.lines_dropped",
        message=f"The reader of the log was too slow; {lines} lines were dropped.",
        remedy="Check what reads standard error, and its disk; RELAY_LOG_LEVEL=warning writes fewer lines.",
        lines=lines,
    )
