"""Dials for a client, and applies what the operator or the client's secret sets in its session."""

from typing import Final

from service.relay.policy_start import apply_policy
from service.upstream.connector import UpstreamConnector
from service.upstream.dial import DialProgress, UpstreamConnection
from service.upstream.dials import DialsInFlight
from service.upstream.target import DialRequest
from service.web.attempts import ConnectionAttempt

_MIN_POLICY_SECONDS: Final = 1.0
"""The least time for the provider's answer to a policy, if the dial took nearly all of its own."""


class ClientDialler:
    """Dials through `DialsInFlight.run`. The caller owns the connection that it returns."""

    def __init__(self, connector: UpstreamConnector, dials: DialsInFlight) -> None:
        self._connector = connector
        self._dials = dials

    async def dial_for(
        self,
        dial_request: DialRequest,
        progress: DialProgress,
        attempt: ConnectionAttempt,
        *,
        is_recovery: bool = False,
    ) -> UpstreamConnection:
        """Dial for an attempt; raises Failure. `is_recovery`: see `CircuitBreaker.permit`."""
        return await self._dials.run(self._connect(dial_request, progress, attempt, is_recovery=is_recovery))

    async def dial_again(
        self, dial_request: DialRequest, attempt: ConnectionAttempt, *, is_recovery: bool
    ) -> UpstreamConnection:
        """Dial for the session of an attempt, which has lost its upstream (`is_recovery`) or is about to; raises Failure."""
        return await self.dial_for(dial_request, DialProgress(), attempt, is_recovery=is_recovery)

    async def _connect(
        self, dial_request: DialRequest, progress: DialProgress, attempt: ConnectionAttempt, *, is_recovery: bool
    ) -> UpstreamConnection:
        connected = await self._connector.dial(
            dial_request, progress, attempt.limited_as, attempt.identity.user, is_recovery=is_recovery
        )
        policy, session = attempt.policy, attempt.bound_session
        if policy is None and session is None:
            return connected
        left = self._connector.dialler.timeout_seconds - sum(progress.seconds.values())
        try:
            await apply_policy(connected, policy, session, max(left, _MIN_POLICY_SECONDS))
        except BaseException:
            connected.abort()  # also when cancelled: a session that stays open costs money
            raise
        return connected
