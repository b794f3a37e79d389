"""Responses delegation: the backend model, whose events arrive nested in ``response.event``.

A response repeats the text that it was given; if there is a function, it calls that first. A call appears three times, and
only ``response.output_item.done`` is complete; ``response.completed`` has no output (seen on the wire in 2026-09). A call
stays open until its output arrives, and ``response.create`` fails as long as one is open. Only one response runs at a time.
"""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from service.simulator.connection import Connection
from service.simulator.events import JSON, ApiError, JSONObject, encode, invalid_value, require_string, server_event
from service.simulator.ids import new_call_id, new_id
from service.simulator.items import text_tokens
from service.simulator.live.configuration import LiveConfiguration
from service.simulator.live.events import invalid_event
from service.simulator.refusals import internal_error, model_not_found_error, rate_limit_error
from service.simulator.scenarios import Scenario

_MAX_ITEMS = 128
_MAX_BYTES = 32_768  # of all items of a session together
_PIECE = re.compile(r"\s*\S+|\s+$")
_VOICE_TASK = "What the user said."  # the application is not given the text of a task


@dataclass(frozen=True, slots=True)
class Task:
    """A response to run: by order of the voice model for a delegation, or of the client without one."""

    delegation_id: str | None
    response_id: str = field(default_factory=lambda: new_id("resp"))


class Backend:
    """The backend model of one session. `on_answer` gets the text of a complete response, and None for a failed one."""

    def __init__(
        self,
        connection: Connection,
        configuration: LiveConfiguration,
        scenario: Scenario,
        on_answer: Callable[[str | None], Awaitable[None]],
    ) -> None:
        self._connection = connection
        self._configuration = configuration
        self._scenario = scenario
        self._on_answer = on_answer
        self._items = 0
        self._bytes = 0
        self._open_calls: set[str] = set()
        self._queue: deque[Task] = deque()
        self._running = False
        self._prompt = _VOICE_TASK
        self._has_outputs = False  # of calls, for the next response
        self._delegation_id: str | None = None  # of the open calls

    @property
    def is_busy(self) -> bool:
        """Whether a response runs or a call has no output."""
        return self._running or bool(self._open_calls)

    def add_item(self, item: JSONObject) -> None:
        """Add an item to the history of the next response. Raises ApiError."""
        self._require_responses()
        item_type = str(item.get("type", "message"))
        size = len(encode(item).encode())
        if self._items + 1 > _MAX_ITEMS or self._bytes + size > _MAX_BYTES:
            message = (
                f"The response input buffer is full: at most {_MAX_ITEMS} items and {_MAX_BYTES} bytes are supported."
            )
            raise ApiError("response_input_buffer_full", message, param="item")
        if item_type == "function_call_output":
            call_id = require_string(item, "call_id", path="item.")
            if call_id not in self._open_calls:
                raise invalid_value("item.call_id", call_id, tuple(sorted(self._open_calls)) or ("none",))
            self._open_calls.discard(call_id)
            self._has_outputs = True
        elif item_type == "message":
            self._prompt = _text(item) or self._prompt
        self._items, self._bytes = self._items + 1, self._bytes + size

    def create(self) -> None:
        """Run a response by order of the client, after those that are queued. Raises ApiError."""
        self._require_responses()
        if self._open_calls:
            message = f"Function call outputs are required for: {', '.join(sorted(self._open_calls))}."
            raise ApiError("function_call_outputs_required", message)
        self._start(Task(self._delegation_id if self._has_outputs else None))

    async def delegate(self, offset_ms: int) -> None:
        """Run a response by order of the voice model, at a position in the session's audio."""
        task = Task(new_id("item"))
        delegation: JSONObject = {"id": task.delegation_id, "type": "delegation", "target": "responses"}
        delegation["response_id"] = task.response_id
        event = server_event("session.delegation.created", offset_ms=offset_ms, delegation=delegation)
        await self._connection.send(event)
        self._start(task)

    def cancel_queue(self) -> None:
        """Forget the responses that do not run yet."""
        self._queue.clear()

    def _require_responses(self) -> None:
        if self._configuration.delegation != "responses":
            raise invalid_event("This event requires a session with the delegation type 'responses'.")

    def _start(self, task: Task) -> None:
        self._queue.append(task)
        if not self._running:
            self._running = True
            self._connection.spawn(self._run_queue())

    async def _run_queue(self) -> None:
        while self._queue and not self._open_calls:
            await self._run(self._queue.popleft())
        self._running = False

    async def _run(self, task: Task) -> None:
        run = _Run(self._connection, task, str(self._configuration.backend.get("model")))
        await run.start()
        await asyncio.sleep(self._connection.options.live.response_seconds)
        failure = self._failure(str(run.model))
        function = None if self._has_outputs else _function(self._configuration.backend)
        prompt, self._prompt, self._has_outputs = self._prompt, _VOICE_TASK, False
        if failure is not None:
            self._open_calls.clear()  # failed responses discard pending calls
            await run.fail(failure)
            await self._on_answer(None)
        elif function is not None:
            self._delegation_id = task.delegation_id
            call_id = new_call_id()
            self._open_calls.add(call_id)
            await run.call(function, call_id, encode({"heard": prompt}))
        else:
            await run.answer(prompt)
            await self._on_answer(prompt)

    def _failure(self, model: str) -> ApiError | None:
        failures = {
            Scenario.MODEL_ACCESS_LATE: model_not_found_error(model),
            Scenario.RATE_LIMITED_MID: rate_limit_error(model),
            Scenario.SERVER_ERROR_MID: internal_error(self._configuration.session_id),
        }
        return failures.get(self._scenario)


