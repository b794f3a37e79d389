"""The check `live`: whether the provider accepts the key for GPT-Live. Off by default; it starts no session."""

import asyncio
import time

from service.failures import Failure
from service.health.checks import LIVE, HealthCheck
from service.upstream.dial import Dialler
from service.upstream.live_key import UNPROVEN, check_live_key


class LiveKeyCheck:
    """Refreshes the check, which the readiness latch and the overall status do not require.

    A Retry-After delays this check only: a limit on GPT-Live must not delay the checks of the Realtime API. A session of a
    client that started since the last refresh is better evidence, and replaces the request.
    """

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self._not_before = 0.0
        self.session_started = False  # since the last refresh
        self.state = HealthCheck(LIVE, is_required=False, caveat=UNPROVEN)

    async def refresh(self) -> None:
        """Run the check once, unless a Retry-After has not passed."""
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        if self.session_started:
            self.session_started = False
            self.state.succeeded(time.time(), None, "traffic")
            return
        if started_at < self._not_before:
            return
        try:
            await check_live_key(self._dialler)
        except Failure as failure:
            self._not_before = started_at + (failure.retry_after_seconds or 0)
            self.state.failed(failure, time.time(), loop.time() - started_at)
        else:
            self.state.succeeded(time.time(), loop.time() - started_at)
