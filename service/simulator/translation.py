"""A translation session: it returns each 200 ms of the user's audio unchanged, as its translation.

Client events: ``session.update``, ``session.input_audio_buffer.append`` and ``session.close``; server events:
``session.*`` and ``error``. Source: the API reference "Realtime translation".
"""

from service.simulator import schema
from service.simulator.audio import PCM16
from service.simulator.client_events import appended_audio, client_event_id, parse_event, parse_type
from service.simulator.configuration import SessionConfiguration
from service.simulator.connection import Connection
from service.simulator.events import (
    JSON,
    ApiError,
    JSONObject,
    invalid_value,
    require_object,
    server_event,
)
from service.simulator.faults import close_at_expiry, inject_mid_session_fault
from service.simulator.scenarios import Scenario

_FRAME_MS = 200
_TRANSCRIPT_INTERVAL_MS = 1_000  # one transcript delta per second of audio
_CLIENT_EVENT_TYPES = ("session.update", "session.input_audio_buffer.append", "session.close")


class TranslationSession:
    """One translation session, from its first event to the end of its connection."""

    def __init__(self, connection: Connection, scenario: Scenario, session: JSONObject) -> None:
        self._connection = connection
        self._scenario = scenario
        self._configuration = SessionConfiguration(session, schema.TRANSLATION_SESSION)
        self._pending = bytearray()
        self._sent_bytes = 0
        connection.record.session_id = self._configuration.session_id

    async def run(self) -> None:
        """Serve the session until the connection closes."""
        await self._send("session.created", session=self._configuration.session)
        self._connection.spawn(close_at_expiry(self._connection, self._scenario))
        async for message in self._connection.messages():
            await self._handle_message(message)

    async def _handle_message(self, message: str | bytes) -> None:
        event: JSONObject | None = None
        try:
            event = parse_event(message)
            event_type = parse_type(event)
            self._connection.record.add_client_event(event_type)
            await self._handle_event(event_type, event)
        except ApiError as error:
            await self._connection.send_error(error, client_event_id(event))
        await inject_mid_session_fault(self._connection, self._scenario)

    async def _handle_event(self, event_type: str, event: JSONObject) -> None:
        if event_type == "session.update":
            self._configuration.update(require_object(event, "session"))
            await self._send("session.updated", session=self._configuration.session)
        elif event_type == "session.input_audio_buffer.append":
            self._pending += appended_audio(event, self._connection)
            await self._translate(minimum_bytes=PCM16.bytes_for(_FRAME_MS))
        elif event_type == "session.close":
            await self._translate(minimum_bytes=1)
            await self._send("session.closed")
            await self._connection.close(1000)
        else:
            raise invalid_value("type", event_type, _CLIENT_EVENT_TYPES)

    async def _translate(self, *, minimum_bytes: int) -> None:
        size = PCM16.bytes_for(_FRAME_MS)
        while len(self._pending) >= minimum_bytes:
            frame = bytes(self._pending[:size])
            del self._pending[:size]
            await self._send_frame(frame)

    async def _send_frame(self, frame: bytes) -> None:
        previous_ms = int(PCM16.duration_ms(self._sent_bytes))
        self._sent_bytes += len(frame)
        elapsed_ms = int(PCM16.duration_ms(self._sent_bytes))
        if previous_ms // _TRANSCRIPT_INTERVAL_MS != elapsed_ms // _TRANSCRIPT_INTERVAL_MS:
            if self._configuration.transcription_model is not None:
                await self._send("session.input_transcript.delta", delta=" squawk", elapsed_ms=elapsed_ms)
            await self._send("session.output_transcript.delta", delta=" squawk", elapsed_ms=elapsed_ms)
        fields: JSONObject = {
            "elapsed_ms": elapsed_ms,
            "channels": 1,
            "format": "pcm16",
            "sample_rate": PCM16.rate,
        }
        await self._connection.send_audio(server_event("session.output_audio.delta", **fields), frame)

    async def _send(self, event_type: str, **fields: JSON) -> None:
        await self._connection.send(server_event(event_type, **fields))
