"""A session of GPT-Live: ``session.start`` and what the server does with it.

The server is silent until the client has sent ``session.start``; an error before ``session.started`` is final. Source: the
guide "Voice websockets", and frames seen on the wire in 2026-09. What the provider does with another first event is unknown;
here it is an error like a refused start.
"""

import asyncio
import contextlib
from collections import deque
from enum import Enum

from service.simulator.client_events import appended_audio, parse_event
from service.simulator.connection import Connection
from service.simulator.events import ApiError, JSONObject, require_object, require_string
from service.simulator.faults import fail_after_upgrade, inject_mid_session_fault
from service.simulator.live import refusals
from service.simulator.live.configuration import LiveConfiguration
from service.simulator.live.events import invalid_event, start_error
from service.simulator.live.schema import validate_event
from service.simulator.live.started import StartedSession, lifetime_seconds
from service.simulator.scenarios import Scenario

_AUDIO_EVENT = "session.input_audio.append"


class _Phase(Enum):
    NEW = "waits for session.start"
    STARTING = "prepares session.started"
    STARTED = "serves the client"
    REFUSED = "has sent an error instead of session.started"


class LiveSession:
    """One connection to GPT-Live."""

    def __init__(self, connection: Connection, scenario: Scenario, key: str, *, is_azure: bool) -> None:
        self._connection = connection
        self._options = connection.options.live
        self._scenario = scenario
        self._key = key
        self._is_azure = is_azure
        self._phase = _Phase.NEW
        self._deferred: deque[JSONObject] = deque()  # received before session.started
        self._started: StartedSession | None = None
        connection.on_ignored_message = self._record

    async def run(self) -> None:
        """Serve the session until the connection closes."""
        if await fail_after_upgrade(self._connection, self._scenario):
            return
        async for message in self._connection.messages():
            await self._handle_message(message)
            await inject_mid_session_fault(self._connection, self._scenario)
            if self._phase is _Phase.STARTED and self._started is not None:
                await self._started.end_by_scenario()

    async def _handle_message(self, message: str | bytes) -> None:
        event: JSONObject | None = None
        try:
            event = parse_event(message)
            event_type = self._record_event(event)
            if self._started is not None and self._phase is _Phase.STARTED:
                await self._started.handle(event)
            elif self._phase is _Phase.NEW:
                self._start(event)
            elif event_type == _AUDIO_EVENT:
                appended_audio(event, self._connection)  # discarded: the provider does not hear it
            else:
                self._deferred.append(event)
        except ApiError as error:
            if self._started is None:
                await self._refuse(error)
            else:
                await self._started.send_error(error, event)

    def _record(self, message: str | bytes) -> None:
        with contextlib.suppress(ApiError):
            self._record_event(parse_event(message))

    def _record_event(self, event: JSONObject) -> str:
        event_type = require_string(event, "type")
        self._connection.record.add_client_event(event_type, once_in_a_row=event_type == _AUDIO_EVENT)
        return event_type

    def _start(self, event: JSONObject) -> None:
        if event.get("type") != "session.start":
            raise invalid_event("The first event must be 'session.start'.")
        self._phase = _Phase.STARTING
        self._connection.spawn(self._finish_start(event))

    async def _finish_start(self, event: JSONObject) -> None:
        is_slow = self._scenario is Scenario.SLOW_FIRST_EVENT
        slow_seconds, seconds = self._connection.options.slow_first_event_seconds, self._options.start_seconds
        await asyncio.sleep(slow_seconds if is_slow else seconds)
        if self._phase is _Phase.REFUSED:
            return
        try:
            configuration = self._check_start(event)
        except ApiError as error:
            await self._refuse(error)
            return
        self._started = StartedSession(self._connection, configuration, self._scenario, is_azure=self._is_azure)
        await self._started.start(event)
        while self._deferred:
            deferred = self._deferred.popleft()
            try:
                await self._started.handle(deferred)
            except ApiError as error:
                await self._started.send_error(error, deferred)
        self._phase = _Phase.STARTED

    def _check_start(self, event: JSONObject) -> LiveConfiguration:
        validate_event(event)
        session = require_object(event, "session")
        seconds = lifetime_seconds(self._connection, self._scenario)
        configuration = LiveConfiguration(session, seconds, is_azure=self._is_azure)
        model = str(session["model"])
        refusals.check_start(self._scenario, self._key, model, self._options, is_azure=self._is_azure)
        return configuration

    async def _refuse(self, error: ApiError) -> None:
        """Send the error, and end the connection later; do nothing the second time."""
        if self._phase is _Phase.REFUSED:
            return
        self._phase = _Phase.REFUSED
        if self._scenario is Scenario.OVERLOADED:
            await self._connection.close(refusals.OVERLOADED_CLOSE_CODE)
        elif self._scenario is Scenario.CLOSE_ONLY:
            await self._abort(error, 0)
        else:
            await self._connection.send(start_error(error))
            self._connection.spawn(self._abort(error, self._options.abort_seconds))

    async def _abort(self, error: ApiError, delay_seconds: float) -> None:
        await asyncio.sleep(delay_seconds)
        if self._options.refused_close_code is None:
            self._connection.drop()
        else:
            await self._connection.close(self._options.refused_close_code, f"{error.error_type}.{error.code}")
