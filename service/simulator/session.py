"""A realtime session: a conversation, a transcription session, or the sideband of a call.

Client events are processed one at a time, in order; responses and transcriptions run concurrently. An invalid client event
is answered with an ``error`` event and changes nothing. Source: the API reference "Realtime client events" and "Realtime
server events".
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from service.realtime.usage import Tokens
from service.simulator import schema
from service.simulator.client_events import appended_audio, echoed_event_id, parse_event, parse_type
from service.simulator.configuration import SessionConfiguration, parse_audio_format
from service.simulator.connection import Connection
from service.simulator.conversation import Conversation
from service.simulator.events import (
    JSON,
    ApiError,
    JSONObject,
    error_event,
    invalid_value,
    require_object,
    require_string,
    server_event,
)
from service.simulator.faults import close_at_expiry, inject_mid_session_fault
from service.simulator.ids import new_id
from service.simulator.items import Item, audio_item, parse_item
from service.simulator.refusals import (
    internal_error,
    model_cannot_transcribe,
    model_not_found_error,
    rate_limit_error,
)
from service.simulator.reply import compose_reply, merge_response_options
from service.simulator.response import InjectedFailure, Response
from service.simulator.scenarios import Scenario
from service.simulator.transcription import start_transcription
from service.simulator.vad import InputAudioBuffer, SpeechStarted, SpeechStopped

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
        sideband: bool = False,
        unsupported_model: str | None = None,
    ) -> None:
        self._connection = connection
        self._scenario = scenario
        self._configuration = configuration
        self._sideband = sideband
        self._unsupported_model = unsupported_model  # the provider refuses it only at the first session.update
        self._conversation = Conversation(connection.options.kept_audio_bytes)
        self._buffer = InputAudioBuffer()
        self._speech_item_id = new_id("item")
        self._response: Response | None = None
        self._response_pending = False  # speech ended during the active response
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

    async def run(self) -> None:
        """Serve the session until the connection closes."""
        if self._scenario is Scenario.SLOW_FIRST_EVENT:
            self._connection.spawn(self._send_session_created(self._connection.options.slow_first_event_seconds))
        elif not self._sideband:  # the provider sends no session.created on a sideband
            await self._send_session_created(0)
        self._connection.spawn(close_at_expiry(self._connection, self._scenario))
        async for message in self._connection.messages():
            await self._handle_message(message)

    async def _send_session_created(self, delay_seconds: float) -> None:
        if delay_seconds:
            await asyncio.sleep(delay_seconds)
        await self._send("session.created", session=self._configuration.session)

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
            await self._connection.send(error_event(error, echoed_event_id(event, self._connection)))
        await inject_mid_session_fault(self._connection, self._scenario)

    async def _update(self, event: JSONObject) -> None:
        if self._unsupported_model is not None:
            await self._connection.refuse(model_cannot_transcribe(self._unsupported_model))
            return
        is_speaking = self._response is not None and self._response.active
        self._configuration.update(require_object(event, "session"), is_speaking=is_speaking)
        self._configure_buffer()
        await self._send("session.updated", session=self._configuration.session)

    async def _close(self, _event: JSONObject) -> None:
        await self._connection.close(1000)

    async def _append(self, event: JSONObject) -> None:
        for speech_event in self._buffer.append(appended_audio(event, self._connection)):
            if isinstance(speech_event, SpeechStarted):
                await self._handle_speech_started(speech_event)
            else:
                await self._handle_speech_stopped(speech_event)

    async def _handle_speech_started(self, started: SpeechStarted) -> None:
        fields: JSONObject = {"audio_start_ms": started.audio_start_ms, "item_id": self._speech_item_id}
        await self._send("input_audio_buffer.speech_started", **fields)
        if self._configuration.interrupts_response and self._response is not None:
            self._response.cancel("turn_detected")

    async def _handle_speech_stopped(self, stopped: SpeechStopped) -> None:
        fields: JSONObject = {"audio_end_ms": stopped.audio_end_ms, "item_id": self._speech_item_id}
        await self._send("input_audio_buffer.speech_stopped", **fields)
        await self._add_audio_item(stopped.audio)
        if self._configuration.creates_response:
            if self._response is not None and self._response.active:
                self._response_pending = True
            else:
                self._start_response({})

    async def _commit(self, _event: JSONObject) -> None:
        milliseconds = self._buffer.milliseconds
        if milliseconds < _MIN_COMMIT_MS:
            message = (
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
                f"but buffer only has {milliseconds:.2f}ms of audio."
            )
            raise ApiError("input_audio_buffer_commit_empty", message)
        await self._add_audio_item(self._buffer.commit())

    async def _add_audio_item(self, audio: bytes) -> None:
        item = audio_item(audio, self._buffer.format, self._speech_item_id)
        self._speech_item_id = new_id("item")
        previous = self._conversation.add(item)
        await self._send("input_audio_buffer.committed", previous_item_id=previous, item_id=item.item_id)
        await self._send_item_events(item, previous)
        start_transcription(self._connection, self._conversation, item, self._configuration)

    async def _clear(self, _event: JSONObject) -> None:
        self._buffer.clear()
        await self._send("input_audio_buffer.cleared")

    async def _create_item(self, event: JSONObject) -> None:
        after = require_string(event, "previous_item_id") if event.get("previous_item_id") is not None else None
        item = parse_item(require_object(event, "item"), self._configuration.input_format)
        previous = self._conversation.add(item, after)
        await self._send_item_events(item, previous)

    async def _send_item_events(self, item: Item, previous: str | None) -> None:
        for event_type in ("conversation.item.added", "conversation.item.done"):
            await self._send(event_type, previous_item_id=previous, item=item.body)

    async def _truncate_item(self, event: JSONObject) -> None:
        self._conversation.truncate(event, parse_audio_format(self._configuration.get("audio", "output", "format")))
        fields = {name: event[name] for name in ("item_id", "content_index", "audio_end_ms")}
        await self._send("conversation.item.truncated", **fields)

    async def _delete_item(self, event: JSONObject) -> None:
        item_id = require_string(event, "item_id")
        self._conversation.delete(item_id)
        await self._send("conversation.item.deleted", item_id=item_id)

    async def _retrieve_item(self, event: JSONObject) -> None:
        item = self._conversation.find(require_string(event, "item_id"), "retrieve")
        await self._send("conversation.item.retrieved", item=item.body_with_audio)

    async def _create_response(self, event: JSONObject) -> None:
        if self._configuration.is_transcription:
            raise ApiError("invalid_event", "Responses cannot be created in a transcription session.", param="type")
        if self._response is not None and self._response.active:
            message = (
                f"Conversation already has an active response in progress: {self._response.response_id}. "
                "Wait until the response is finished before creating a new one."
            )
            raise ApiError("conversation_already_has_active_response", message)
        params = require_object(event, "response") if event.get("response") is not None else {}
        schema.validate(schema.RESPONSE, params, "response")
        self._start_response(params)

    async def _cancel_response(self, event: JSONObject) -> None:
        response, response_id = self._response, event.get("response_id")
        if response is None or not response.active or response_id not in (None, response.response_id):
            raise ApiError("response_cancel_not_active", "Cancellation failed: no active response found")
        response.cancel("client_cancelled")

    def _start_response(self, params: JSONObject) -> None:
        audio_format = parse_audio_format(self._audio_output_option(params, "format"))
        voice = self._audio_output_option(params, "voice")
        options = merge_response_options(params, self._configuration.session, audio_format, voice)
        items, input_tokens = self._conversation.items, self._conversation.input_tokens
        inline = params.get("input")
        if isinstance(inline, list):
            items = self._inline_items(inline)
            input_tokens = sum((item.tokens for item in items), Tokens())
        self._configuration.assistant_audio_sent |= options.with_audio
        self._response = Response(
            self._connection,
            self._conversation,
            options,
            compose_reply(items, options, self._configuration.input_format),
            input_tokens=input_tokens,
            failure=self._injected_failure(),
            sideband=self._sideband,
        )
        self._connection.spawn(self._run_response(self._response))

    async def _run_response(self, response: Response) -> None:
        await response.run()
        self._start_pending_response()
        await response.send_rate_limits()

    def _start_pending_response(self) -> None:
        if self._response_pending:
            self._response_pending = False
            self._start_response({})

    def _inline_items(self, inline: list[JSON]) -> tuple[Item, ...]:
        items = []
        for source in inline:
            if not isinstance(source, dict):
                continue
            if source.get("type") == "item_reference":
                items.append(self._conversation.find(require_string(source, "id"), "retrieve"))
            else:
                items.append(parse_item(source, self._configuration.input_format))
        return tuple(items)

    def _injected_failure(self) -> InjectedFailure | None:
        model = self._configuration.model
        failures = {
            Scenario.MODEL_ACCESS_LATE: InjectedFailure(model_not_found_error(model), halfway=False),
            Scenario.RATE_LIMITED_MID: InjectedFailure(rate_limit_error(model), halfway=False),
            Scenario.SERVER_ERROR_MID: InjectedFailure(internal_error(self._configuration.session_id), halfway=True),
        }
        return failures.get(self._scenario)

    def _audio_output_option(self, params: JSONObject, name: str) -> JSON:
        output = params
        for key in ("audio", "output"):
            inner = output.get(key)
            output = inner if isinstance(inner, dict) else {}
        return output.get(name) or self._configuration.get("audio", "output", name)

    def _configure_buffer(self) -> None:
        self._buffer.configure(self._configuration.input_format, self._configuration.turn_detection)

    async def _send(self, event_type: str, **fields: JSON) -> None:
        await self._connection.send(server_event(event_type, **fields))
