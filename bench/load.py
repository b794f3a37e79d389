"""Many concurrent sessions: opened through a contender, driven by one clock, and compared at the end."""

import asyncio
import ssl
import time
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Final

from bench.apis import REALTIME, Api
from bench.contenders import Contender
from bench.endpoints import ClientEndpoint, Endpoint, UpstreamEndpoint, upgrade_request
from bench.network import WHOLE, PacedWriter, Shape

_TICK_SECONDS: Final = 0.001  # the resolution of the event loop's timers
_MAX_PER_TICK: Final = 256  # then the event loop may read, if the generator is late
_OPEN_SECONDS: Final = 120


@dataclass(frozen=True, slots=True)
class Verdict:
    """Lost, reordered and changed messages; all must be 0."""

    lost: int = 0
    disordered: int = 0
    changed: int = 0  # directions of sessions whose chains differ at the two ends

    @property
    def is_clean(self) -> bool:
        """Whether every message arrived once, in order and unchanged."""
        return not (self.lost or self.disordered or self.changed)

    def as_dict(self) -> dict[str, int]:
        """The row for JSON."""
        return asdict(self)


class Upstream:
    """The upstream of every contender: a server of one API on a free port of loopback."""

    def __init__(self, api: Api = REALTIME) -> None:
        self.api = api
        self.latencies = array("q")
        self.forwards_verbatim = True
        self.sessions: dict[int, UpstreamEndpoint] = {}
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, context: ssl.SSLContext | None) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._create_endpoint, "127.0.0.1", 0, ssl=context, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    def _create_endpoint(self) -> UpstreamEndpoint:
        return UpstreamEndpoint(self._register, self.latencies, forwards_verbatim=self.forwards_verbatim, api=self.api)

    def _register(self, end: UpstreamEndpoint) -> None:
        assert end.incoming is not None  # noqa: S101 - set before the first message
        self.sessions[end.incoming.session] = end


class SessionGroup:
    """Sessions through one contender. Their numbers are unique, so that a message cannot count for another session."""

    _next_session = 1

    def __init__(self, contender: Contender, upstream: Upstream) -> None:
        self._contender = contender
        self._upstream = upstream
        upstream.sessions.clear()
        upstream.forwards_verbatim = contender.forwards_verbatim
        del upstream.latencies[:]
        self.up_latencies = upstream.latencies
        self.down_latencies: array[int] = array("q")
        self.connect_seconds: list[float] = []
        self.clients: list[ClientEndpoint] = []

    async def open(self, count: int, *, concurrency: int = 1) -> None:
        """Open sessions, `concurrency` at a time; each has its first event, and both endpoints know its number."""
        numbers = iter(range(SessionGroup._next_session, SessionGroup._next_session + count))
        SessionGroup._next_session = (SessionGroup._next_session + count) % 90_000

        async def worker() -> None:
            for number in numbers:
                await self._open_one(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker())

    async def _open_one(self, number: int) -> None:
        target, api = self._contender.target, self._upstream.api
        request = upgrade_request(api.path, f"{target.host}:{target.port}", target.headers)
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        _, client = await loop.create_connection(
            lambda: ClientEndpoint(
                number, request, self.down_latencies, forwards_verbatim=self._contender.forwards_verbatim, api=api
            ),
            target.host,
            target.port,
            ssl=target.context,
            server_hostname="localhost" if target.context else None,
        )
        self.clients.append(client)
        await asyncio.wait_for(client.opened, _OPEN_SECONDS)
        self.connect_seconds.append(time.perf_counter() - started)
        await asyncio.wait_for(client.greeted, _OPEN_SECONDS)

    def pairs(self) -> list[tuple[ClientEndpoint, UpstreamEndpoint | None]]:
        """Each client endpoint and its upstream endpoint."""
        return [(c, self._upstream.sessions.get(c.outgoing.session if c.outgoing else -1)) for c in self.clients]

    @property
    def sent(self) -> int:
        """Messages sent by both endpoints so far."""
        return sum(end.outgoing.sent for end in self._ends() if end.outgoing)

    @property
    def received(self) -> int:
        """Messages received by both endpoints so far."""
        return sum(end.incoming.received for end in self._ends() if end.incoming)

    def _ends(self) -> list[Endpoint]:
        return [end for pair in self.pairs() for end in pair if end is not None]

    async def drain(self, seconds: float) -> None:
        """Wait until every sent message has arrived, or none has arrived for three seconds."""
        deadline = time.perf_counter() + seconds
        before, quiet_since = -1, time.perf_counter()
        while (now := time.perf_counter()) < deadline and (received := self.received) < self.sent:
            if received != before:
                before, quiet_since = received, now
            elif now - quiet_since > 3:  # noqa: PLR2004 - seconds without a message: the rest is lost
                break
            await asyncio.sleep(0.02)

    def verdict(self) -> Verdict:
        """Compare both endpoints of every session; call it after `drain`."""
        lost = disordered = changed = 0
        for client, upstream in self.pairs():
            for sender, receiver in ((client, upstream), (upstream, client)):
                out = sender.outgoing if sender else None
                into = receiver.incoming if receiver else None
                sent, received = out.sent if out else 0, into.received if into else 0
                lost += max(0, sent - received)
                disordered += into.disordered if into else 0
                changed += (out.chain if out else 0) != (into.chain if into else 0)
        return Verdict(lost, disordered, changed)

    async def close(self) -> None:
        """Close all sessions, and wait for the end of their connections."""
        for client in self.clients:
            client.send_close()
        closed = [end.closed for end in self._ends()]
        if closed:
            await asyncio.wait(closed, timeout=5)
        for end in self._ends():
            if end.transport is not None:
                end.transport.abort()
        self._upstream.sessions.clear()
        self.clients.clear()


