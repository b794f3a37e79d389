"""A session from ``session.started`` to ``session.closed``: its events, its usage, and its end.

An ``error`` changes nothing. Usage is the cumulative duration. Source: the guide "Live conversations", and frames seen on the
wire from 2026-09 to 2026-11.
"""

import asyncio
import time
from enum import Enum

from service.simulator.connection import Connection
from service.simulator.events import JSONObject
from service.simulator.live.configuration import LiveConfiguration
from service.simulator.live.conversation import LiveConversation
from service.simulator.live.events import invalid_event
from service.simulator.live.schema import validate_event
from service.simulator.scenarios import Scenario

_CONTEXT_TOKENS = 128_000
_MAX_CONTEXT_RATIO = 0.9  # then the provider compacts
_TOKENS_PER_SECOND = 20  # an assumption, for the ratio of the context window
_GOING_AWAY = 1001
_WEBRTC_SECONDS = 15.0  # are billed at once
_END_REASONS = {
    Scenario.LIVE_CONNECTION_LOST: "connection_lost",
    Scenario.LIVE_CONTENT: "content",
    Scenario.LIVE_REMOTE_HANGUP: "remote_hangup",
}


class _Phase(Enum):
    OPEN = "serves the client"
    CLOSING = "has received session.close"
    ENDED = "has sent session.closed, or will not send it"


def lifetime_seconds(connection: Connection, scenario: Scenario) -> float:
    """Return the maximum duration of a session."""
    limit = connection.options.live.session_seconds
    expires_early = scenario in (Scenario.EXPIRE_SOON, Scenario.EXPIRE_SILENT)
    return min(connection.options.expire_after_seconds, limit) if expires_early else limit


class StartedSession:
    """One session that has started."""

    def __init__(
        self,
        connection: Connection,
        configuration: LiveConfiguration,
        scenario: Scenario,
        *,
        is_azure: bool,
        webrtc_started_at: float | None = None,
    ) -> None:
        self._connection = connection
        self._options = connection.options.live
        self._configuration = configuration
        self._scenario = scenario
        self._is_azure = is_azure
        self._conversation = LiveConversation(connection, configuration, scenario, is_azure=is_azure)
        self._phase = _Phase.OPEN
        self._is_webrtc = webrtc_started_at is not None  # the connection is attached to a session with other media
        self._started_at = time.monotonic() if webrtc_started_at is None else webrtc_started_at
        self.end_reason: str | None = None
        self.send_error = self._conversation.send_error

    async def start(self, event: JSONObject) -> None:
        """Send ``session.started`` and start the timers."""
        self._connection.record.session_id = self._configuration.session_id
        await self._conversation.send("session.started", event, session=self._configuration.session)
        for timer in (self._expire_at_limit, self._expire_without_audio, self._report_usage):
            if timer != self._expire_without_audio or not self._is_webrtc:
                self._connection.spawn(timer())

    async def handle(self, event: JSONObject) -> None:
        """Handle a client event. Raises ApiError."""
        event_type = validate_event(event)
        if self._phase is _Phase.ENDED or (
            self._phase is _Phase.CLOSING and event_type == "session.input_audio.append"
        ):
            return
        if self._phase is _Phase.CLOSING:
            raise invalid_event("The session is closing.")
        if event_type == "session.start":
            raise invalid_event("The session has already been started.")
        if event_type == "session.close":
            await self._close(event)
        elif event_type in self._conversation.handlers and not (
            self._is_webrtc and event_type == "session.input_audio.append"
        ):
            await self._conversation.handlers[event_type](event)
        else:
            raise invalid_event(f"This session does not accept '{event_type}'.")

    async def end_by_scenario(self) -> None:
        """End the session as its scenario requires, after the client's first events."""
        reason = _END_REASONS.get(self._scenario)
        if self._connection.record.messages_received >= self._connection.options.fault_after_messages and reason:
            await self.end(reason)

    async def _close(self, event: JSONObject) -> None:
        self._phase = _Phase.CLOSING
        await self._conversation.cancel_pending_work()
        if self._scenario is not Scenario.LIVE_CLOSE_NEVER:
            self._connection.spawn(self._finish_close(event))

    async def _finish_close(self, event: JSONObject) -> None:
        is_slow = self._scenario is Scenario.LIVE_CLOSE_SLOW or self._conversation.has_unfinished_work
        await asyncio.sleep(self._options.slow_close_seconds if is_slow else self._options.close_seconds)
        if self._scenario is Scenario.LIVE_CLOSE_SILENT:
            self._phase = _Phase.ENDED
            await self._connection.close(self._options.closed_close_code)
        else:
            await self.end("close_requested", event)

    async def _expire_at_limit(self) -> None:
        age = time.monotonic() - self._started_at
        await asyncio.sleep(max(0.0, lifetime_seconds(self._connection, self._scenario) - age))
        if self._scenario is Scenario.EXPIRE_SILENT:
            self._phase = _Phase.ENDED
            await self._connection.close(_GOING_AWAY)
        else:
            await self.end("expired")

    async def _expire_without_audio(self) -> None:
        await asyncio.sleep(self._options.no_audio_seconds)
        if not self._conversation.audio_received:
            await self.end("expired")

    async def _report_usage(self) -> None:
        options = self._options
        interval = options.azure_usage_interval_seconds if self._is_azure else options.usage_interval_seconds
        while True:
            await asyncio.sleep(interval)
            if self._phase is _Phase.ENDED:
                return
            usage = self._usage()
            tokens = self._configuration.tokens + (time.monotonic() - self._started_at) * _TOKENS_PER_SECOND
            context: JSONObject = {"usage_ratio": round(min(tokens / _CONTEXT_TOKENS, _MAX_CONTEXT_RATIO), 4)}
            await self._conversation.send("session.usage.updated", None, usage=usage, context_window=context)

    async def end(self, reason: str, event: JSONObject | None = None) -> None:
        """Send the last audio and ``session.closed``, and close the connection; do nothing the second time."""
        if self._phase is _Phase.ENDED:
            return
        self._phase, self.end_reason = _Phase.ENDED, reason
        await self._conversation.cancel_pending_work()
        await self._conversation.flush_audio()
        session: JSONObject = {"session": self._configuration.session} if self._options.closed_contains_session else {}
        self._connection.record.closed_reason = reason
        await self._conversation.send("session.closed", event, reason=reason, usage=self._usage(), **session)
        await self._connection.close(self._options.closed_close_code)

    def _usage(self) -> JSONObject:
        seconds = round(max(time.monotonic() - self._started_at, _WEBRTC_SECONDS if self._is_webrtc else 0.0), 3)
        self._connection.record.usage_seconds = seconds
        return {"seconds": seconds}
