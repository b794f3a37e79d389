"""A new provider key without a restart: the file that OPENAI_API_KEY_FILE names is watched.

Docker and Kubernetes replace the file of a mounted secret while the process runs. Rules of this file:

* A new key is linted, then dialled with to its first event (no tokens are spent), before any caller depends on it.
* A key that is refused does not replace one that works, and the log says so once. Where the key that holds is refused
  itself, or there is none, a new one is taken on trust: it can only be better, and the health checks judge it.
* Sessions that run keep what they have; the provider looks at the key only when a socket opens.
* The content decides, not its time stamp: Kubernetes swaps symlinks, and editors write twice.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from service.failures import Failure, Retry
from service.realtime.keys import Secret, fingerprint, lint
from service.telemetry.metrics import Metrics
from service.upstream.connector import Connector
from service.upstream.target import DialRequest

LOOK_SECONDS: Final = 2.0
SLOWEST_RETRY_SECONDS: Final = 60.0
FILE_BYTES: Final = 65_536


@dataclasses.dataclass(frozen=True, slots=True)
class RotationOutcome:
    """What became of a new key: None if it was taken, else why not, and whether it is worth another look."""

    refusal: str | None = None
    may_pass: bool = False


class KeyFileWatcher:
    """Watches one file. `is_refused` tells whether the key that holds is known to be refused; `on_new` gets each new key.

    `on_new` is called before the first dial with the key, so that nothing can be logged that holds it.
    """

    def __init__(
        self,
        path: Path,
        reach: Connector,
        metrics: Metrics,
        *,
        model: str,
        is_refused: Callable[[], bool],
        on_new: Callable[[Secret], None],
        on_taken: Callable[[], None],
    ) -> None:
        self._path = path
        self._reach = reach
        self._metrics = metrics
        self._route = DialRequest(query=(("model", model),))
        self._is_refused = is_refused
        self._on_new = on_new
        self._on_taken = on_taken
        self._seen = self._text_of(reach)
        self._log = structlog.get_logger()
        self._asked = asyncio.Event()
        self.refusal: str | None = None

    @staticmethod
    def _text_of(reach: Connector) -> str | None:
        key = reach.dialler.target.key
        return key.reveal() if key is not None else None

    async def watch(self) -> None:
        """Look for ever."""
        pause = LOOK_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._asked.wait()
            self._asked.clear()  # before the look: who asks during it wants one more
            outcome = await self.look()
            pause = min(pause * 2, SLOWEST_RETRY_SECONDS) if outcome.may_pass else LOOK_SECONDS

    def look_now(self) -> None:
        """Do not wait for the next look."""
        self._asked.set()

    async def look(self) -> RotationOutcome:
        """Read the file once, and take its key if it is a new one that works."""
        text = await asyncio.to_thread(self._read)
        if text is None or text == self._seen:
            return RotationOutcome(self.refusal)
        if text == self._text_of(self._reach):
            self._seen = text  # put back
            self._tell_refusal(None)
            return RotationOutcome()
        outcome = await self._judge(Secret(text))
        if not outcome.may_pass:
            self._seen = text
        return outcome

    def _read(self) -> str | None:
        """The file's text, None while it is missing, unreadable or empty: secrets are sometimes swapped in two steps."""
        try:
            with self._path.open(encoding="utf-8", newline="") as file:
                text = file.read(FILE_BYTES).removesuffix("\n")
        except (OSError, UnicodeDecodeError):
            return None
        return text if text.strip() else None

    async def _judge(self, key: Secret) -> RotationOutcome:
        self._on_new(key)
        target = dataclasses.replace(self._reach.dialler.target, key=key)
        fatal = next((problem for problem in lint(key.reveal(), target.label) if problem.fatal), None)
        if fatal is not None:
            return self._refuse("key_malformed", key, f"{fatal.sentence} {fatal.remedy}")
        try:
            connected = await self._reach.dialler.dial(self._route, target=target)
        except Failure as failure:
            is_definite = failure.row.retry is Retry.NEVER
            if not self._is_refused():
                if is_definite:
                    return self._refuse(failure.reason, key, failure.row.remedy)
                self._log.warning(
                    "key.rotation_delayed",
                    reason=failure.reason,
                    message=failure.row.sentence,
                    remedy=failure.row.remedy,
                )
                return RotationOutcome(failure.reason, may_pass=True)
        else:
            await connected.close()
        self._take(key)
        return RotationOutcome()

    def _refuse(self, reason: str, key: Secret, remedy: str) -> RotationOutcome:
        self._tell_refusal(reason)
        self._metrics.key_rotations.labels("refused").inc()
        self._log.error(
            "key.rotation_refused",
            reason=reason,
            message="The new key was not taken; the one that holds stays.",
            remedy=remedy,
            fingerprint=fingerprint(key.reveal()),
            origin=f"file {self._path}",
        )
        return RotationOutcome(reason)

    def _tell_refusal(self, reason: str | None) -> None:
        self.refusal = reason
        self._metrics.key_file_refused.set(reason is not None)

    def _take(self, key: Secret) -> None:
        self._tell_refusal(None)
        target = self._reach.dialler.target  # once more: another look may have changed it
        self._reach.use(dataclasses.replace(target, key=key), None)
        self._metrics.key_rotations.labels("taken").inc()
        self._log.info(
            "key.rotated",
            message="New connections use the new key; open sessions keep theirs.",
            fingerprint=fingerprint(key.reveal()),
            origin=f"file {self._path}",
        )
        self._on_taken()
