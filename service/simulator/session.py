"""A realtime session: a conversation, a transcription session, or the sideband of a call.

Client events are processed one at a time, in order; responses and transcriptions run concurrently. An invalid client event
is answered with an ``error`` event and changes nothing. Source: the API reference "Realtime client events" and "Realtime
server events".
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from service.simulator.client_events import appended_audio, client_event_id, parse_event, parse_type
from service.simulator.configuration import SessionConfiguration, parse_audio_format
from service.simulator.connection import Connection
from service.simulator.conversation import Conversation
from service.simulator.events import (
    JSON,
    ApiError,
    JSONObject,
    invalid_value,
    require_integer,
    require_object,
    require_string,
    server_event,
)
from service.simulator.faults import close_at_expiry, inject_mid_session_fault
from service.simulator.ids import new_id
from service.simulator.items import Item, audio_item, parse_item
from service.simulator.mcp import McpServers
from service.simulator.refusals import model_cannot_transcribe
from service.simulator.responses import Responses
from service.simulator.scenarios import Scenario
from service.simulator.transcription import start_transcription
from service.simulator.vad import IdleTimeout, InputAudioBuffer, SpeechStarted, SpeechStopped
from service.simulator.voice import NumberedVoice, with_words

_MIN_COMMIT_MS = 100
_CLIENT_EVENT_TYPES = (  # in the order of the provider's error message for an unknown type
    "session.update",
    "session.close",
    "input_audio_buffer.append",
    "session.input_audio_buffer.append",
    "input_audio_buffer.commit",
    "input_audio_buffer.clear",
    "conversation.item.create",
    "conversation.item.truncate",
    "conversation.item.delete",
    "conversation.item.retrieve",
    "response.create",
    "response.cancel",
)
_Handler = Callable[[JSONObject], Awaitable[None]]


class Session:
    """One session, from its first event to the end of its connection."""

    def __init__(
        self,
        connection: Connection,
        scenario: Scenario,
        configuration: SessionConfiguration,
        *,
        conversation: Conversation | None = None,
        sideband: bool = False,
        unsupported_model: str | None = None,
        voice: NumberedVoice | None = None,
    ) -> None:
        self._connection = connection
        self._scenario = scenario
        self._configuration = configuration
        self._sideband = sideband
        self._unsupported_model = unsupported_model  # the provider refuses it only at the first session.update
        self._conversation = conversation or Conversation(connection.options.kept_audio_bytes)
        self._record = connection.record.conversation
        self._buffer = InputAudioBuffer(connection.behaviour.vad_lag_ms)
        self._mcp_servers = McpServers(connection, self._conversation)
        self._responses = Responses(
            connection,
            self._conversation,
            configuration,
            scenario,
            mcp_servers=self._mcp_servers,
            sideband=sideband,
            voice=voice,
            on_answer=self._buffer.expect_speech,
        )
        self._speech_item_id = new_id("item")
        self._handlers: Mapping[str, _Handler] = {
            "session.update": self._update,
            "session.close": self._close,
            "input_audio_buffer.append": self._append,
            "session.input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "conversation.item.create": self._create_item,
            "conversation.item.truncate": self._truncate_item,
            "conversation.item.delete": self._delete_item,
            "conversation.item.retrieve": self._retrieve_item,
            "response.create": self._create_response,
            "response.cancel": self._cancel_response,
        }
        connection.record.session_id = configuration.session_id
        connection.record.configuration = configuration
        self._configure_buffer()
        self._record_session()
        if self._record is not None:
            self._record.watch(self._conversation)

    async def run(self) -> None:
        """Serve the session until the connection closes."""
        if self._scenario is Scenario.SLOW_FIRST_EVENT:
            self._connection.spawn(self._send_session_created(self._connection.options.slow_first_event_seconds))
        elif not self._sideband or self._connection.behaviour.creates_on_sideband:
            await self._send_session_created(0)
        self._connection.spawn(close_at_expiry(self._connection, self._scenario))
        async for message in self._connection.messages():
            await self._handle_message(message)

    async def _send_session_created(self, delay_seconds: float) -> None:
        if delay_seconds:
            await asyncio.sleep(delay_seconds)
        await self._send("session.created", session=self._configuration.session)
        self._mcp_servers.list_tools(self._configuration.get("tools"))

    async def _handle_message(self, message: str | bytes) -> None:
        event: JSONObject | None = None
        try:
            event = parse_event(message)
            event_type = parse_type(event)
            self._connection.record.add_client_event(event_type)
            if event_type not in self._handlers:
                raise invalid_value("type", event_type, _CLIENT_EVENT_TYPES)
            await self._handlers[event_type](event)
        except ApiError as error:
            await self._connection.send_error(error, client_event_id(event))
        await inject_mid_session_fault(self._connection, self._scenario)

    async def _update(self, event: JSONObject) -> None:
        if self._unsupported_model is not None:
            await self._connection.refuse(model_cannot_transcribe(self._unsupported_model))
            return
        self._configuration.update(require_object(event, "session"), is_speaking=self._responses.is_active)
        self._configure_buffer()
        self._record_session()
        await self._send("session.updated", session=self._configuration.session)
        self._mcp_servers.list_tools(self._configuration.get("tools"))

    async def _close(self, _event: JSONObject) -> None:
        await self._connection.close(1000)

    async def _append(self, event: JSONObject) -> None:
        for speech_event in self._buffer.append(appended_audio(event, self._connection)):
            if isinstance(speech_event, SpeechStarted):
                await self._handle_speech_started(speech_event)
            elif isinstance(speech_event, SpeechStopped):
                await self._handle_speech_stopped(speech_event)
            else:
                await self._handle_idle_timeout(speech_event)

    async def _handle_speech_started(self, started: SpeechStarted) -> None:
        fields: JSONObject = {"audio_start_ms": started.audio_start_ms, "item_id": self._speech_item_id}
        await self._send("input_audio_buffer.speech_started", **fields)
        if self._configuration.interrupts_response:
            self._responses.interrupt()

    async def _handle_speech_stopped(self, stopped: SpeechStopped) -> None:
        fields: JSONObject = {"audio_end_ms": stopped.audio_end_ms, "item_id": self._speech_item_id}
        await self._send("input_audio_buffer.speech_stopped", **fields)
        await self._end_turn(stopped.audio)

    async def _handle_idle_timeout(self, idle: IdleTimeout) -> None:
        times: JSONObject = {"audio_start_ms": idle.audio_start_ms, "audio_end_ms": idle.audio_end_ms}
        await self._send("input_audio_buffer.timeout_triggered", **times, item_id=self._speech_item_id)
        await self._end_turn(idle.audio)

    async def _end_turn(self, audio: bytes) -> None:
        await self._add_audio_item(audio, "vad")
        if self._configuration.creates_response:
            self._responses.create_after_speech()

    async def _commit(self, _event: JSONObject) -> None:
        milliseconds = self._buffer.milliseconds
        if milliseconds < _MIN_COMMIT_MS:
            message = (
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
                f"but buffer only has {milliseconds:.2f}ms of audio."
            )
            raise ApiError("input_audio_buffer_commit_empty", message)
        await self._add_audio_item(self._buffer.commit(), "manual")

    async def _add_audio_item(self, audio: bytes, how: str) -> None:
        item = with_words(audio_item(audio, self._buffer.format, self._speech_item_id), self._buffer.format)
        self._speech_item_id = new_id("item")
        previous = self._conversation.add(item)
        self._record_turn(item, how)
        await self._send("input_audio_buffer.committed", previous_item_id=previous, item_id=item.item_id)
        await self._send_item_events(item, previous)
        start_transcription(self._connection, self._conversation, item, self._configuration)

    async def _clear(self, _event: JSONObject) -> None:
        self._buffer.clear()
        await self._send("input_audio_buffer.cleared")

    async def _create_item(self, event: JSONObject) -> None:
        after = require_string(event, "previous_item_id") if event.get("previous_item_id") is not None else None
        audio_format = self._configuration.input_format
        item = with_words(parse_item(require_object(event, "item"), audio_format), audio_format)
        previous = self._conversation.add(item, after)
        await self._send_item_events(item, previous)
        if item.kind == "mcp_approval_response" and item.body["approve"] is True:
            self._connection.spawn(self._mcp_servers.approved(item))
        if item.audio is not None:
            self._record_turn(item, "created")
            if self._connection.behaviour.transcribes_created_audio:
                start_transcription(self._connection, self._conversation, item, self._configuration)

    async def _send_item_events(self, item: Item, previous: str | None) -> None:
        for event_type in ("conversation.item.added", "conversation.item.done"):
            await self._send(event_type, previous_item_id=previous, item=item.body)

    async def _truncate_item(self, event: JSONObject) -> None:
        audio_format = parse_audio_format(self._configuration.get("audio", "output", "format"))
        self._conversation.truncate(event, audio_format)
        fields = {name: event[name] for name in ("item_id", "content_index", "audio_end_ms")}
        if self._record is not None:
            self._record.truncated.append((require_string(event, "item_id"), require_integer(event, "audio_end_ms")))
        await self._send("conversation.item.truncated", **fields)

    async def _delete_item(self, event: JSONObject) -> None:
        item_id = require_string(event, "item_id")
        self._conversation.delete(item_id)
        if self._record is not None:
            self._record.deleted.append(item_id)
        await self._send("conversation.item.deleted", item_id=item_id)

    async def _retrieve_item(self, event: JSONObject) -> None:
        item = self._conversation.find(require_string(event, "item_id"), "retrieve")
        await self._send("conversation.item.retrieved", item=item.body_with_audio)

    async def _create_response(self, event: JSONObject) -> None:
        self._responses.create(event)

    async def _cancel_response(self, event: JSONObject) -> None:
        self._responses.cancel(event)

    def _configure_buffer(self) -> None:
        self._buffer.configure(self._configuration.input_format, self._configuration.turn_detection)
        if self._record is not None:
            self._record.audio_format = self._configuration.input_format

    def _record_session(self) -> None:
        if self._record is not None:
            self._record.sessions.append(self._configuration.session)

    def _record_turn(self, item: Item, how: str) -> None:
        if self._record is not None:
            self._record.add_turn(item, how)

    async def _send(self, event_type: str, **fields: JSON) -> None:
        await self._connection.send(server_event(event_type, **fields))
