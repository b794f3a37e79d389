"""The well-behaved side: sessions whose upstream echoes, new calls, probes of /livez, and the delay of this process itself.

Each message of a session is stamped and chained by `bench.messages`. The echo carries the stamp of the message that it
answers, so that the client measures the round trip.
"""

import asyncio
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from bench.contenders import ClientTarget, Contender
from bench.endpoints import ClientEndpoint, UpstreamEndpoint, upgrade_request
from bench.load import SessionGroup, Upstream
from bench.messages import MARK, STAMP_BYTES
from chaos.attacks import CALLER_TOKEN
from chaos.relay import Relay
from chaos.waiting import NANOSECONDS, CoreWait, NetTimes, RoundTrips

MESSAGES_PER_SECOND: Final = 25
_PROBE_SECONDS: Final = 0.1
_NEW_CALL_SECONDS: Final = 0.5
_LONGEST_WAIT_SECONDS: Final = 60.0
_STAMP_AT: Final = len(MARK) + STAMP_BYTES - 19
_PEEKED_BYTES: Final = 8192
_HEADERS: Final = {"Authorization": f"Bearer {CALLER_TOKEN}"}
_PATH: Final = "/v1/realtime?model=gpt-realtime"


class EchoEndpoint(UpstreamEndpoint):
    """Answers each stamped message with one that has the same time, less what this process waited when it was woken."""

    own_wait: CoreWait

    def send(self) -> None:
        """Send nothing that is no answer."""

    def message(self, payload: bytes) -> None:
        """A message arrived."""
        super().message(payload)
        if self.outgoing is not None:
            at = payload.index(MARK) + _STAMP_AT
            self.own_wait.sample()
            waited = round(self.own_wait.latest() * NANOSECONDS)
            self.write(self.outgoing.next(int(payload[at : at + 19]) + waited))


