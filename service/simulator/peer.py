"""One open socket and who is on its other end: sending, receiving, pings, and every way of ending.

This file knows frames and bytes, not what events mean. One peer has one reader (``messages``); anyone may send. Control
frames are answered here rather than by aiohttp, because a stalled peer must answer none and a record must count them.
After a CLOSE of ours nothing more is sent, and the peer's CLOSE is awaited within a bound.
"""

import asyncio
import base64
import logging
import secrets
import socket
import struct
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import contextmanager

from aiohttp import WSMsgType, web

from service.simulator.events import JSONObject, encode, error_event
from service.simulator.options import SimulatorOptions
from service.simulator.record import ConnectionRecord
from service.simulator.refusals import Refusal

_log = logging.getLogger(__name__)
_NO_STATUS = 1005  # RFC 6455 section 7.4.1: a CLOSE came, without a code
_RST_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, for zero seconds: close() becomes RST
_LOOK_AGAIN_SECONDS = 0.02


class Peer:
    """The other end of one socket."""

    def __init__(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport,
        record: ConnectionRecord,
        options: SimulatorOptions,
    ) -> None:
        self.record = record
        self.options = options
        self._ws = ws
        self._transport = transport
        self._tasks: set[asyncio.Task[None]] = set()
        self._we_closed = False
        self._muted = False
        self._abort_timer: asyncio.TimerHandle | None = None

    async def send(self, event: JSONObject) -> None:
        """Send one event; into a socket that is closing, or is gone, nothing."""
        if self._we_closed or self._muted:
            return
        text = encode(event)
        self.record.messages_sent += 1
        self.record.bytes_sent += len(text.encode())
        try:
            await self._ws.send_str(text)
        except ConnectionError:
            return  # the reader sees the same and ends the session

    async def send_audio(self, event: JSONObject, audio: bytes) -> None:
        """Send an event whose last field is a ``delta`` of audio."""
        if not (self._we_closed or self._muted):
            self.record.note_audio_out(audio)
        await self.send({**event, "delta": base64.b64encode(audio).decode()})

    async def messages(self) -> AsyncIterator[str | bytes]:
        """Yield text and binary messages until the socket ends; answers pings and CLOSE."""
        while True:
            message = await self._ws.receive()
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                data: str | bytes = message.data
                self.record.messages_received += 1
                self.record.bytes_received += len(data.encode() if isinstance(data, str) else data)
                if not (self._we_closed or self._muted):
                    yield data
                await asyncio.sleep(0)  # a flood that is already buffered must not starve answers and pings
            elif message.type is WSMsgType.PING:
                await self._answer_ping(message.data)
            elif message.type is WSMsgType.PONG:
                self.record.pongs_received += 1
            else:
                if message.type is WSMsgType.CLOSE:
                    await self._answer_close(message.data or _NO_STATUS)
                return

    async def refuse(self, refusal: Refusal) -> None:
        """Send the error and the CLOSE in one write; the reader then waits for the peer's CLOSE."""
        with _one_write(self._transport):
            if refusal.error is not None and not refusal.silent:
                await self.send(error_event(refusal.error))
            await self.close(refusal.close_code, refusal.reason)

    async def close(self, code: int, reason: str = "") -> None:
        """Send CLOSE, once; a peer that does not answer it in time is aborted."""
        if self._we_closed or self._muted:
            return
        self._we_closed = True
        await self._send_control(struct.pack("!H", code) + reason.encode(), WSMsgType.CLOSE)
        loop = asyncio.get_running_loop()
        self._abort_timer = loop.call_later(self.options.close_reply_seconds, self._transport.abort)

    def mute(self) -> None:
        """Fall silent: keep reading, and answer nothing ever again."""
        self._muted = True

    def drop(self) -> None:
        """End the TCP connection without a CLOSE."""
        self._we_closed = True
        self._transport.close()

    def reset(self) -> None:
        """End the TCP connection with RST."""
        self._we_closed = True
        reset(self._transport)

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run something beside the reader, for as long as the socket lives at most."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._work_done)
        return task

    async def run_pings(self) -> None:
        """Ping at the provider's interval, from the upgrade on."""
        while True:
            await asyncio.sleep(self.options.ping_interval_seconds)
            if self.options.drop_without_pong and self.record.pongs_received < self.record.pings_sent:
                self._transport.abort()
                return
            if not (self._we_closed or self._muted):
                self.record.pings_sent += 1
                await self._send_control(secrets.token_bytes(4), WSMsgType.PING)

    async def finish(self) -> None:
        """Leave nothing behind: neither tasks nor the connection."""
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._muted:
            await wait_gone(self._transport)
        self._transport.close()

    async def _answer_ping(self, payload: bytes) -> None:
        self.record.pings_received += 1
        if not (self._we_closed or self._muted):
            await self._send_control(payload, WSMsgType.PONG)

    async def _answer_close(self, code: int) -> None:
        self.record.close_code = code
        if self._we_closed or self._muted:
            return
        self._we_closed = True
        echoed = b"" if code == _NO_STATUS else struct.pack("!H", code)
        await self._send_control(echoed, WSMsgType.CLOSE)

    async def _send_control(self, payload: bytes, kind: WSMsgType) -> None:
        try:
            await self._ws.send_frame(payload, kind)
        except ConnectionError:
            return  # the reader sees the same and ends the session

    def _work_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.error("simulator.task_failed", exc_info=fault)
            self._transport.abort()


async def wait_gone(transport: asyncio.Transport) -> None:
    """Return once the other side has given up a connection on which we say nothing."""
    while not transport.is_closing():  # noqa: ASYNC110 - a transport has no event for this
        await asyncio.sleep(_LOOK_AGAIN_SECONDS)


def reset(transport: asyncio.Transport) -> None:
    """Make the kernel send RST."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    transport.abort()


@contextmanager
def _one_write(transport: asyncio.Transport) -> Iterator[None]:
    # The provider's error and CLOSE arrive in the same segment; two writes would be two. Only Linux has the cork.
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
