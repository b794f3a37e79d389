"""What the signals of the process do. Each further stop signal shortens the shutdown, as in pgbouncer.

* SIGTERM and SIGINT (Ctrl-C): refuse new sessions and let open ones finish. A second one closes the open sessions now; a
  third one does not wait for their closing handshakes.
* SIGQUIT: close all sessions without waiting for their closing handshakes.
* SIGHUP: read the key file and the clients file again. From a terminal it means that the terminal was closed, and stops the
  relay as SIGTERM does.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from service.relay.drain import DrainSignals

QUIT_SECONDS: Final = 10.0
"""After SIGQUIT the process ends within this time, whatever is blocked."""
QUIT_EXIT_CODE: Final = 131
"""128 + SIGQUIT, as a shell reports a process that the signal has ended."""
_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def block() -> None:
    """Block signals in the calling thread."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)


def unblock() -> None:
    """Accept signals in the calling thread, those that have arrived since `block` included."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)


def ignore() -> None:
    """Ignore signals from now on: the relay has stopped, and a late signal must not replace its exit code.

    Needs the running event loop. Call `block` first, also in other threads: for a moment a signal has its default action.
    """
    loop = asyncio.get_running_loop()
    for number in _HANDLED:
        loop.remove_signal_handler(number)  # else the loop restores the default action when it closes
        signal.signal(number, signal.SIG_IGN)


class Signals:
    """What signals have asked for so far: `stop` to drain and stop, `drain_signals` to shorten the drain.

    `open_sessions` returns the number of open sessions. `check_files` is called on SIGHUP: it has the watched files read, and
    returns for each what it is and the log event with the result.
    """

    def __init__(
        self, drain_seconds: float, open_sessions: Callable[[], int], check_files: Callable[[], Mapping[str, str]]
    ) -> None:
        self.stop = asyncio.Event()
        self.drain_signals = DrainSignals()
        self._drain_seconds = drain_seconds
        self._open_sessions = open_sessions
        self._check_files = check_files
        self._log = structlog.get_logger()

    def handle(self, *, on_terminal: bool) -> None:
        """Install the signal handlers; needs a running event loop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGQUIT, self._on_quit)
        if on_terminal:
            loop.add_signal_handler(signal.SIGHUP, self._on_stop, signal.SIGHUP)
        else:
            loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        for number in (signal.SIGUSR1, signal.SIGUSR2):  # their default action ends the process
            loop.add_signal_handler(number, self._report, number, "This signal has no effect.")

    def _on_stop(self, number: signal.Signals) -> None:
        if self.drain_signals.close_now.is_set():
            self.drain_signals.abort_now.set()
            self._report(number, "Aborting the remaining sessions.")
        elif self.stop.is_set():
            self.drain_signals.close_now.set()
            self._report(number, "Closing the remaining sessions now. Send another signal to abort them.")
        else:
            self.stop.set()
            self._report(number, self._first_message(number))

    def _first_message(self, number: signal.Signals) -> str:
        sessions = self._open_sessions()
        if not sessions:
            return "Stopping; no session is open."
        again = "Press Ctrl-C again" if number is signal.SIGINT else "Send a second signal"
        return (
            f"Refusing new sessions; {sessions} open session(s) can continue for {self._drain_seconds:g} s. "
            f"{again} to close them now."
        )

    def _on_quit(self) -> None:
        for event in (self.stop, self.drain_signals.close_now, self.drain_signals.abort_now):
            event.set()
        last_resort = threading.Timer(QUIT_SECONDS, os._exit, [QUIT_EXIT_CODE])
        last_resort.daemon = True  # it does not keep a process that has ended in time
        last_resort.start()
        self._report(signal.SIGQUIT, "Closing all sessions now, without waiting for their closing handshakes.")

    def _on_reload(self) -> None:
        reading = [f"Reading {file} again; {event} has the result." for file, event in self._check_files().items()]
        self._report(
            signal.SIGHUP,
            f"{' '.join(reading)} Restart the relay to apply other settings."
            if reading
            else "Nothing was reloaded: only OPENAI_API_KEY_FILE and RELAY_CLIENTS_FILE are read again. Restart the relay to "
            "apply settings.",
        )

    def _report(self, number: signal.Signals, message: str) -> None:
        self._log.info("signal.received", signal=number.name, message=message)