class EchoUpstream(Upstream):
    """The upstream of the relay: serves calls itself, and passes connections of `model=chaos-...` to the hostile process."""

    def __init__(self) -> None:
        super().__init__()
        self.own_wait = CoreWait(os.getpid())
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._hostile: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, context: ssl.SSLContext | None = None) -> None:
        """Listen."""
        assert context is None  # noqa: S101 - the echo has no certificate
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.settimeout(0)
        self.port = self._listener.getsockname()[1]
        self._control, remote = socket.socketpair()
        self._hostile = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "chaos.hostile", stdin=remote.fileno()
        )
        remote.close()
        self._accepting = asyncio.ensure_future(self._accept(self._listener))

    def stop(self) -> None:
        """Stop listening, and end the hostile process."""
        self.own_wait.close()
        if self._accepting is not None:
            self._accepting.cancel()
        for task in self._tasks:
            task.cancel()
        if self._listener is not None:
            self._listener.close()
        if self._control is not None:
            self._control.close()
        if self._hostile is not None and self._hostile.returncode is None:
            self._hostile.kill()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            accepted, _ = await loop.sock_accept(listener)
            task = asyncio.ensure_future(self._route(accepted))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _route(self, accepted: socket.socket) -> None:
        """Look at the request without reading it; the relay sends it in one segment."""
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(accepted, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(accepted)
        head = b""
        with suppress(OSError):
            head = accepted.recv(_PEEKED_BYTES, socket.MSG_PEEK)
        if b"model=chaos-" in head.partition(b"\r\n")[0] and self._control is not None:
            with suppress(OSError):
                socket.send_fds(self._control, [b"x"], [accepted.fileno()])
            accepted.close()
        else:
            with suppress(OSError):
                await loop.connect_accepted_socket(self._create_endpoint, accepted)

    def _create_endpoint(self) -> UpstreamEndpoint:
        endpoint = EchoEndpoint(self._register, self.latencies, forwards_verbatim=True)
        endpoint.own_wait = self.own_wait
        return endpoint


class CallClock:
    """Has each client send at an even rate, in evenly spread phases; delays do not add up."""

    def __init__(self, clients: list[ClientEndpoint], messages_per_second: float, own_wait: CoreWait) -> None:
        self._clients = clients
        self._own_wait = own_wait
        self._step = 1 / (messages_per_second * len(clients))
        self._next = 0
        self._due = 0.0
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start sending."""
        self._due = self._loop.time()
        self._tick()

    def stop(self) -> None:
        """Stop sending."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self) -> None:
        self._own_wait.sample()
        now = self._loop.time()
        while self._due <= now and self._clients:  # none once the calls are closed
            self._clients[self._next].send()
            self._next = (self._next + 1) % len(self._clients)
            self._due += self._step
        self._handle = self._loop.call_at(self._due, self._tick)


def call_group(relay: Relay, upstream: Upstream, round_trips: NetTimes) -> SessionGroup:
    """Sessions of the well-behaved client, whose round trips are added to `round_trips`."""
    contender = Contender("relay", ClientTarget(relay.port, headers=_HEADERS), relay.process)
    group = SessionGroup(contender, upstream)
    group.down_latencies = RoundTrips(round_trips)
    return group


class Observer:
    """What the well-behaved clients meet while an attack runs: round trips, answers of /livez, new calls.

    `own_delays` are those of this process, which are no delays of the relay.
    """

    def __init__(self, relay: Relay, own_wait: CoreWait) -> None:
        self.relay = relay
        self.own_wait = own_wait
        self._wait = CoreWait(relay.process.pid)
        self.round_trips = NetTimes(self._wait, own_wait)
        self.livez = NetTimes(self._wait, own_wait)
        self.new_calls = NetTimes(self._wait, own_wait)
        self.own_delays: list[float] = []
        self._started, self._waited_before = time.perf_counter(), 0.0
        self.refused: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start asking."""
        self.own_wait.sample()
        self._started, self._waited_before = time.perf_counter(), self.own_wait.total()
        self._tasks = [
            asyncio.ensure_future(self._every(_PROBE_SECONDS, self._ask_livez)),
            asyncio.ensure_future(self._every(_NEW_CALL_SECONDS, self._call)),
            asyncio.ensure_future(self._watch_own_delay()),
        ]

    async def stop(self) -> None:
        """Stop asking, once what has been asked is answered."""
        self._tasks.pop().cancel()
        stopping, self._tasks = self._tasks, []
        for task in stopping:
            task.cancel()  # takes effect between two questions
        await asyncio.wait(stopping, timeout=_LONGEST_WAIT_SECONDS)

    def close(self) -> None:
        """Release what it holds."""
        self._wait.close()

    def own_wait_share(self) -> float:
        """In which share of the time since the start this process was ready to run and had no core."""
        self.own_wait.sample()
        waited_ms = self.own_wait.total() - self._waited_before
        return waited_ms / 1000 / max(0.001, time.perf_counter() - self._started)

    def clear(self) -> None:
        """Forget all that was measured."""
        for times in (self.round_trips, self.livez, self.new_calls):
            times.clear()
        self.own_delays.clear()

    async def _every(self, seconds: float, ask: Callable[[], "asyncio.Future[None]"]) -> None:
        while True:
            question = ask()
            try:
                await asyncio.shield(question)
            except asyncio.CancelledError:
                await question
                return
            await asyncio.sleep(seconds)

    def _ask_livez(self) -> "asyncio.Future[None]":
        request = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        return asyncio.ensure_future(self._ask(self.relay.internal_port, request, b" 200 ", self.livez, "/livez"))

    def _call(self) -> "asyncio.Future[None]":
        request = upgrade_request(_PATH, f"127.0.0.1:{self.relay.port}", _HEADERS)
        return asyncio.ensure_future(
            self._ask(self.relay.port, request, b"session.created", self.new_calls, "new call")
        )

    async def _ask(self, port: int, request: bytes, expected: bytes, times: NetTimes, name: str) -> None:
        """Send a request, and read until the answer has what is expected."""
        self._wait.sample()
        started = time.perf_counter()
        answer = b""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(request)
                    while expected not in answer and (data := await reader.read(65_536)):
                        answer += data
                finally:
                    writer.transport.abort()
        times.add((time.perf_counter() - started) * 1000)
        if expected not in answer:
            status = answer.partition(b"\r\n")[0].decode("latin-1") or "no answer"
            self.refused.append(f"{name}: {status[9:]}" if status.startswith("HTTP") else f"{name}: {status}")

    async def _watch_own_delay(self) -> None:
        while True:
            due = time.perf_counter() + 0.01
            await asyncio.sleep(0.01)
            delay = (time.perf_counter() - due) * 1000
            self._wait.sample()
            self.own_wait.sample()
            self.own_delays.append(max(0.0, delay - self.own_wait.latest()))
