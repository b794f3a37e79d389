"""What is said and done in a started session: audio, context, and the work of the backend."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from service.simulator.audio import PCM16
from service.simulator.client_events import appended_audio
from service.simulator.connection import Connection
from service.simulator.events import JSON, ApiError, JSONObject, require_object, require_string, server_event
from service.simulator.ids import new_id
from service.simulator.items import decode_audio
from service.simulator.live.configuration import LiveConfiguration, live_tokens
from service.simulator.live.decisions import Decisions
from service.simulator.live.delegation import Backend
from service.simulator.live.events import invalid_event, live_error
from service.simulator.live.voice import GRID_MS, Frame, ParrotVoice, Speech, Word
from service.simulator.scenarios import Scenario

_MAX_APPEND_TOKENS = 500
_MAX_FIXTURE_MS = 30_000
_GREETING = "Hello"
_Handler = Callable[[JSONObject], Awaitable[None]]


class LiveConversation:
    """The conversation of one session. Handlers raise ApiError."""

    def __init__(
        self, connection: Connection, configuration: LiveConfiguration, scenario: Scenario, *, is_azure: bool
    ) -> None:
        self.configuration = configuration
        self.audio_received = False
        self._connection = connection
        self._scenario = scenario
        self._is_azure = is_azure
        self._voice = ParrotVoice(configuration.audio_format)
        self._backend = Backend(connection, configuration, scenario, self._backend_answered)
        self._decisions = Decisions(connection, configuration)
        self._appends: list[JSONObject] = []  # not acknowledged yet
        self._held: deque[Speech] = deque()  # the user's, until the backend has answered
        self._delegations: set[str] = set()  # of client delegation
        self._closing = False
        self.handlers: Mapping[str, _Handler] = {
            "session.update": self._update,
            "session.input_audio.append": self._hear,
            "session.input_audio.mute": self._mute,
            "session.input_audio.unmute": self._mute,
            "session.output_audio.fixture.play": self._play_fixture,
            "session.instructions.append": self._append_context,
            "session.thinking.append": self._append_context,
            "session.commentary.append": self._append_context,
            "response.item.create": self._create_item,
            "response.create": self._create_response,
            "decision.create": self._create_decision,
            "decision.item.create": self._create_decision_item,
            "decision.item.delete": self._delete_decision_item,
        }

    @property
    def has_unfinished_work(self) -> bool:
        """Whether the backend works or waits for the output of a call; the session then closes late."""
        return self._backend.is_busy

    async def send(self, event_type: str, cause: JSONObject | None, /, **fields: JSON) -> None:
        """Send an event. It names the client event that caused it, unless this is Azure."""
        client_event_id = (cause or {}).get("event_id")
        echo: JSONObject = {} if client_event_id is None or self._is_azure else {"client_event_id": client_event_id}
        await self._connection.send(server_event(event_type, **echo, **fields))

    async def send_error(self, error: ApiError, event: JSONObject | None) -> None:
        """Send an error that does not end the session."""
        event_id = (event or {}).get("event_id")
        await self._connection.send(live_error(error, event_id if isinstance(event_id, str) else None))

    async def cancel_pending_work(self) -> None:
        """Start nothing new; report the context that will not be injected. A running response continues."""
        self._closing = True
        self._backend.cancel_queue()
        appends, self._appends = self._appends, []
        for append in appends:
            error = ApiError("context_injection_incomplete", "The session closed before the context was injected.")
            await self.send_error(error, append)

    async def flush_audio(self) -> None:
        """Send the last output audio, which is shorter than a frame."""
        if rest := self._voice.flush():
            await self._connection.send_audio({"type": "session.output_audio.delta"}, rest)

    async def _update(self, event: JSONObject) -> None:
        self.configuration.update(require_object(event, "session"))
        await self.send("session.updated", event, session=self.configuration.session)

    async def _hear(self, event: JSONObject) -> None:
        audio = appended_audio(event, self._connection)
        if len(audio) % self.configuration.audio_format.sample_bytes:
            message = "Invalid 'audio'. The number of bytes must be even for 16-bit PCM."
            raise ApiError("invalid_audio", message, param="audio")
        self.audio_received = self.audio_received or bool(audio)
        for frame in self._voice.hear(audio):
            await self._send_frame(frame)

    async def _mute(self, event: JSONObject) -> None:
        self._voice.muted = event["type"] == "session.input_audio.mute"
        await self.send(f"{event['type']}d", event)

    async def _play_fixture(self, event: JSONObject) -> None:
        audio = decode_audio(require_string(event, "audio"), "audio")
        if len(audio) % PCM16.sample_bytes or PCM16.duration_ms(len(audio)) > _MAX_FIXTURE_MS:
            raise ApiError(
                "invalid_audio", "Invalid 'audio'. Expected at most 30 seconds of 16-bit PCM.", param="audio"
            )
        if self._voice.is_playing_fixture:
            raise invalid_event("A fixture is already playing.")
        voice_format = self.configuration.audio_format
        if voice_format is not PCM16:  # audio is never converted: silence of the same duration
            audio = voice_format.silence(voice_format.bytes_for(PCM16.duration_ms(len(audio))))
        self._voice.play(audio)
        await self.send("session.output_audio.fixture.playing", event)

    async def _append_context(self, event: JSONObject) -> None:
        if self._voice.is_playing_fixture:
            raise invalid_event("A fixture is playing.")
        content = require_string(event, "content")
        if live_tokens(content) > _MAX_APPEND_TOKENS:
            # The provider's code for this is not known.
            message = f"Invalid 'content': at most {_MAX_APPEND_TOKENS} tokens are supported."
            raise ApiError("invalid_value", message, param="content")
        delegation_id = None if event["delegation_id"] is None else require_string(event, "delegation_id")
        if delegation_id is not None and delegation_id not in self._delegations:
            message = "Invalid 'delegation_id': the session has no client delegation with this identifier."
            raise ApiError("invalid_parameter", message, param="delegation_id")
        self._appends.append(event)

    async def _create_item(self, event: JSONObject) -> None:
        self._backend.add_item(require_object(event, "item"))

    async def _create_response(self, _event: JSONObject) -> None:
        self._backend.create()

    async def _create_decision(self, event: JSONObject) -> None:
        self._decisions.create(event)

    async def _create_decision_item(self, event: JSONObject) -> None:
        item = self._decisions.create_item(require_object(event, "item"))
        await self.send("decision.item.created", event, item=item)

    async def _delete_decision_item(self, event: JSONObject) -> None:
        item_id = require_string(event, "item_id")
        self._decisions.delete_item(item_id)
        await self.send("decision.item.deleted", event, item_id=item_id)

    async def _send_frame(self, frame: Frame) -> None:
        await self._connection.send_audio({"type": "session.output_audio.delta"}, frame.audio)
        for word in frame.heard:
            await self._send_word("session.input_transcript.delta", word)
        for word in frame.said:
            await self._send_word("session.output_transcript.delta", word)
        appends, self._appends = self._appends, []
        for append in appends:
            await self._acknowledge(append)
        if self._voice.take_played():
            await self.send("session.output_audio.fixture.played", None)
        if frame.ended is not None:
            await self._answer(frame.ended)

    async def _send_word(self, event_type: str, word: Word) -> None:
        event = server_event(event_type, delta=word.delta, start_ms=word.start_ms, end_ms=word.end_ms)
        await self._connection.send(event)
        self._decisions.transcript_sent(event)

    async def _acknowledge(self, append: JSONObject) -> None:
        start_ms = self._voice.next_cell_ms
        await self.send(f"{append['type']}ed", append, start_ms=start_ms, end_ms=start_ms + GRID_MS)
        if append["type"] == "session.commentary.append":
            self._voice.hum(str(append["content"]))
        elif append["type"] == "session.instructions.append":
            self._voice.hum(_GREETING)  # the parrot answers any instruction so

    async def _answer(self, speech: Speech) -> None:
        if self.configuration.delegation == "responses":
            self._held.append(speech)
            if not self._backend.is_busy:
                await self._backend.delegate(self._voice.next_cell_ms)
            return
        if self.configuration.delegation == "decisions":
            await self._decisions.delegate(self._voice.next_cell_ms)
        elif self._scenario is Scenario.LIVE_DELEGATE:
            delegation_id = new_id("item")
            self._delegations.add(delegation_id)
            delegation: JSONObject = {"id": delegation_id, "type": "delegation", "target": "client"}
            event = server_event(
                "session.delegation.created", offset_ms=self._voice.next_cell_ms, delegation=delegation
            )
            await self._connection.send(event)
        self._voice.say(speech)

    async def _backend_answered(self, text: str | None) -> None:
        if self._held:
            self._voice.say(self._held.popleft())
        elif text is not None:
            self._voice.hum(text)
        if self._held and not self._closing:
            await self._backend.delegate(self._voice.next_cell_ms)