class _Run:
    """The nested events of one response."""

    def __init__(self, connection: Connection, task: Task, model: str) -> None:
        self.model = model
        self._connection = connection
        self._task = task
        self._sequence = 0
        self._item_id = ""

    async def start(self) -> None:
        for event_type in ("response.created", "response.in_progress"):
            await self._send(event_type, response=self._object("in_progress"))

    async def call(self, name: str, call_id: str, arguments: str) -> None:
        self._item_id = new_id("fc")
        item: JSONObject = {"id": self._item_id, "type": "function_call", "status": "in_progress"}
        item |= {"arguments": "", "call_id": call_id, "name": name}
        await self._send("response.output_item.added", output_index=0, item=item)
        for piece in _PIECE.findall(arguments):
            await self._send("response.function_call_arguments.delta", **self._ids(), delta=piece)
        await self._send("response.function_call_arguments.done", **self._ids(), arguments=arguments)
        done: JSONObject = {**item, "status": "completed", "arguments": arguments}
        await self._send("response.output_item.done", output_index=0, item=done)
        await self._complete(arguments)

    async def answer(self, text: str) -> None:
        self._item_id = new_id("msg")
        item: JSONObject = {"id": self._item_id, "type": "message", "status": "in_progress", "role": "assistant"}
        part: JSONObject = {"type": "output_text", "text": "", "annotations": []}
        await self._send("response.output_item.added", output_index=0, item={**item, "content": []})
        await self._send("response.content_part.added", **self._ids(), content_index=0, part=part)
        for piece in _PIECE.findall(text):
            await self._send("response.output_text.delta", **self._ids(), content_index=0, delta=piece)
        await self._send("response.output_text.done", **self._ids(), content_index=0, text=text)
        done: JSONObject = {**part, "text": text}
        await self._send("response.content_part.done", **self._ids(), content_index=0, part=done)
        whole: JSONObject = {**item, "status": "completed", "content": [done]}
        await self._send("response.output_item.done", output_index=0, item=whole)
        await self._complete(text)

    async def fail(self, error: ApiError) -> None:
        details: JSONObject = {"code": error.code or error.error_type, "message": error.message}
        await self._send("response.failed", response=self._object("failed", error=details))

    async def _complete(self, text: str) -> None:
        usage: JSONObject = {
            "input_tokens": _INPUT_TOKENS,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": text_tokens(text),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": _INPUT_TOKENS + text_tokens(text),
        }
        await self._send("response.completed", response=self._object("completed", usage=usage))

    def _object(self, status: str, *, error: JSON = None, usage: JSON = None) -> JSONObject:
        return {
            "id": self._task.response_id,
            "object": "response",
            "status": status,
            "error": error,
            "incomplete_details": None,
            "model": self.model,
            "output": [],
            "usage": usage,
        }

    def _ids(self) -> JSONObject:
        return {"output_index": 0, "item_id": self._item_id}

    async def _send(self, event_type: str, **fields: JSON) -> None:
        nested: JSONObject = {"type": event_type, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        by_delegation: JSONObject = {"delegation_id": self._task.delegation_id} if self._task.delegation_id else {}
        await self._connection.send(server_event("response.event", **by_delegation, event=nested))


_INPUT_TOKENS = 120  # of every response


def _function(backend: JSONObject) -> str | None:
    """Return the name of the function to call; None if there is none, or `tool_choice` forbids it."""
    choice, tools = backend.get("tool_choice"), backend.get("tools")
    if choice == "none":
        return None
    if isinstance(choice, dict) and isinstance(choice.get("name"), str):
        return str(choice["name"])
    for tool in tools if isinstance(tools, list) else []:
        if isinstance(tool, dict) and tool.get("type") == "function" and isinstance(tool.get("name"), str):
            return str(tool["name"])
    return None


def _text(item: JSONObject) -> str:
    content = item.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(str(part["text"]) for part in parts if isinstance(part, dict) and part.get("text"))
