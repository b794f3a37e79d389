"""Many sessions at once: opened through a contender, driven by one clock, and compared at the end."""

import asyncio
import ssl
import time
from array import array
from dataclasses import asdict, dataclass
from typing import Final

from bench.contenders import Contender
from bench.ends import ClientEnd, End, UpstreamEnd, upgrade_request
from bench.messages import UP, Template

_TICK_SECONDS: Final = 0.001  # the loop's timers have no finer grain
_MOST_PER_TICK: Final = 256  # after so many the loop may read, if the generator has fallen behind
_OPEN_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the messages: all must be 0."""

    lost: int = 0
    disordered: int = 0
    changed: int = 0  # directions of sessions whose chains differ at the two ends

    @property
    def is_clean(self) -> bool:
        """Whether everything came whole."""
        return not (self.lost or self.disordered or self.changed)

    def as_dict(self) -> dict[str, int]:
        """For JSON."""
        return asdict(self)


class Upstream:
    """The provider that every contender dials: a server on a free port of loopback."""

    def __init__(self) -> None:
        self.latencies = array("q")
        self.is_verbatim = True
        self.sessions: dict[int, UpstreamEnd] = {}
        self.receives: Template = UP
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, context: ssl.SSLContext | None) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._end, "127.0.0.1", 0, ssl=context, backlog=4096)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    def _end(self) -> UpstreamEnd:
        return UpstreamEnd(self._meet, self.latencies, is_verbatim=self.is_verbatim, receives=self.receives)

    def _meet(self, end: UpstreamEnd) -> None:
        assert end.incoming is not None  # noqa: S101 - it has just read its first message
        self.sessions[end.incoming.session] = end


class Fleet:
    """Sessions through one contender. Their numbers are their own, so that nothing can pass for another's."""

    _next_session = 1

    def __init__(self, contender: Contender, upstream: Upstream) -> None:
        self._contender = contender
        self._upstream = upstream
        upstream.sessions.clear()
        upstream.is_verbatim = contender.is_verbatim
        del upstream.latencies[:]
        self.up_latencies = upstream.latencies
        self.down_latencies: array[int] = array("q")
        self.connect_seconds: list[float] = []
        self.clients: list[ClientEnd] = []

    async def open(self, count: int, *, at_once: int = 1) -> None:
        """Open sessions, `at_once` at a time; each is connected to the first event, and both its ends have met."""
        numbers = iter(range(Fleet._next_session, Fleet._next_session + count))
        Fleet._next_session = (Fleet._next_session + count) % 90_000

        async def worker() -> None:
            for number in numbers:
                await self._open_one(number)

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())

    async def _open_one(self, number: int) -> None:
        place = self._contender.place
        request = upgrade_request(place.path, f"{place.host}:{place.port}", place.headers)
        loop = asyncio.get_running_loop()
        started = time.perf_counter()
        _, client = await loop.create_connection(
            lambda: ClientEnd(number, request, self.down_latencies, is_verbatim=self._contender.is_verbatim),
            place.host,
            place.port,
            ssl=place.context,
            server_hostname="localhost" if place.context else None,
        )
        self.clients.append(client)
        await asyncio.wait_for(client.opened, _OPEN_SECONDS)
        self.connect_seconds.append(time.perf_counter() - started)
        await asyncio.wait_for(client.greeted, _OPEN_SECONDS)

    def pairs(self) -> list[tuple[ClientEnd, UpstreamEnd | None]]:
        """Each client and the upstream end that met it."""
        return [(c, self._upstream.sessions.get(c.outgoing.session if c.outgoing else -1)) for c in self.clients]

    @property
    def sent(self) -> int:
        """Messages sent at either end so far."""
        return sum(end.outgoing.sent for end in self._ends() if end.outgoing)

    @property
    def received(self) -> int:
        """Messages received at either end so far."""
        return sum(end.incoming.received for end in self._ends() if end.incoming)

    def _ends(self) -> list[End]:
        return [end for pair in self.pairs() for end in pair if end is not None]

    async def drain(self, seconds: float) -> None:
        """Wait until all that was sent has come, as long as something comes."""
        deadline = time.perf_counter() + seconds
        before, quiet_since = -1, time.perf_counter()
        while (now := time.perf_counter()) < deadline and (received := self.received) < self.sent:
            if received != before:
                before, quiet_since = received, now
            elif now - quiet_since > 3:  # noqa: PLR2004 - seconds in which nothing at all came: the rest is lost
                break
            await asyncio.sleep(0.02)

    def verdict(self) -> Verdict:
        """Compare both ends of every session; to be asked once the fleet has drained."""
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
        """Hang up everywhere, and wait for it."""
        for client in self.clients:
            client.hang_up()
        closed = [end.closed for end in self._ends()]
        if closed:
            await asyncio.wait(closed, timeout=5)
        for end in self._ends():
            if end.transport is not None:
                end.transport.abort()
        self._upstream.sessions.clear()
        self.clients.clear()


class Ticker:
    """Sends for all sessions, both ways, with their phases spread evenly; it keeps to the clock, not to its own pace."""

    def __init__(self, fleet: Fleet, messages_per_second: float, *, leaving_out: frozenset[int] = frozenset()) -> None:
        pairs = [pair for at, pair in enumerate(fleet.pairs()) if at not in leaving_out]
        self._sends = [end.send for pair in pairs for end in pair if end is not None]
        self.rate = messages_per_second * len(self._sends)
        self._step = 1e9 / self.rate
        self._turn = 0
        self._due = 0.0
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.Handle | None = None

    def start(self) -> None:
        """Begin now."""
        self._due = float(time.perf_counter_ns())
        self._tick()

    def stop(self) -> None:
        """Send nothing more."""
        if self._handle is not None:
            self._handle.cancel()

    def _tick(self) -> None:
        sends, count = self._sends, len(self._sends)
        now = time.perf_counter_ns()
        for _ in range(_MOST_PER_TICK):
            if self._due > now:
                self._handle = self._loop.call_later(_TICK_SECONDS, self._tick)
                return
            sends[self._turn]()
            self._turn = (self._turn + 1) % count
            self._due += self._step
        self._handle = self._loop.call_soon(self._tick)
