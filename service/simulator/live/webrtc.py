"""WebRTC sessions: created by REST, and observed over WebSockets that attach to them. They carry no media.

Source: the guides "Voice WebRTC" and "Voice server controls", the types of openai-python 3.57, and frames seen on the wire in
2026-09: an attached connection gets ``session.started`` at once, and closes the session if it sends ``session.close``.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service.simulator.client_events import parse_event
from service.simulator.connection import Connection
from service.simulator.events import ApiError, JSONObject, require_object, require_string
from service.simulator.live.configuration import LiveConfiguration
from service.simulator.live.started import StartedSession
from service.simulator.scenarios import Scenario

_MAX_SESSIONS = 256
_REST_ONLY = ("idle_timeout_s", "wake_policy")
_ANSWER = (  # port 0 refuses the media
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 0 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 127.0.0.1\r\n"
)


@dataclass(slots=True, eq=False)
class WebRtcSession:
    """One session, and the connections that are attached to it."""

    configuration: LiveConfiguration
    key: str
    started_at: float = field(default_factory=time.monotonic)
    attached: set[StartedSession] = field(default_factory=set)


class WebRtcSessions:
    """The open sessions of one simulator, by identifier. The oldest ends if there are too many."""

    def __init__(self) -> None:
        self._sessions: dict[str, WebRtcSession] = {}

    def create(self, body: JSONObject, key: str, seconds: float, check: Callable[[str], None]) -> JSONObject:
        """Create a session from the body of a request; return that of the response. Raises ApiError.

        `check` raises ApiError for a model that the provider refuses.
        """
        transport = require_object(body, "transport")
        kind = require_string(transport, "type", path="transport.")
        if kind != "webrtc":
            raise ApiError("invalid_value", "Invalid 'transport.type': only 'webrtc' is supported.", param="transport")
        offer = require_string(transport, "sdp", path="transport.")
        if not offer.startswith("v=0") or "m=audio" not in offer:
            raise ApiError("invalid_offer", "The SDP offer is invalid.", param="transport.sdp")
        given = {name: value for name, value in require_object(body, "session").items() if name not in _REST_ONLY}
        configuration = LiveConfiguration(given, seconds, is_azure=False)
        check(str(given["model"]))
        if len(self._sessions) >= _MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._sessions[configuration.session_id] = WebRtcSession(configuration, key)
        return {"session": {"id": configuration.session_id}, "transport": {"type": kind, "sdp": _ANSWER}}

    def find(self, session_id: str, key: str | None) -> WebRtcSession | None:
        """The open session with an identifier, if this key created it."""
        session = self._sessions.get(session_id)
        return session if session is not None and session.key == key else None

    async def attach(self, session: WebRtcSession, connection: Connection, scenario: Scenario) -> None:
        """Serve a connection that is attached to a session, until it closes or the session ends."""
        started = StartedSession(
            connection, session.configuration, scenario, is_azure=False, webrtc_started_at=session.started_at
        )
        session.attached.add(started)
        try:
            await started.start({})
            async for message in connection.messages():
                await _handle(message, started, connection)
                if started.end_reason is not None:
                    await self._end(session, started.end_reason)
        finally:
            session.attached.discard(started)
            if started.end_reason is not None:
                await self._end(session, started.end_reason)

    async def _end(self, session: WebRtcSession, reason: str) -> None:
        """End the session for all connections that are attached to it."""
        self._sessions.pop(session.configuration.session_id, None)
        for other in tuple(session.attached):
            await other.end(reason)


async def _handle(message: str | bytes, started: StartedSession, connection: Connection) -> None:
    event: JSONObject | None = None
    try:
        event = parse_event(message)
        connection.record.add_client_event(require_string(event, "type"))
        await started.handle(event)
    except ApiError as error:
        await started.send_error(error, event)
