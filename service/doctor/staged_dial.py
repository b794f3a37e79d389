"""A dial that is observed in two stages: the upgrade, then the first event."""

import asyncio

from service.failures import Failure, Phase
from service.upstream.dial import Dialler, DialProgress, UpstreamConnection
from service.upstream.target import DialRequest


class StagedDial:
    """Runs one `Dialler.dial`, as the relay does for a client, and waits for its stages separately. Close it."""

    def __init__(self, dialler: Dialler, request: DialRequest) -> None:
        self._progress = _UpgradeProgress()
        self._task = asyncio.ensure_future(dialler.dial(request, self._progress))

    async def wait_for_upgrade(self) -> None:
        """Wait for the 101; raises the Failure of a dial that ends before it."""
        upgraded = asyncio.ensure_future(self._progress.upgraded.wait())
        try:
            await asyncio.wait({self._task, upgraded}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            upgraded.cancel()
        error = self._task.exception() if self._task.done() else None
        # A failure after the 101 belongs to the next stage, also if it is already known.
        if error is not None and not (isinstance(error, Failure) and error.phase is Phase.FIRST_EVENT):
            raise error

    async def wait_for_first_event(self) -> UpstreamConnection:
        """Wait for the end of the dial; raises Failure. The caller owns the connection."""
        return await self._task

    @property
    def first_event_seconds(self) -> float:
        """The time from the 101 to the first event."""
        return self._progress.seconds.get(Phase.FIRST_EVENT, 0.0)

    async def close(self) -> None:
        """Cancel the dial, and abort a connection that it has made."""
        self._task.cancel()
        await asyncio.wait({self._task})
        if not self._task.cancelled() and self._task.exception() is None:
            self._task.result().abort()


class _UpgradeProgress(DialProgress):
    """Sets `upgraded` when the dial has received its 101."""

    def __init__(self) -> None:
        super().__init__()
        self.upgraded = asyncio.Event()

    def enter(self, phase: Phase) -> None:
        """See `DialProgress.enter`."""
        super().enter(phase)
        if phase is Phase.FIRST_EVENT:
            self.upgraded.set()
