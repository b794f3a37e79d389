"""The ladder of signals, as pgbouncer has it: each step is less patient than the one before.

SIGTERM, or SIGINT (Ctrl-C), lets sessions finish. The second ends them now, with goodbyes; a third, or SIGQUIT, awaits none.
SIGHUP looks at the key file and ends nothing; from a terminal it says that the terminal was closed, and counts as SIGTERM.
"""

import asyncio
import signal
from collections.abc import Callable

import structlog

from service.relay.drain import DrainSignals


class Signals:
    """What signals have asked for: `told` to stop, and how the drain goes on (`drain_signals`).

    `sessions` counts those that are open; `read_key_again` is called on SIGHUP and says whether there is a file to look at.
    """

    def __init__(self, drain_seconds: float, sessions: Callable[[], int], read_key_again: Callable[[], bool]) -> None:
        self.told = asyncio.Event()
        self.drain_signals = DrainSignals()
        self._drain_seconds = drain_seconds
        self._sessions = sessions
        self._read_key_again = read_key_again
        self._log = structlog.get_logger()

    def handle(self, *, on_terminal: bool) -> None:
        """Take the signals of this process; the loop has to run."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGQUIT, self._quit)
        if on_terminal:
            loop.add_signal_handler(signal.SIGHUP, self._stop, signal.SIGHUP)
        else:
            loop.add_signal_handler(signal.SIGHUP, self._reload)

    def _stop(self, number: signal.Signals) -> None:
        if self.drain_signals.close_now.is_set():
            self.drain_signals.abort_now.set()
            self._tell(number, "Waiting for no more goodbyes: what is left is cut.")
        elif self.told.is_set():
            self.drain_signals.close_now.set()
            self._tell(number, "Ending the sessions that are left now; another signal waits for no goodbyes.")
        else:
            self.told.set()
            self._tell(number, self._patient_words(number))

    def _patient_words(self, number: signal.Signals) -> str:
        sessions = self._sessions()
        if not sessions:
            return "Stopping; no session is open."
        again = "Ctrl-C again" if number is signal.SIGINT else "a second signal"
        return f"Taking nobody new; {sessions} session(s) may go on for {self._drain_seconds:g} s. To end them now: {again}."

    def _quit(self) -> None:
        for event in (self.told, self.drain_signals.close_now, self.drain_signals.abort_now):
            event.set()
        self._tell(signal.SIGQUIT, "Ending all sessions now, without waiting for goodbyes.")

    def _reload(self) -> None:
        looked = self._read_key_again()
        self._tell(
            signal.SIGHUP,
            "Looking at the key file; other settings are read at the start only."
            if looked
            else "Nothing to read again: settings are read at the start, and a key only from OPENAI_API_KEY_FILE.",
        )

    def _tell(self, number: signal.Signals, message: str) -> None:
        self._log.info("signal.received", signal=number.name, message=message)
