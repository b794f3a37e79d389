"""Key rotation without a restart: watches the file that OPENAI_API_KEY_FILE names.

Docker and Kubernetes replace the file of a mounted secret while the process runs. Rules of this file:

* A new key is linted, then used for a dial up to the first event (which costs no tokens), before any client depends on it.
* A rejected key does not replace one that works; the log reports it once. If the key in use is itself rejected or missing,
  a new one is used whatever the check says: the old key does not work anyway, and the health checks report the new one.
* Open sessions keep their connection. The provider checks the key only when a connection opens.
* The content counts, not the modification time: Kubernetes swaps symlinks, and editors write twice.
* A file that cannot be read keeps the key in use, and is reported once per cause: at the second check, because a secret may
  be replaced in two steps, or at once if a signal asked for the check.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import structlog

from service.failures import Failure
from service.realtime.keys import Secret, fingerprint
from service.telemetry.metrics import Metrics
from service.upstream.connector import UpstreamConnector
from service.upstream.file_reader import FileReader, PollTimer
from service.upstream.key_lint import fatal_problem, refusal_for, unreadable
from service.upstream.secret_file import HIDDEN_PATH, MAX_KEY_FILE_BYTES, SecretFileError, printable_path, read_secret
from service.upstream.target import DialRequest

POLL_SECONDS: Final = 2.0
MAX_RETRY_SECONDS: Final = 60.0
_VARIABLE: Final = "OPENAI_API_KEY_FILE"


Result = Literal["unchanged", "restored", "used", "rejected", "unreadable", "delayed"]
_MESSAGES: Final[dict[Result, str]] = {
    "unchanged": "The key file holds the key in use.",
    "restored": "The key file holds the key in use again.",
    "used": "New connections use the new key.",
    "rejected": "The key in the key file was rejected.",
    "unreadable": "The key file cannot be read.",
    "delayed": "The provider could not be reached to test the new key; the relay tries again.",
}
_NO_PREVIOUS_KEY: Final = "There is no previous key: new connections are refused."


@dataclasses.dataclass(frozen=True, slots=True)
class RotationOutcome:
    """The result of one check of the file, and the reason or cause if its key is not in use."""

    result: Result
    cause: str | None = None

    @property
    def is_temporary(self) -> bool:
        """Whether the same key may work later."""
        return self.result == "delayed"


class KeyFileWatcher:
    """Watches one file and switches the connector to each new key that works.

    `is_key_refused` returns whether the provider is known to refuse the key in use. `on_new_key` gets each new key before
    the first dial with it, so that log redaction knows it. `on_key_changed` is called after a switch. `start_problem` is why
    the file could not be read at the start, which is logged already.
    """

    def __init__(
        self,
        path: Path,
        connector: UpstreamConnector,
        metrics: Metrics,
        *,
        model: str,
        is_key_refused: Callable[[], bool],
        on_new_key: Callable[[Secret], None],
        on_key_changed: Callable[[], None],
        start_problem: str | None = None,
    ) -> None:
        self._path = path
        # The variable can hold the key itself by mistake.
        self._origin = f"file {HIDDEN_PATH if printable_path(str(path)) == HIDDEN_PATH else path}"
        self._connector = connector
        self._metrics = metrics
        self._request = DialRequest(query=(("model", model),))
        self._is_key_refused = is_key_refused
        self._on_new_key = on_new_key
        self._on_key_changed = on_key_changed
        self._last_text = self._key_in_use()
        self._rejected_for: str | None = None
        self._failed_reads = 0  # in a row
        self._read_problem: str | None = None
        self._set_read_problem(start_problem)
        self._timer = PollTimer()
        self._reader = FileReader()
        self._log = structlog.get_logger()

    def notes(self) -> list[str]:
        """What detailed health reports: why the file has no key that can be used, if it has none."""
        kept = self._kept()
        notes = [f"{self._read_problem}. {kept}"] if self._read_problem is not None else []
        if self._rejected_for is not None:
            notes.append(f"The new key in {_VARIABLE} was rejected: {self._rejected_for}. {kept}")
        return notes

    async def watch(self) -> None:
        """Check the file every `POLL_SECONDS`, until cancelled. A key that may work later is retried with backoff."""
        pause = POLL_SECONDS
        while True:
            is_requested = await self._timer.next_poll(pause)
            outcome = await self.check(is_requested=is_requested)
            if is_requested:
                self._log_outcome(outcome)
            pause = min(pause * 2, MAX_RETRY_SECONDS) if outcome.is_temporary else POLL_SECONDS

    def check_now(self) -> None:
        """Let `watch` check the file without waiting for the next poll, and log the result."""
        self._timer.request()

    async def check(self, *, is_requested: bool = False) -> RotationOutcome:
        """Read the file once, and use its key if it is a new one that works."""
        try:
            text = await self._reader.read_in_thread(self._read)
        except SecretFileError as error:
            return self._report_unreadable(error, is_requested=is_requested)
        was_unreadable = self._read_problem is not None
        self._failed_reads = 0
        self._set_read_problem(None)
        if text == self._key_in_use():
            is_restored = was_unreadable or self._rejected_for is not None
            self._last_text = text
            self._set_rejection(None)
            return self._report_restored() if is_restored else RotationOutcome("unchanged", self._problem_in_use())
        if text == self._last_text:
            return RotationOutcome("rejected", self._rejected_for)
        outcome = await self._try_key(Secret(text))
        if not outcome.is_temporary:
            self._last_text = text
        return outcome

    def _log_outcome(self, outcome: RotationOutcome) -> None:
        message = _MESSAGES[outcome.result]
        if outcome.result in {"rejected", "unreadable"}:
            message = f"{message} {self._kept()}"
        is_good = outcome.cause is None
        (self._log.info if is_good else self._log.warning)(
            "key.file_checked", message=message, result=outcome.result, cause=outcome.cause, origin=self._origin
        )

    def _problem_in_use(self) -> str | None:
        """Why the key in use cannot work, if that is known without a dial."""
        problem = self._connector.key_problem
        return (problem.hint or problem.reason) if problem is not None else None

    def _kept(self) -> str:
        return _NO_PREVIOUS_KEY if self._key_in_use() is None else "The previous key stays in use."

    def _key_in_use(self) -> str | None:
        key = self._connector.dialler.target.key
        return key.reveal() if key is not None else None

    def _read(self) -> str:
        return read_secret(str(self._path), MAX_KEY_FILE_BYTES)

    def _report_unreadable(self, error: SecretFileError, *, is_requested: bool) -> RotationOutcome:
        self._failed_reads += 1
        problem = f"{_VARIABLE}: {printable_path(str(self._path))} {error}"
        if problem != self._read_problem and (self._failed_reads > 1 or is_requested):
            self._set_read_problem(problem)
            self._log.error(
                "key.file_unreadable",
                message=f"{_VARIABLE} cannot be used: the file {error.cause}. {self._kept()}",
                remedy=f"{error.remedy}. {self._restart_warning()}".rstrip(),
                origin=self._origin,
            )
        return RotationOutcome("unreadable", problem)

    def _restart_warning(self) -> str:
        if self._key_in_use() is None:
            return ""
        return "Do not restart the relay before: it would start without a key."

    def _report_restored(self) -> RotationOutcome:
        self._log.info("key.file_restored", message=f"{_VARIABLE} holds the key in use again.", origin=self._origin)
        return RotationOutcome("restored")

    async def _try_key(self, key: Secret) -> RotationOutcome:
        self._on_new_key(key)
        target = dataclasses.replace(self._connector.dialler.target, key=key)
        problem = fatal_problem(target)
        if problem is not None:
            refusal = refusal_for(problem)
            if self._connector.key_problem is not None:  # no dial can succeed; report the cause that applies now
                self._connector.key_problem = refusal
            return self._reject(refusal.reason, key, f"{problem.sentence} {problem.remedy}")
        try:
            connected = await self._connector.dialler.dial(self._request, target=target)
        except Failure as failure:
            if not self._is_key_refused():
                if failure.row.is_definite:
                    return self._reject(failure.reason, key, failure.remedy)
                self._log.warning(
                    "key.rotation_delayed",
                    reason=failure.reason,
                    message=failure.row.sentence,
                    remedy=failure.remedy,
                )
                return RotationOutcome("delayed", failure.reason)
        else:
            await connected.close()
        self._switch_to(key)
        return RotationOutcome("used")

    def _reject(self, reason: str, key: Secret, remedy: str) -> RotationOutcome:
        self._set_rejection(reason)
        self._metrics.key_rotations.labels("refused").inc()
        self._log.error(
            "key.rotation_refused",
            reason=reason,
            message=f"The new key was rejected. {self._kept()}",
            remedy=remedy,
            fingerprint=fingerprint(key.reveal()),
            origin=self._origin,
        )
        return RotationOutcome("rejected", reason)

    def _set_rejection(self, reason: str | None) -> None:
        self._rejected_for = reason
        self._publish()

    def _set_read_problem(self, problem: str | None) -> None:
        self._read_problem = problem
        self._publish()
        if problem is not None and self._key_in_use() is None:
            self._connector.key_problem = unreadable(problem)

    def _publish(self) -> None:
        self._metrics.key_file_refused.set(self._rejected_for is not None or self._read_problem is not None)

    def _switch_to(self, key: Secret) -> None:
        self._set_rejection(None)
        target = self._connector.dialler.target  # read again: it may have changed during the dial
        self._connector.switch_target(dataclasses.replace(target, key=key), None)
        self._metrics.key_rotations.labels("taken").inc()
        self._log.info(
            "key.rotated",
            message="New connections use the new key. Open sessions keep their connections.",
            fingerprint=fingerprint(key.reveal()),
            origin=self._origin,
        )
        self._on_key_changed()
