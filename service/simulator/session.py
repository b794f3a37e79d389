"""A realtime session: a conversation, a transcription, or the sideband of a call.

Takes the client's events one at a time, in order; responses and transcriptions run beside it. A mistake becomes an
``error`` event and changes nothing. Source: the API reference "Realtime client events" and "Realtime server events".
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from service.realtime.usage import Tokens
from service.simulator import schema
from service.simulator.configuration import Configuration, read_format
from service.simulator.conversation import Conversation, Item, parse_item, spoken_item
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
from service.simulator.ids import new_id
from service.simulator.intake import appended_audio, event_id_of, parse_event
from service.simulator.peer import Peer
from service.simulator.refusals import model_cannot_transcribe, model_not_found, server_error, too_many_requests
from service.simulator.reply import compose, read_wanted
from service.simulator.response import Fault, Response
from service.simulator.scenarios import Scenario
from service.simulator.transcription import start_transcription
from service.simulator.vad import InputBuffer, SpeechStarted, SpeechStopped

_LEAST_COMMIT_MS = 100
_TYPES = (  # the list that the provider recites when it is sent anything else, in its order
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
    """One session, from its first event to the end of its socket."""

    def __init__(
        self,
        peer: Peer,
        scenario: Scenario,
        configuration: Configuration,
        *,
        sideband: bool = False,
        misplaced_model: str | None = None,
    ) -> None:
        self._peer = peer
        self._scenario = scenario
        self._configuration = configuration
        self._sideband = sideband
        self._misplaced_model = misplaced_model  # a model in the address of a transcription: told after the update
        self._conversation = Conversation()
        self._buffer = InputBuffer()
        self._speech_item_id = new_id("item")
        self._response: Response | None = None
        self._response_waits = False  # a turn ended before the response under way had
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
        peer.record.session_id = configuration.session_id
        self._configure_buffer()

    async def run(self) -> None:
        """Live until the socket ends."""
        if self._scenario is Scenario.SLOW_FIRST_EVENT:
            self._peer.spawn(self._greet(self._peer.options.slow_first_event_seconds))
        elif not self._sideband:  # the socket of a call says nothing until it is told something
            await self._greet(0)
        self._peer.spawn(run_expiry(self._peer, self._scenario))
        async for message in self._peer.messages():
            await self._take(message)

    async def _greet(self, delay_seconds: float) -> None:
        if delay_seconds:
            await asyncio.sleep(delay_seconds)
        await self._send("session.created", session=self._configuration.session)

    async def _take(self, message: str | bytes) -> None:
        given: JSONObject | None = None
        try:
            given = parse_event(message)
            kind = need_text(given, "type")
            self._peer.record.note_event(kind)
            if kind not in self._handlers:
                raise invalid_value("type", kind, _TYPES)
            await self._handlers[kind](given)
        except Mistake as mistake:
            await self._peer.send(error_event(mistake, event_id_of(given, self._peer)))
        await maybe_strike(self._peer, self._scenario)

    async def _update(self, given: JSONObject) -> None:
        if self._misplaced_model is not None:
            await self._peer.refuse(model_cannot_transcribe(self._misplaced_model))
            return
        self._configuration.update(need_object(given, "session"))
        self._configure_buffer()
        await self._send("session.updated", session=self._configuration.session)

    async def _close(self, _given: JSONObject) -> None:
        await self._peer.close(1000)

    async def _append(self, given: JSONObject) -> None:
        for heard in self._buffer.append(appended_audio(given, self._peer)):
            if isinstance(heard, SpeechStarted):
                await self._speech_started(heard)
            else:
                await self._speech_stopped(heard)

    async def _speech_started(self, heard: SpeechStarted) -> None:
        fields: JSONObject = {"audio_start_ms": heard.audio_start_ms, "item_id": self._speech_item_id}
        await self._send("input_audio_buffer.speech_started", **fields)
        if self._configuration.interrupts_responses and self._response is not None:
            self._response.cancel("turn_detected")

    async def _speech_stopped(self, heard: SpeechStopped) -> None:
        fields: JSONObject = {"audio_end_ms": heard.audio_end_ms, "item_id": self._speech_item_id}
        await self._send("input_audio_buffer.speech_stopped", **fields)
        await self._add_speech(heard.audio)
        if self._configuration.creates_responses:
            if self._response is not None and self._response.active:
                self._response_waits = True
            else:
                self._answer({})

    async def _commit(self, _given: JSONObject) -> None:
        milliseconds = self._buffer.milliseconds
        if milliseconds < _LEAST_COMMIT_MS:
            message = (
                "Error committing input audio buffer: buffer too small. Expected at least 100ms of audio, "
                f"but buffer only has {milliseconds:.2f}ms of audio."
            )
            raise Mistake("input_audio_buffer_commit_empty", message)
        await self._add_speech(self._buffer.take())

    async def _add_speech(self, audio: bytes) -> None:
        item = spoken_item(audio, self._buffer.format, self._speech_item_id)
        self._speech_item_id = new_id("item")
        previous = self._conversation.add(item)
        await self._send("input_audio_buffer.committed", previous_item_id=previous, item_id=item.item_id)
        await self._tell_item(item, previous)
        start_transcription(self._peer, item, self._configuration)

    async def _clear(self, _given: JSONObject) -> None:
        self._buffer.clear()
        await self._send("input_audio_buffer.cleared")

    async def _create_item(self, given: JSONObject) -> None:
        after = given.get("previous_item_id")
        item = parse_item(need_object(given, "item"), self._configuration.input_format)
        previous = self._conversation.add(item, after if isinstance(after, str) else None)
        await self._tell_item(item, previous)

    async def _tell_item(self, item: Item, previous: str | None) -> None:
        for kind in ("conversation.item.added", "conversation.item.done"):
            await self._send(kind, previous_item_id=previous, item=item.body)

    async def _truncate_item(self, given: JSONObject) -> None:
        self._conversation.truncate(given)
        told = {name: given[name] for name in ("item_id", "content_index", "audio_end_ms")}
        await self._send("conversation.item.truncated", **told)

    async def _delete_item(self, given: JSONObject) -> None:
        item_id = need_text(given, "item_id")
        self._conversation.delete(item_id)
        await self._send("conversation.item.deleted", item_id=item_id)

    async def _retrieve_item(self, given: JSONObject) -> None:
        item = self._conversation.find(need_text(given, "item_id"), "retrieve")
        await self._send("conversation.item.retrieved", item=item.body)

    async def _create_response(self, given: JSONObject) -> None:
        if self._configuration.transcribes_only:
            raise Mistake("invalid_event", "Responses cannot be created in a transcription session.", param="type")
        if self._response is not None and self._response.active:
            message = (
                f"Conversation already has an active response in progress: {self._response.response_id}. "
                "Wait until the response is finished before creating a new one."
            )
            raise Mistake("conversation_already_has_active_response", message)
        asked = need_object(given, "response") if given.get("response") is not None else {}
        schema.check(schema.RESPONSE, asked, "response")
        self._answer(asked)

    async def _cancel_response(self, given: JSONObject) -> None:
        running, wanted = self._response, given.get("response_id")
        if running is None or not running.active or wanted not in (None, running.response_id):
            raise Mistake("response_cancel_not_active", "Cancellation failed: no active response found")
        running.cancel("client_cancelled")

    def _answer(self, asked: JSONObject) -> None:
        audio_format, voice = read_format(self._spoken_as(asked, "format")), self._spoken_as(asked, "voice")
        wanted = read_wanted(asked, self._configuration.session, audio_format, voice)
        items, read = self._conversation.items, self._conversation.tokens
        inline = asked.get("input")
        if isinstance(inline, list):
            items = self._inline_items(inline)
            read = sum((item.tokens for item in items), Tokens())
        self._configuration.assistant_spoke |= wanted.speaks
        self._response = Response(
            self._peer,
            self._conversation,
            wanted,
            compose(items, wanted, self._configuration.input_format),
            read=read,
            fault=self._fault(),
            sideband=self._sideband,
        )
        self._peer.spawn(self._run_response(self._response))

    async def _run_response(self, response: Response) -> None:
        await response.run()
        self._answer_what_waited()
        await response.run_afterword()

    def _answer_what_waited(self) -> None:
        if self._response_waits:
            self._response_waits = False
            self._answer({})

    def _inline_items(self, inline: list[JSON]) -> tuple[Item, ...]:
        items = []
        for given in inline:
            if not isinstance(given, dict):
                continue
            if given.get("type") == "item_reference":
                items.append(self._conversation.find(need_text(given, "id"), "retrieve"))
            else:
                items.append(parse_item(given, self._configuration.input_format))
        return tuple(items)

    def _fault(self) -> Fault | None:
        model = self._configuration.model
        faults = {
            Scenario.MODEL_ACCESS_LATE: Fault(model_not_found(model), midway=False),
            Scenario.RATE_LIMITED_MID: Fault(too_many_requests(model), midway=False),
            Scenario.SERVER_ERROR_MID: Fault(server_error(self._configuration.session_id), midway=True),
        }
        return faults.get(self._scenario)

    def _spoken_as(self, asked: JSONObject, setting: str) -> JSON:
        own = asked
        for name in ("audio", "output"):
            inner = own.get(name)
            own = inner if isinstance(inner, dict) else {}
        return own.get(setting) or self._configuration.at("audio", "output", setting)

    def _configure_buffer(self) -> None:
        self._buffer.configure(self._configuration.input_format, self._configuration.turn_detection)

    async def _send(self, kind: str, **fields: JSON) -> None:
        await self._peer.send(event(kind, **fields))
