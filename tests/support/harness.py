"""A relay in the test process, on ports that the system chooses, and a WebSocket client that works with bytes."""

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import structlog
from prometheus_client import generate_latest

from service.app import App
from service.health.schedule import RefreshIntervals
from service.realtime.closing import parse_close
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Chunk, ControlFrame, Message, MessageEnd
from service.settings import Settings, load_settings
from service.simulator import Simulator, SimulatorOptions
from tests.support.messages import pop_message
from tests.support.series import sum_of_series, text_of_used_series

T = TypeVar("T")

POLL_SECONDS: Final = 0.01
KEY_CANARY: Final = "sk-sim-good-CANARY0key1234567890"
TOKEN_CANARY: Final = "CANARY1token-abcdefghijklmnop"
QUIET_INTERVALS: Final = RefreshIntervals(passing=3600, first_retry=3600, max_retry=3600)


DEFAULT_PATH: Final = f"/v1/realtime?model={Settings().model}"
"""A request for the default model."""


def environment(**overrides: str) -> dict[str, str]:
    """The environment variables of a test relay: ports that the system chooses, no drain time."""
    return {
        "RELAY_PORT": "0",
        "RELAY_INTERNAL_PORT": "0",
        "RELAY_DRAIN_SECONDS": "0",
        "OPENAI_API_KEY": KEY_CANARY,
        **overrides,
    }


@dataclass
class Relay:
    """A running relay, with the log events and metrics of it."""

    app: App
    logs: list[Any]
    simulator: Simulator | None = None

    @property
    def url(self) -> str:
        """The base URL of the public listener."""
        return f"http://127.0.0.1:{self.app.public_port}"

    @property
    def internal_url(self) -> str:
        """The base URL of the internal listener."""
        return f"http://127.0.0.1:{self.app.internal_port}"

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the time series with these labels; 0 if there is none."""
        return sum_of_series(self.app.metrics.registry, name, **labels)

    def metrics_text(self) -> str:
        """The text of a scrape."""
        return generate_latest(self.app.metrics.registry).decode()

    def used_series(self) -> str:
        """Names, labels and values of the series that the relay has used: no secret may be among them."""
        return text_of_used_series(self.app.metrics.registry)

    def events(self, name: str) -> list[Any]:
        """The log events with this name."""
        return [event for event in self.logs if event["event"] == name]


@asynccontextmanager
async def running_relay(
    *,
    simulator: Simulator | None = None,
    intervals: RefreshIntervals | None = None,
    adjust: Callable[[Settings], Settings] | None = None,
    **overrides: str,
) -> AsyncIterator[Relay]:
    """Run a relay with a simulator, or OPENAI_BASE_URL, as its upstream. `adjust` changes settings that no variable can."""
    if simulator is not None:
        overrides.setdefault("OPENAI_BASE_URL", simulator.url)
    environ = environment(**overrides)
    settings = load_settings(environ)
    settings = adjust(settings) if adjust is not None else settings
    with structlog.testing.capture_logs() as logs:
        app = App(settings, intervals=intervals or QUIET_INTERVALS, environ=environ)
        await app.start()
        try:
            yield Relay(app, logs, simulator)
        finally:
            await app.drain()
            await app.stop()


@asynccontextmanager
async def simulated_relay(options: SimulatorOptions | None = None, /, **overrides: str) -> AsyncIterator[Relay]:
    """Run a relay with a simulator of its own, which the relay treats as a compatible upstream."""
    async with (
        Simulator(options or SimulatorOptions(pace=0)) as simulator,
        running_relay(simulator=simulator, intervals=None, adjust=None, **overrides) as relay,
    ):
        yield relay


@dataclass
class Answer:
    """The response to an upgrade request."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def error(self) -> Any:
        """The `error` object of the body."""
        return json.loads(self.body)["error"]


