"""Reads the clients file again while the relay runs.

Rules of this file:

* A new content is parsed whole, outside the event loop, and used in one step. A file with a mistake changes nothing: the last
  good one stays in use, and log, metric and detailed health name each mistake until the file is correct.
* The same holds for a file that is missing or cannot be read.
* Each problem is logged once, and once more if a signal asks for the read.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from service.access.clients import ClientDirectory
from service.clients_file.load import ClientsFileReader, LoadedClients, name_for_messages
from service.clients_file.mistakes import ClientsRejected, Mistake
from service.realtime.keys import Secret
from service.telemetry.metrics import Metrics
from service.upstream.file_reader import FileReader, PollTimer
from service.upstream.secret_file import SecretFileError

POLL_SECONDS: Final = 2.0
MAX_LOGGED: Final = 20
"""Mistakes and names in one log line."""
_KEPT: Final = "The last good one stays in use."


class ClientsFileWatcher:
    """Watches one file and gives each good content of it to the directory.

    `on_secrets` gets what logs must not contain, before the content is used. `end_withdrawn` ends the open sessions whose
    credential the directory has withdrawn, and returns their number.
    """

    def __init__(
        self,
        reader: ClientsFileReader,
        directory: ClientDirectory,
        metrics: Metrics,
        *,
        on_secrets: Callable[[tuple[Secret, ...]], None],
        end_withdrawn: Callable[[], int],
    ) -> None:
        self._reader = reader
        self._origin = f"file {name_for_messages(reader.path)}"
        self._directory = directory
        self._metrics = metrics
        self._on_secrets = on_secrets
        self._end_withdrawn = end_withdrawn
        self._timer = PollTimer()
        self._files = FileReader()
        self._problem: ClientsRejected | None = None
        self._is_read_lost = False
        self._log = structlog.get_logger()
        metrics.clients_file_loads.labels("loaded").inc()
        metrics.clients_file_loaded.set(time.time())

    def notes(self) -> list[str]:
        """What detailed health reports: the mistakes of the file, if it has any."""
        if self._problem is None:
            return []
        mistakes = self._problem.mistakes
        more = f" And {len(mistakes) - MAX_LOGGED} more." if len(mistakes) > MAX_LOGGED else ""
        return [f"RELAY_CLIENTS_FILE: {' '.join(map(str, mistakes[:MAX_LOGGED]))}{more} {_KEPT}"]

    async def watch(self) -> None:
        """Read the file every `POLL_SECONDS`, until cancelled."""
        while True:
            is_requested = await self._timer.next_poll(POLL_SECONDS)
            await self.check(is_requested=is_requested)

    def check_now(self) -> None:
        """Let `watch` read the file without waiting for the next poll, and log the result."""
        self._timer.request()

    async def check(self, *, is_requested: bool = False) -> None:
        """Read the file once, and use it if it is new and good."""
        if self._is_read_lost:
            self._reader.forget()
        try:
            loaded = await self._files.read_in_thread(self._reader.load_if_changed)
        except ClientsRejected as problem:
            self._is_read_lost = False
            self._reject(problem, is_requested=is_requested)
        except SecretFileError as error:  # the read did not return in time
            self._is_read_lost = True
            mistake = Mistake(name_for_messages(self._reader.path), None, f"the file {error.cause}", error.remedy)
            self._reject(ClientsRejected([mistake], is_unreadable=True), is_requested=is_requested)
        else:
            self._is_read_lost = False
            if loaded is not None:
                self._use(loaded)
            elif is_requested:
                self._report_unchanged()

    def _use(self, loaded: LoadedClients) -> None:
        self._on_secrets(loaded.secrets)
        reload = self._directory.replace(loaded.clients)
        ended = self._end_withdrawn()
        self._problem = None
        self._metrics.clients_file_refused.set(0)
        self._metrics.clients_file_loaded.set(time.time())
        self._metrics.clients_file_loads.labels("loaded").inc()
        self._log.info(
            "clients.loaded",
            message="New connections use the new clients file.",
            clients=len(loaded.clients.clients),
            added=reload.added[:MAX_LOGGED],
            removed=reload.removed[:MAX_LOGGED],
            changed=reload.changed[:MAX_LOGGED],
            sessions_ended=ended,
            origin=self._origin,
        )

    def _reject(self, problem: ClientsRejected, *, is_requested: bool) -> None:
        is_new = self._problem is None or str(self._problem) != str(problem)
        self._problem = problem
        self._metrics.clients_file_refused.set(1)
        if is_new:
            self._metrics.clients_file_loads.labels("unreadable" if problem.is_unreadable else "rejected").inc()
        if is_new or is_requested:
            self._log_problem(problem)

    def _log_problem(self, problem: ClientsRejected) -> None:
        count = len(problem.mistakes)
        what = "cannot be read" if problem.is_unreadable else f"has {count} mistake{'s' if count > 1 else ''}"
        self._log.error(
            "clients.file_unreadable" if problem.is_unreadable else "clients.file_rejected",
            message=f"RELAY_CLIENTS_FILE {what}. {_KEPT}",
            mistakes=[str(mistake) for mistake in problem.mistakes[:MAX_LOGGED]],
            remedy="Correct the file; the relay reads it again by itself. Do not restart the relay before: that fails.",
            origin=self._origin,
        )

    def _report_unchanged(self) -> None:
        if self._problem is not None:
            self._log_problem(self._problem)
            return
        self._log.info("clients.unchanged", message="The clients file is the one in use.", origin=self._origin)