class SendClock:
    """Calls `sends` in turn, with evenly spread phases, on a schedule: delays do not add up.

    `of_sessions` has all sessions send in both directions; `of_upstream` sends the events that are no audio.
    """

    def __init__(self, sends: list[Callable[[], None]], calls_per_second: float, *, messages: int = 1) -> None:
        self._sends = sends
        self.rate = calls_per_second * messages * len(sends)
        self._step = 1e9 / (calls_per_second * len(sends))
        self._next_sender = 0
        self._due = 0.0
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None

    @classmethod
    def of_sessions(
        cls,
        group: SessionGroup,
        messages_per_second: float,
        *,
        leaving_out: frozenset[int] = frozenset(),
        shape: Shape = WHOLE,
    ) -> "SendClock":
        """Messages of every session, in both directions, written in a shape."""
        pairs = [pair for at, pair in enumerate(group.pairs()) if at not in leaving_out]
        ends = [end for pair in pairs for end in pair if end is not None]
        writer = PacedWriter(shape)
        sends = [partial(writer.send, end) if shape.is_paced else end.send for end in ends]
        return cls(sends, messages_per_second / shape.messages, messages=shape.messages)

    @classmethod
    def of_upstream(cls, group: SessionGroup, events_per_second: float) -> "SendClock":
        """The events of every session that are no audio."""
        return cls([end.send_further for _, end in group.pairs() if end is not None], events_per_second)

    def start(self) -> None:
        """Start sending."""
        self._due = float(time.perf_counter_ns())
        self._tick()

    def stop(self) -> None:
        """Stop sending."""
        if self._handle is not None:
            self._handle.cancel()

    def _tick(self) -> None:
        sends, count = self._sends, len(self._sends)
        now = time.perf_counter_ns()
        for _ in range(_MAX_PER_TICK):
            if self._due > now:
                self._handle = self._loop.call_later(_TICK_SECONDS, self._tick)
                return
            sends[self._next_sender]()
            self._next_sender = (self._next_sender + 1) % count
            self._due += self._step
        self._handle = self._loop.call_soon(self._tick)