@dataclass
class RawClient:
    """A WebSocket client that works with bytes, so that it can violate the protocol."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    answer: Answer
    scanner: Scanner = field(default_factory=lambda: Scanner(masked=False, max_message_bytes=1 << 30))
    _items: list[Any] = field(default_factory=list)
    _partial: bytearray = field(default_factory=bytearray)
    _close: bytes | None = None

    def send_frame(self, opcode: Opcode, payload: bytes) -> None:
        """Send one masked frame."""
        self.writer.write(build_frame(opcode, payload, os.urandom(4)))

    def send_event(self, **event: object) -> None:
        """Send an event as one text frame."""
        self.send_frame(Opcode.TEXT, json.dumps(event).encode())

    async def next_item(self) -> Any:
        """Wait for the next message or control item, but a ping; None at the end of the stream.

        The relay may ping at any time: after a stall of the process, and while it does not read the client.
        """
        while isinstance(item := await self.next_item_or_ping(), ControlFrame) and item.opcode is Opcode.PING:
            pass
        return item

    async def next_item_or_ping(self) -> Any:
        """Wait for the next message (the bytes of its frames) or control item; None at the end of the stream."""
        while True:
            while self._items:
                item = self._items.pop(0)
                if isinstance(item, Chunk | Message):
                    self._partial += item.raw
                elif isinstance(item, MessageEnd):
                    return pop_message(self._partial, masked=False)
                else:
                    if isinstance(item, ControlFrame) and item.opcode is Opcode.CLOSE:
                        self._close = item.payload
                    return item
            data = await self.reader.read(65_536)
            if not data:
                return None
            self._items += self.scanner.feed(data)

    async def next_event(self) -> Any:
        """Wait for the next event and skip control frames; None at a close frame or the end of the stream."""
        while True:
            item = await self.next_item()
            if item is None or isinstance(item, bytes):
                return None if item is None else json.loads(payload_of(item))
            if isinstance(item, ControlFrame) and item.opcode is Opcode.CLOSE:
                self._items.insert(0, item)
                return None

    async def until_close(self) -> tuple[int | None, str] | None:
        """Read up to the close frame and return its code and reason; None if the stream ends without one."""
        while (item := await self.next_item()) is not None:
            if isinstance(item, ControlFrame) and item.opcode is Opcode.CLOSE:
                return parse_close(item.payload)
        return None

    async def answer_close(self) -> None:
        """Answer the close frame, as a client must, else the relay waits five seconds; what was read can be read again."""
        read = []
        try:
            while self._close is None and (item := await self.next_item()) is not None:
                read.append(item)
            if self._close is not None:
                self.send_frame(Opcode.CLOSE, self._close)
        finally:
            self._items[:0] = read

    def reset(self) -> None:
        """Abort the connection with RST."""
        self.writer.transport.abort()

    async def close(self) -> None:
        """Close the connection with FIN, without a close frame."""
        self.writer.close()
        await asyncio.wait([asyncio.ensure_future(self._wait_closed())], timeout=10)

    async def _wait_closed(self) -> None:
        with suppress(OSError):
            await self.writer.wait_closed()


def payload_of(raw: bytes) -> bytes:
    """The payload of one unmasked frame."""
    length, start = raw[1] & 0x7F, 2
    if length == 126:
        start = 4
    elif length == 127:
        start = 10
    return raw[start:]


async def open_raw(
    port: int,
    path: str = DEFAULT_PATH,
    headers: Mapping[str, str] | None = None,
    behind: bytes = b"",
) -> RawClient:
    """Connect, send an upgrade request followed immediately by `behind`, and read the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    fields = {
        "Host": f"127.0.0.1:{port}",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        **(headers or {}),
    }
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value), "", ""]
    writer.write("\r\n".join(lines).encode() + behind)
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        answer = Answer(int(head[0].split()[1]), dict(line.split(": ", 1) for line in head[1:] if line))
        if answer.status != 101:
            answer.body = await reader.readexactly(int(answer.headers.get("Content-Length", "0")))
    except BaseException:
        writer.close()
        raise
    return RawClient(reader, writer, answer)


async def eventually(condition: Callable[[], Any], seconds: float = 3.0) -> None:
    """Poll a condition that has no event of its own; fail after `seconds` of polls.

    It counts the polls, each of which is late on a busy machine: the bound stretches with everything that it bounds.
    """
    for _ in range(round(seconds / POLL_SECONDS)):
        if condition():
            return
        await asyncio.sleep(POLL_SECONDS)
    assert condition(), f"the condition did not become true within {seconds} seconds of polls"


async def within(awaitable: Awaitable[T], seconds: float) -> T:
    """The result of `awaitable`, as from asyncio.wait_for, with a bound that stretches as that of `eventually`."""
    task = asyncio.ensure_future(awaitable)
    try:
        for _ in range(round(seconds / POLL_SECONDS)):
            if (await asyncio.wait([task], timeout=POLL_SECONDS))[0]:
                return task.result()
        raise TimeoutError(f"no result within {seconds} seconds of polls")
    finally:
        task.cancel()


@asynccontextmanager
async def taking_less_than(seconds: float) -> AsyncIterator[None]:
    """Let the block take less than `seconds` of polls, and of this process's CPU: a blocked loop polls nothing."""

    async def count(bound: asyncio.Timeout) -> None:
        for _ in range(round(seconds / POLL_SECONDS)):
            await asyncio.sleep(POLL_SECONDS)
        bound.reschedule(asyncio.get_running_loop().time())

    cpu = time.process_time()
    async with asyncio.timeout(None) as bound:
        counting = asyncio.ensure_future(count(bound))
        try:
            yield
        finally:
            counting.cancel()
    assert time.process_time() - cpu < seconds
