"""The responses of one session: at most one at a time, requested by the client or by the end of the user's speech."""

from collections.abc import Callable

from service.realtime.usage import Tokens
from service.simulator import schema
from service.simulator.configuration import SessionConfiguration, parse_audio_format
from service.simulator.connection import Connection
from service.simulator.context import Context, ContextExceeded
from service.simulator.conversation import Conversation
from service.simulator.conversation_record import ResponseRecord
from service.simulator.events import JSON, ApiError, JSONObject, require_object, require_string
from service.simulator.items import Item, parse_item
from service.simulator.mcp import McpServers
from service.simulator.refusals import internal_error, model_not_found_error, rate_limit_error
from service.simulator.reply import Reply, ResponseOptions, compose_reply, merge_response_options
from service.simulator.response import InjectedFailure, Response
from service.simulator.scenarios import Scenario
from service.simulator.voice import NumberedVoice


class Responses:
    """Starts, queues and cancels the responses of a session."""

    def __init__(
        self,
        connection: Connection,
        conversation: Conversation,
        configuration: SessionConfiguration,
        scenario: Scenario,
        *,
        mcp_servers: McpServers,
        sideband: bool,
        voice: NumberedVoice | None,
        on_answer: Callable[[float], None],
    ) -> None:
        self._connection = connection
        self._conversation = conversation
        self._configuration = configuration
        self._scenario = scenario
        self._mcp_servers = mcp_servers
        self._sideband = sideband
        self._voice = voice
        self._on_answer = on_answer  # at each end of a response, with the milliseconds of its audio
        self._response: Response | None = None
        self._context = Context(connection.behaviour.context_tokens)
        self._is_pending = False  # speech ended during the active response

    @property
    def is_active(self) -> bool:
        """Whether a response has started and not ended."""
        return self._response is not None and self._response.active

    def create(self, event: JSONObject) -> None:
        """Start the response of a ``response.create``. Raises ApiError."""
        if self._configuration.is_transcription:
            raise ApiError("invalid_event", "Responses cannot be created in a transcription session.", param="type")
        params = require_object(event, "response") if event.get("response") is not None else {}
        is_outside = params.get("conversation") == "none"  # at the same time as that of the conversation
        if self._response is not None and self._response.active and not is_outside:
            message = (
                f"Conversation already has an active response in progress: {self._response.response_id}. "
                "Wait until the response is finished before creating a new one."
            )
            raise ApiError("conversation_already_has_active_response", message)
        schema.validate(schema.RESPONSE, params, "response")
        self._start(params, "client")

    def create_after_speech(self) -> None:
        """Start a response to what the user said, or queue it behind the active one."""
        if self.is_active:
            self._is_pending = True
        else:
            self._start({}, "vad")

    def interrupt(self) -> None:
        """Cancel the active response because the user speaks."""
        if self._response is not None:
            self._response.cancel("turn_detected")

    def cancel(self, event: JSONObject) -> None:
        """Cancel the response of a ``response.cancel``. Raises ApiError."""
        response, response_id = self._response, event.get("response_id")
        if response is None or not response.active or response_id not in (None, response.response_id):
            raise ApiError("response_cancel_not_active", "Cancellation failed: no active response found")
        response.cancel("client_cancelled")

    def _start(self, params: JSONObject, requested: str) -> None:
        items, failure = self._input_items(params)
        input_tokens = sum((item.tokens for item in items), Tokens())
        options = self._options(params, items)
        self._configuration.assistant_audio_sent |= options.with_audio
        reply = compose_reply(items, options, self._configuration.input_format)
        reply, first_sample = self._in_numbered_voice(reply, options)
        response = Response(
            self._connection,
            self._conversation,
            options,
            reply,
            input_tokens=input_tokens,
            failure=failure,
            sideband=self._sideband,
            record=self._record(requested, options, first_sample),
        )
        if options.in_conversation:
            self._response = response
        self._connection.spawn(self._run(response))

    async def _run(self, response: Response) -> None:
        await response.run()
        if response.mcp_call is not None:
            self._connection.spawn(self._mcp_servers.run_call(response.mcp_call))
        self._on_answer(response.sent_audio_ms)
        if self._is_pending and not self.is_active:
            self._is_pending = False
            self._start({}, "vad")
        await response.send_rate_limits()

    def _options(self, params: JSONObject, items: tuple[Item, ...]) -> ResponseOptions:
        audio_format = parse_audio_format(self._audio_output_option(params, "format"))
        voice = self._audio_output_option(params, "voice")
        drifts = self._connection.behaviour.text_drift and _has_only_text_answers(items)
        params = {**params, "output_modalities": ["text"]} if drifts else params
        return merge_response_options(params, self._configuration.session, audio_format, voice)

    def _in_numbered_voice(self, reply: Reply, options: ResponseOptions) -> tuple[Reply, int | None]:
        if self._voice is None or reply.audio is None:
            return reply, None
        return self._voice.say(reply, options.audio_format, self._connection.behaviour.answer_seconds)

    def _record(self, requested: str, options: ResponseOptions, first_sample: int | None) -> ResponseRecord:
        record = ResponseRecord("", requested, options.metadata, first_sample=first_sample)
        if self._connection.record.conversation is not None:
            self._connection.record.conversation.responses.append(record)
        return record

    def _input_items(self, params: JSONObject) -> tuple[tuple[Item, ...], InjectedFailure | None]:
        """Return the items that the response gets, and the failure of the response if it fails."""
        items, failure, inline = self._conversation.items, self._injected_failure(), params.get("input")
        if isinstance(inline, list):
            return self._inline_items(inline), failure
        try:
            return self._context.input_of(items, self._configuration.get("truncation")), failure
        except ContextExceeded as error:
            return items, InjectedFailure(error, halfway=False)

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


def _has_only_text_answers(items: tuple[Item, ...]) -> bool:
    kinds = {part["type"] for item in items if item.role == "assistant" for part in item.parts}
    return kinds == {"output_text"}
