"""The server side of one WebSocket connection: sending, receiving, pings, and every way of closing.

This module handles messages and frames; it does not interpret events. Exactly one task iterates over ``messages``; any
task may send. Pings and close frames are answered here and not by aiohttp, because a stalled connection must not answer
them and the record must count them. After the simulator's close frame nothing more is sent, and the connection is aborted
if the client does not answer the close frame in time.
"""

import asyncio
import base64
import json
import logging
import secrets
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import TypeAlias

from aiohttp import WSMessage, WSMsgType, web

from service.simulator.behaviour import Behaviour, End, EndKind, FaultWatch, Moment
from service.simulator.delay import DelayLine
from service.simulator.events import ApiError, JSONObject, encode, error_event
from service.simulator.options import SimulatorOptions
from service.simulator.record import ConnectionRecord
from service.simulator.refusals import Refusal, no_credit, session_expired
from service.simulator.sockets import reset, single_segment, text_frame, wait_for_disconnect

_log = logging.getLogger(__name__)
_NO_STATUS = 1005  # RFC 6455 section 7.4.1: a close frame without a code
_Action: TypeAlias = Callable[[], Awaitable[None]]


def _without_type(event: JSONObject) -> JSONObject:
    return {name: value for name, value in event.items() if name != "type"}


class Connection:
    """The server side of one WebSocket connection."""

    def __init__(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport,
        record: ConnectionRecord,
        options: SimulatorOptions,
        behaviour: Behaviour | None = None,
    ) -> None:
        self.record = record
        self.options = options
        self.behaviour = behaviour or options.default
        self.on_ignored_message: Callable[[str | bytes], None] | None = None  # received while closing or unresponsive
        self._ws = ws
        self._transport = transport
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._unresponsive = False
        self._cut = False  # dropped or reset: what is still on its way is lost
        self._abort_timer: asyncio.TimerHandle | None = None
        self._watch = FaultWatch(self.behaviour.faults)
        self._has_faults = bool(self.behaviour.faults)
        self._outgoing: DelayLine[_Action] | None = None
        self._incoming: DelayLine[WSMessage] | None = None
        if self.behaviour.round_trip_ms:
            one_way = self.behaviour.round_trip_ms / 2000
            self._outgoing, self._incoming = DelayLine(one_way), DelayLine(one_way)
            self.spawn(self._transmit_delayed(self._outgoing))
            self.spawn(self._receive_delayed(self._incoming))
        for fault in self._watch.timed:
            self.spawn(self._end_later(fault.seconds, fault.end, str(fault)))

    @property
    def pace(self) -> float:
        """The speed of sent audio relative to real time; 0: no pacing."""
        return self.options.pace if self.behaviour.pace is None else self.behaviour.pace

    async def send(self, event: JSONObject) -> None:
        """Send one event; do nothing if the connection is closing, closed or unresponsive."""
        if self._closing or self._unresponsive:
            return
        text = encode({**_without_type(event), "type": event["type"]} if self.options.type_last else event)
        if self._outgoing is None:
            await self._transmit(event, text)
        else:
            self._outgoing.put(partial(self._transmit, event, text))

    async def send_audio(self, event: JSONObject, audio: bytes) -> None:
        """Send an event with `audio` as its last field, ``delta``, in base64."""
        if not (self._closing or self._unresponsive):
            self.record.add_sent_audio(audio)
        await self.send({**event, "delta": base64.b64encode(audio).decode()})

    async def messages(self) -> AsyncIterator[str | bytes]:
        """Yield text and binary messages until the connection closes; answer pings and the close frame."""
        while True:
            message = await (self._ws.receive() if self._incoming is None else self._incoming.get())
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                data: str | bytes = message.data
                self.record.messages_received += 1
                self.record.bytes_received += len(data.encode() if isinstance(data, str) else data)
                if not (self._closing or self._unresponsive):
                    event_type = self._received_type(data)
                    if not self._has_faults:
                        yield data
                    elif not await self._intercepts(event_type, data, Moment.RECEIVED, Moment.EITHER):
                        yield data
                        await self._intercepts(event_type, data, Moment.PROCESSED)
                elif self.on_ignored_message is not None:
                    self.on_ignored_message(data)
                await asyncio.sleep(0)  # buffered messages must not starve responses and pings
            elif message.type is WSMsgType.PING:
                await self._handle_ping(message.data)
            elif message.type is WSMsgType.PONG:
                self.record.pongs_received += 1
            else:
                if message.type is WSMsgType.CLOSE:
                    await self._handle_close(message.data or _NO_STATUS)
                return

    async def refuse(self, refusal: Refusal) -> None:
        """Send the error event and the close frame in one TCP segment; `messages` then waits for the client's close frame."""
        with single_segment(self._transport):
            if refusal.error is not None and not refusal.close_only:
                event = error_event(refusal.error)
                self._record_error(event)
                await self.send(event)
            await self.close(refusal.close_code, refusal.reason)

    async def send_error(self, error: ApiError, client_event_id: str | None) -> None:
        """Send an ``error`` event that ends nothing."""
        event = error_event(error, client_event_id if self.options.echo_event_id else None)
        self._record_error(event)
        await self.send(event)

    async def end(self, end: End, cause: str) -> None:
        """End the connection in this way; do nothing if it is ending already."""
        if self._closing or self._unresponsive:
            return
        self.record.ended_by = cause
        if end.kind is EndKind.RESET:
            self.reset()
        elif end.kind is EndKind.FIN:
            self.drop()
        elif end.kind is EndKind.SILENCE:
            self.stop_responding()
        elif end.kind is EndKind.CLOSE:
            await self.close(end.code, end.text)
        else:
            await self.refuse(no_credit() if end.kind is EndKind.QUOTA else session_expired(close_only=False))

    async def close(self, code: int | None, reason: str = "") -> None:
        """Send a close frame, once; abort the connection if the client does not answer it in time. None: without a code."""
        if self._closing or self._unresponsive:
            return
        self._closing = True
        payload = b"" if code is None else struct.pack("!H", code) + reason.encode()
        await self._pass_on(partial(self._send_control, payload, WSMsgType.CLOSE))
        loop = asyncio.get_running_loop()
        seconds = self.options.close_reply_seconds + self.behaviour.round_trip_ms / 1000
        self._abort_timer = loop.call_later(seconds, self._transport.abort)

    def stop_responding(self) -> None:
        """Keep reading, but send nothing any more: no event, no pong, no close frame."""
        self._unresponsive = True

    def drop(self) -> None:
        """Close the TCP connection without a close frame."""
        self._closing = self._cut = True
        self._transport.close()

    def reset(self) -> None:
        """Reset the TCP connection."""
        self._closing = self._cut = True
        reset(self._transport)

    def spawn(self, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run a task concurrently with the reader; `clean_up` cancels it. An exception in it aborts the connection."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    async def send_pings(self) -> None:
        """Send pings at the provider's interval until cancelled."""
        while True:
            await asyncio.sleep(self.options.ping_interval_seconds)
            if self.options.drop_without_pong and self.record.pongs_received < self.record.pings_sent:
                self._transport.abort()
                return
            if not (self._closing or self._unresponsive):
                self.record.pings_sent += 1
                await self._pass_on(partial(self._send_control, secrets.token_bytes(4), WSMsgType.PING))

    async def clean_up(self) -> None:
        """Cancel the tasks and close the TCP connection. If unresponsive, wait first until the client disconnects."""
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._unresponsive:
            await wait_for_disconnect(self._transport)
        self._transport.close()

    async def _handle_ping(self, payload: bytes) -> None:
        self.record.pings_received += 1
        if not (self._closing or self._unresponsive):
            await self._pass_on(partial(self._send_control, payload, WSMsgType.PONG))

    async def _handle_close(self, code: int) -> None:
        self.record.close_code = code
        if self._closing or self._unresponsive:
            return
        self._closing = self._cut = True
        payload = b"" if code == _NO_STATUS else struct.pack("!H", code)
        await self._send_control(payload, WSMsgType.CLOSE)

    async def _pass_on(self, action: _Action) -> None:
        if self._outgoing is None:
            await action()
        else:
            self._outgoing.put(action)

    async def _transmit(self, event: JSONObject, text: str) -> None:
        """Send an event, unless a fault prevents it or the connection was cut while it was on its way."""
        if self._cut or self._unresponsive:
            return
        event_type = str(event["type"])
        if self._has_faults and await self._prevents(event_type, text):
            return
        self.record.messages_sent += 1
        self.record.bytes_sent += len(text.encode())
        if self.record.conversation is not None:
            self.record.conversation.add_event("out", event_type)
        try:
            await self._ws.send_str(text)
        except ConnectionError:
            return  # `messages` ends as well, and with it the session
        if self._has_faults and (fault := self._watch.check(event_type, text, Moment.AFTER_SENT, Moment.EITHER)):
            await self.end(fault.end, str(fault))

    async def _prevents(self, event_type: str, text: str) -> bool:
        fault = self._watch.check(event_type, text, Moment.BEFORE_SENT, Moment.MID_FRAME)
        if fault is None:
            return False
        if fault.moment is Moment.MID_FRAME:
            frame = text_frame(text.encode())
            self._transport.write(frame[: len(frame) // 2])
        await self.end(fault.end, str(fault))
        return True

    async def _intercepts(self, event_type: str, data: str | bytes, *moments: Moment) -> bool:
        """Check a client's event for faults; return whether it must not be processed."""
        if isinstance(data, bytes):
            return False
        fault = self._watch.check(event_type, data, *moments)
        if fault is None:
            return False
        if fault.end.kind is not EndKind.ERROR:
            await self.end(fault.end, str(fault))
        else:
            event_id = json.loads(data).get("event_id")
            refused = ApiError(fault.end.text, f"The simulator refuses this event: {fault}.")
            await self.send_error(refused, event_id if isinstance(event_id, str) else None)
        return True

    def _received_type(self, data: str | bytes) -> str:
        """Return the type of a client's event if a fault or the record needs it."""
        if isinstance(data, bytes) or not (self._has_faults or self.record.conversation is not None):
            return ""
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            event = None
        event_type = str(event.get("type")) if isinstance(event, dict) else ""
        if self.record.conversation is not None:
            self.record.conversation.add_event("in", event_type)
        return event_type

    def _record_error(self, event: JSONObject) -> None:
        error = event["error"]
        if self.record.conversation is not None and isinstance(error, dict):
            self.record.conversation.errors.append(error)

    async def _transmit_delayed(self, outgoing: DelayLine[_Action]) -> None:
        while True:
            action = await outgoing.get()
            if not (self._cut or self._unresponsive):
                await action()

    async def _receive_delayed(self, incoming: DelayLine[WSMessage]) -> None:
        ends = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)
        message = await self._ws.receive()
        while message.type not in ends:
            incoming.put(message)
            message = await self._ws.receive()
        incoming.put(message)

    async def _end_later(self, seconds: float, end: End, cause: str) -> None:
        await asyncio.sleep(seconds)
        await self.end(end, cause)

    async def _send_control(self, payload: bytes, opcode: WSMsgType) -> None:
        try:
            await self._ws.send_frame(payload, opcode)
        except ConnectionError:
            return  # `messages` ends as well, and with it the session

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("simulator.task_failed", exc_info=error)
            self._transport.abort()
