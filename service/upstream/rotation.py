"""Key rotation without a restart: watches the file that OPENAI_API_KEY_FILE names.

Docker and Kubernetes replace the file of a mounted secret while the process runs. Rules of this file:

* A new key is linted, then used for a dial up to the first event (which costs no tokens), before any client depends on it.
* A rejected key does not replace one that works; the log reports it once. If the key in use is itself rejected or missing,
  a new one is used whatever the check says: the old key does not work anyway, and the health checks report the new one.
* Open sessions keep their connection. The provider checks the key only when a connection opens.
* The content counts, not the modification time: Kubernetes swaps symlinks, and editors write twice.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from service.failures import Failure
from service.realtime.keys import Secret, fingerprint
from service.telemetry.metrics import Metrics
from service.upstream.connector import UpstreamConnector
from service.upstream.key_lint import fatal_problem, reason_for
from service.upstream.target import DialRequest

POLL_SECONDS: Final = 2.0
MAX_RETRY_SECONDS: Final = 60.0
MAX_FILE_CHARACTERS: Final = 65_536


@dataclasses.dataclass(frozen=True, slots=True)
class RotationOutcome:
    """The result of one check of the file: why a new key was rejected, if it was, and whether to check it again."""

    rejected_for: str | None = None
    is_temporary: bool = False


class KeyFileWatcher:
    """Watches one file and switches the connector to each new key that works.

    `is_key_refused` returns whether the provider is known to refuse the key in use. `on_new_key` gets each new key before
    the first dial with it, so that log redaction knows it. `on_key_changed` is called after a switch.
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
    ) -> None:
        self._path = path
        self._connector = connector
        self._metrics = metrics
        self._request = DialRequest(query=(("model", model),))
        self._is_key_refused = is_key_refused
        self._on_new_key = on_new_key
        self._on_key_changed = on_key_changed
        self._last_text = self._key_in_use()
        self._rejected_for: str | None = None
        self._check_requested = asyncio.Event()
        self._log = structlog.get_logger()

    def notes(self) -> list[str]:
        """What detailed health reports: that the key in the file was rejected, if it was."""
        if self._rejected_for is None:
            return []
        return [
            f"The new key in OPENAI_API_KEY_FILE was rejected: {self._rejected_for}. The previous key stays in use."
        ]

    async def watch(self) -> None:
        """Check the file every `POLL_SECONDS`, until cancelled. A key that may work later is retried with backoff."""
        pause = POLL_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._check_requested.wait()
            self._check_requested.clear()  # before the check: a request during it causes one more
            outcome = await self.check()
            pause = min(pause * 2, MAX_RETRY_SECONDS) if outcome.is_temporary else POLL_SECONDS

    def check_now(self) -> None:
        """Let `watch` check the file without waiting for the next poll."""
        self._check_requested.set()

    async def check(self) -> RotationOutcome:
        """Read the file once, and use its key if it is a new one that works."""
        text = await asyncio.to_thread(self._read)
        if text is None or text == self._last_text:
            return RotationOutcome(self._rejected_for)
        if text == self._key_in_use():
            self._last_text = text  # the previous key has been put back
            self._set_rejection(None)
            return RotationOutcome()
        outcome = await self._try_key(Secret(text))
        if not outcome.is_temporary:
            self._last_text = text
        return outcome

    def _key_in_use(self) -> str | None:
        key = self._connector.dialler.target.key
        return key.reveal() if key is not None else None

    def _read(self) -> str | None:
        """The text of the file; None if it is missing, unreadable or empty, as while a secret is replaced in two steps."""
        try:
            with self._path.open(encoding="utf-8", newline="") as file:
                text = file.read(MAX_FILE_CHARACTERS).removesuffix("\n")
        except (OSError, UnicodeDecodeError):
            return None
        return text if text.strip() else None

    async def _try_key(self, key: Secret) -> RotationOutcome:
        self._on_new_key(key)
        target = dataclasses.replace(self._connector.dialler.target, key=key)
        problem = fatal_problem(target)
        if problem is not None:
            return self._reject(reason_for(problem), key, f"{problem.sentence} {problem.remedy}")
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
                return RotationOutcome(failure.reason, is_temporary=True)
        else:
            await connected.close()
        self._switch_to(key)
        return RotationOutcome()

    def _reject(self, reason: str, key: Secret, remedy: str) -> RotationOutcome:
        self._set_rejection(reason)
        self._metrics.key_rotations.labels("refused").inc()
        self._log.error(
            "key.rotation_refused",
            reason=reason,
            message="The new key was rejected. The previous key stays in use.",
            remedy=remedy,
            fingerprint=fingerprint(key.reveal()),
            origin=f"file {self._path}",
        )
        return RotationOutcome(reason)

    def _set_rejection(self, reason: str | None) -> None:
        self._rejected_for = reason
        self._metrics.key_file_refused.set(reason is not None)

    def _switch_to(self, key: Secret) -> None:
        self._set_rejection(None)
        target = self._connector.dialler.target  # read again: it may have changed during the dial
        self._connector.switch_target(dataclasses.replace(target, key=key), None)
        self._metrics.key_rotations.labels("taken").inc()
        self._log.info(
            "key.rotated",
            message="New connections use the new key. Open sessions keep their connections.",
            fingerprint=fingerprint(key.reveal()),
            origin=f"file {self._path}",
        )
        self._on_key_changed()
