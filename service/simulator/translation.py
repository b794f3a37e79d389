"""A translation session: every 200 ms of audio comes back at once, translated by a parrot.

Its vocabulary is its own: ``session.update``, ``session.input_audio_buffer.append`` and ``session.close`` go in;
``session.*`` events come out. Source: the API reference "Realtime translation".
"""

from service.simulator import schema
from service.simulator.audio import PCM16
from service.simulator.configuration import Configuration
from service.simulator.events import (
    JSON,
    JSONObject,
    Mistake,
    error_event,
    event,
    invalid_value,
    need_object,
    need_text,
)
from service.simulator.faults import maybe_strike, run_expiry
from service.simulator.intake import appended_audio, event_id_of, parse_event
from service.simulator.peer import Peer
from service.simulator.scenarios import Scenario

_FRAME_MS = 200
_SENTENCE_MS = 1_000  # a word of transcript for each second that was heard
_TYPES = ("session.update", "session.input_audio_buffer.append", "session.close")


class TranslationSession:
    """One translation, from its first event to the end of its socket."""

    def __init__(self, peer: Peer, scenario: Scenario, session: JSONObject) -> None:
        self._peer = peer
        self._scenario = scenario
        self._configuration = Configuration(session, schema.TRANSLATION_SESSION)
        self._pending = bytearray()
        self._elapsed_bytes = 0
        peer.record.session_id = self._configuration.session_id

    async def run(self) -> None:
        """Live until the socket ends."""
        await self._send("session.created", session=self._configuration.session)
        self._peer.spawn(run_expiry(self._peer, self._scenario))
        async for message in self._peer.messages():
            await self._take(message)

    async def _take(self, message: str | bytes) -> None:
        given: JSONObject | None = None
        try:
            given = parse_event(message)
            kind = need_text(given, "type")
            self._peer.record.note_event(kind)
            await self._follow(kind, given)
        except Mistake as mistake:
            await self._peer.send(error_event(mistake, event_id_of(given, self._peer)))
        await maybe_strike(self._peer, self._scenario)

    async def _follow(self, kind: str, given: JSONObject) -> None:
        if kind == "session.update":
            self._configuration.update(need_object(given, "session"))
            await self._send("session.updated", session=self._configuration.session)
        elif kind == "session.input_audio_buffer.append":
            self._pending += appended_audio(given, self._peer)
            await self._translate(PCM16.bytes_in(_FRAME_MS))
        elif kind == "session.close":
            await self._translate(1)
            await self._send("session.closed")
            await self._peer.close(1000)
        else:
            raise invalid_value("type", kind, _TYPES)

    async def _translate(self, at_least: int) -> None:
        size = PCM16.bytes_in(_FRAME_MS)
        while len(self._pending) >= at_least:
            frame = bytes(self._pending[:size])
            del self._pending[:size]
            await self._tell(frame)

    async def _tell(self, frame: bytes) -> None:
        before = int(PCM16.milliseconds_of(self._elapsed_bytes))
        self._elapsed_bytes += len(frame)
        elapsed_ms = int(PCM16.milliseconds_of(self._elapsed_bytes))
        if before // _SENTENCE_MS != elapsed_ms // _SENTENCE_MS:
            if self._configuration.transcription_model is not None:
                await self._send("session.input_transcript.delta", delta=" squawk", elapsed_ms=elapsed_ms)
            await self._send("session.output_transcript.delta", delta=" squawk", elapsed_ms=elapsed_ms)
        stated: JSONObject = {
            "elapsed_ms": elapsed_ms,
            "channels": 1,
            "format": "pcm16",
            "sample_rate": PCM16.rate,
        }
        await self._peer.send_audio(event("session.output_audio.delta", **stated), frame)

    async def _send(self, kind: str, **fields: JSON) -> None:
        await self._peer.send(event(kind, **fields))
