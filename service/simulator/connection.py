"""The server side of one WebSocket connection: sending, receiving, pings, and every way of closing.

This module handles messages and frames; it does not interpret events. Exactly one task iterates over ``messages``; any
task may send. Pings and close frames are answered here and not by aiohttp, because a stalled connection must not answer
them and the record must count them. After the simulator's close frame nothing more is sent, and the connection is aborted
if the client does not answer the close frame in time.
"""

import asyncio
import base64
import logging
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager

from aiohttp import WSMsgType, web

from service.simulator.events import JSONObject, encode, error_event
from service.simulator.options import SimulatorOptions
from service.simulator.record import ConnectionRecord
from service.simulator.refusals import Refusal

_log = logging.getLogger(__name__)
_NO_STATUS = 1005  # RFC 6455 section 7.4.1: a close frame without a code
_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for zero seconds: close() becomes RST
_POLL_INTERVAL_SECONDS = 0.02


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
    ) -> None:
        self.record = record
        self.options = options
        self.on_ignored_message: Callable[[str | bytes], None] | None = None  # received while closing or unresponsive
        self._ws = ws
        self._transport = transport
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._unresponsive = False
        self._abort_timer: asyncio.TimerHandle | None = None

    async def send(self, event: JSONObject) -> None:
        """Send one event; do nothing if the connection is closing, closed or unresponsive."""
        if self._closing or self._unresponsive:
            return
        text = encode({**_without_type(event), "type": event["type"]} if self.options.type_last else event)
        self.record.messages_sent += 1
        self.record.bytes_sent += len(text.encode())
        try:
            await self._ws.send_str(text)
        except ConnectionError:
            return  # `messages` ends as well, and with it the session

    async def send_audio(self, event: JSONObject, audio: bytes) -> None:
        """Send an event with `audio` as its last field, ``delta``, in base64."""
        if not (self._closing or self._unresponsive):
            self.record.add_sent_audio(audio)
        await self.send({**event, "delta": base64.b64encode(audio).decode()})

    async def messages(self) -> AsyncIterator[str | bytes]:
        """Yield text and binary messages until the connection closes; answer pings and the close frame."""
        while True:
            message = await self._ws.receive()
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                data: str | bytes = message.data
                self.record.messages_received += 1
                self.record.bytes_received += len(data.encode() if isinstance(data, str) else data)
                if not (self._closing or self._unresponsive):
                    yield data
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
        with _single_segment(self._transport):
            if refusal.error is not None and not refusal.close_only:
                await self.send(error_event(refusal.error))
            await self.close(refusal.close_code, refusal.reason)

    async def close(self, code: int | None, reason: str = "") -> None:
        """Send a close frame, once; abort the connection if the client does not answer it in time. None: without a code."""
        if self._closing or self._unresponsive:
            return
        self._closing = True
        payload = b"" if code is None else struct.pack("!H", code) + reason.encode()
        await self._send_control(payload, WSMsgType.CLOSE)
        loop = asyncio.get_running_loop()
        self._abort_timer = loop.call_later(self.options.close_reply_seconds, self._transport.abort)

    def stop_responding(self) -> None:
        """Keep reading, but send nothing any more: no event, no pong, no close frame."""
        self._unresponsive = True

    def drop(self) -> None:
        """Close the TCP connection without a close frame."""
        self._closing = True
        self._transport.close()

    def reset(self) -> None:
        """Reset the TCP connection."""
        self._closing = True
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
                await self._send_control(secrets.token_bytes(4), WSMsgType.PING)

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
            await self._send_control(payload, WSMsgType.PONG)

    async def _handle_close(self, code: int) -> None:
        self.record.close_code = code
        if self._closing or self._unresponsive:
            return
        self._closing = True
        payload = b"" if code == _NO_STATUS else struct.pack("!H", code)
        await self._send_control(payload, WSMsgType.CLOSE)

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


async def wait_for_disconnect(transport: asyncio.Transport) -> None:
    """Wait until the client has closed a connection on which the simulator sends nothing."""
    while not transport.is_closing():  # noqa: ASYNC110 - an asyncio transport has no event for this
        await asyncio.sleep(_POLL_INTERVAL_SECONDS)


def reset(transport: asyncio.Transport) -> None:
    """Abort the connection with RST instead of FIN."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    transport.abort()


@contextmanager
def _single_segment(transport: asyncio.Transport) -> Iterator[None]:
    # The provider's error event and close frame arrive in one TCP segment. Two writes would make two segments;
    # TCP_CORK, which only Linux has, joins them.
    cork = getattr(socket, "TCP_CORK", None)
    tcp = transport.get_extra_info("socket")
    if cork is None or tcp is None or transport.is_closing():
        yield
        return
    tcp.setsockopt(socket.IPPROTO_TCP, cork, 1)
    try:
        yield
    finally:
        if not transport.is_closing():
            tcp.setsockopt(socket.IPPROTO_TCP, cork, 0)
