"""The delay that the relay adds near a renewal: numbered events, stamped where client and upstream write and read them.

Both are in one process with one clock, and do nothing else: an upstream reads the second of audio before a switch, which the
relay sends first, in about a millisecond. The sessions renew for real: each connection says that it expires in seconds, and
the next one gets configuration, items and that second of audio. The microphone is open and silent, so that the switch comes
as soon as the next connection is prepared; no connection ends by itself.
"""

import asyncio
import base64
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from bench.callers import running_relay
from bench.endpoints import Endpoint, answer_to, upgrade_request
from bench.spread import percentile, spread
from bench.wire import TEXT, build_frame
from service.simulator import schema
from service.simulator.configuration import SessionConfiguration, session_object

Report = Callable[[str], None]

_CALLS: Final = 8
_LIFE_SECONDS: Final = 5.0  # of a connection, by its own word; the next one is dialled in the middle of it
_EVENT_SECONDS: Final = 0.02
_NEAR_SECONDS: Final = 0.6
_FIRST_SECONDS: Final = 1.0  # of a call, which do not count
_ITEMS: Final = 20
_DIGITS: Final = 9
_UP: Final = b'{"type":"input_audio_buffer.append","event_id":"'
_DOWN: Final = b'{"type":"rate_limits.updated","event_id":"'
_AUDIO: Final = base64.b64encode(bytes(round(24_000 * _EVENT_SECONDS) * 2))


@dataclass
class _Way:
    """The numbered events of one direction of a call: when each was written, and when it was read first."""

    sent: list[float] = field(default_factory=list)
    read: dict[int, float] = field(default_factory=dict)

    def next(self) -> bytes:
        """Stamp the next event; returns its number."""
        self.sent.append(time.perf_counter())
        return b"%0*d" % (_DIGITS, len(self.sent) - 1)

    def arrived(self, payload: bytes, head: bytes, now: float) -> bool:
        """Whether an event is a numbered one, which is stamped."""
        if not payload.startswith(head):
            return False
        self.read.setdefault(int(payload[len(head) : len(head) + _DIGITS]), now)
        return True


@dataclass
class _Call:
    """A call over all its connections."""

    up: _Way = field(default_factory=_Way)
    down: _Way = field(default_factory=_Way)
    switches: list[float] = field(default_factory=list)
    dials: int = 0
    upstream: "_Upstream | None" = None  # that gets the audio

    def send_down(self) -> None:
        """Send the client the next event."""
        if self.upstream is not None:
            self.upstream.send_numbered()


class _Client(Endpoint):
    """Writes the microphone's audio. `opened` is done with `session.updated`."""

    def __init__(self, call: _Call, request: bytes) -> None:
        super().__init__()
        self._call, self._request = call, request
        self._key = random.randbytes(3) + b"\x5a"  # noqa: S311 - a mask
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the transport."""
        super().connection_made(transport)
        self.write(self._request)

    def handshake_received(self, head: bytes) -> None:
        """The response arrived."""
        if b" 101" not in head.split(b"\r\n", 1)[0]:
            self.opened.set_exception(ConnectionError(head.decode("latin-1")))

    def message(self, payload: bytes) -> None:
        """A message arrived."""
        if self._call.down.arrived(payload, _DOWN, self._now / 1e9):
            return
        event = json.loads(payload)
        if event["type"] == "session.created":
            session = {"type": "realtime", "instructions": "Count.", "tools": []}
            self.send_event({"type": "session.update", "session": session})
        elif event["type"] == "session.updated":
            self.opened.set_result(None)

    def send_event(self, event: dict[str, Any]) -> None:
        """Send an event."""
        self.write(build_frame(TEXT, json.dumps(event).encode(), self._key))

    def send_audio(self) -> None:
        """Send the next piece of audio."""
        self.write(build_frame(TEXT, _UP + self._call.up.next() + b'","audio":"' + _AUDIO + b'"}', self._key))


class _Upstream(Endpoint):
    """One connection of upstream: configuration and items as the provider answers them, and no conversation."""

    def __init__(self, calls: list[_Call]) -> None:
        super().__init__()
        self._calls = calls
        self._call: _Call | None = None  # None: a connection of a health check
        self.dial = 0
        self._last_item: str | None = None
        session = session_object("gpt-realtime", _LIFE_SECONDS)
        self._configuration = SessionConfiguration(
            {**session, "expires_at": time.time() + _LIFE_SECONDS}, schema.REALTIME_SESSION
        )

    def handshake_received(self, head: bytes) -> None:
        """A request arrived."""
        answer, is_upgrade = answer_to(head)
        self.write(answer)
        if not is_upgrade:
            if self.transport is not None:
                self.transport.close()
            return
        query = parse_qs(urlsplit(head.split(b" ", 2)[1].decode()).query)
        if "call" in query:
            self._call = self._calls[int(query["call"][0])]
            self._call.dials = self.dial = self._call.dials + 1
        self._send({"type": "session.created", "session": self._configuration.session})

    def message(self, payload: bytes) -> None:
        """A message arrived."""
        call = self._call
        if call is not None and call.up.arrived(payload, _UP, self._now / 1e9):
            if call.upstream is not self:
                self._take_over(call)
            return
        event = json.loads(payload)
        if event["type"] == "session.update":
            self._configuration.update(event["session"])
            self._send({"type": "session.updated", "session": self._configuration.session})
        elif event["type"] == "conversation.item.create":
            self._add(event["item"])

    def _take_over(self, call: _Call) -> None:
        if call.upstream is not None:
            if self.dial < call.upstream.dial:
                return  # read late
            call.switches.append(self._now / 1e9)
        call.upstream = self
        asyncio.get_running_loop().call_soon(self.send_numbered)  # after the rest of what was read

    def _add(self, item: dict[str, Any]) -> None:
        item = {"id": item.get("id") or f"item_{time.perf_counter_ns()}", "object": "realtime.item", **item}
        for kind in ("added", "done"):
            event = {"type": f"conversation.item.{kind}", "previous_item_id": self._last_item, "item": item}
            self._send(event)
        self._last_item = item["id"]

    def _send(self, event: dict[str, Any]) -> None:
        self.write(build_frame(TEXT, json.dumps(event, separators=(",", ":")).encode()))

    def send_numbered(self) -> None:
        """Send the next numbered event."""
        if self._call is not None and self.transport is not None:
            self.write(build_frame(TEXT, _DOWN + self._call.down.next() + b'","rate_limits":[]}'))


async def measure_renewal(renewals: int, report: Report) -> bool:
    """Report the delays near renewals and far from any; returns whether each event of the clients arrived."""
    calls = [_Call() for _ in range(_CALLS)]
    server = await asyncio.get_running_loop().create_server(lambda: _Upstream(calls), "127.0.0.1", 0)
    async with server, running_relay(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1") as relay:
        each = max(1, renewals // _CALLS)
        await asyncio.gather(*(_talk(relay.port, calls, number, each) for number in range(_CALLS)))
        renewed = relay.log("session.renewed")
    forced = sum(line["cause"] == "forced" for line in renewed)
    report(
        f"{len(renewed)} renewals in {_CALLS} calls, {forced} of them forced; {1 / _EVENT_SECONDS:.0f} events a second"
    )
    lost = sum(len(call.up.sent) - len(call.up.read) for call in calls)
    dropped = sum(len(call.down.sent) - len(call.down.read) for call in calls)
    _report_way("client to upstream", [(call.up, call.switches) for call in calls], report)
    _report_way("upstream to client", [(call.down, call.switches) for call in calls], report)
    report(f"events of clients lost: {lost}; of former connections after the switch, hidden from the client: {dropped}")
    return bool(renewed) and not lost


async def _talk(port: int, calls: list[_Call], number: int, renewals: int) -> None:
    call = calls[number]
    path = f"/v1/realtime?model=gpt-realtime&call={number}"
    request = upgrade_request(path, f"127.0.0.1:{port}", {})
    _, client = await asyncio.get_running_loop().create_connection(lambda: _Client(call, request), "127.0.0.1", port)
    await asyncio.wait_for(client.opened, 30)
    for at in range(_ITEMS):
        content = [{"type": "input_text", "text": f"{at}: a sentence of about the length that people type."}]
        client.send_event(
            {"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": content}}
        )
    speaking = asyncio.create_task(_every(_EVENT_SECONDS, client.send_audio))
    hearing = asyncio.create_task(_every(_EVENT_SECONDS, call.send_down))
    try:
        async with asyncio.timeout(4 * _LIFE_SECONDS * renewals + 60):
            while len(call.switches) < renewals:  # noqa: ASYNC110 - it must not cost the loop more than a look
                await asyncio.sleep(0.1)
            await asyncio.sleep(_NEAR_SECONDS)
    finally:
        speaking.cancel()
        hearing.cancel()
    await asyncio.sleep(1)
    client.send_close()
    await asyncio.wait_for(client.closed, 30)


async def _every(seconds: float, act: Callable[[], object]) -> None:
    due = time.perf_counter() + random.random() * seconds  # noqa: S311 - calls do not speak in sync
    while True:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        act()
        due += seconds


def _report_way(name: str, ways: list[tuple[_Way, list[float]]], report: Report) -> None:
    near, far, first = list[float](), list[float](), list[float]()
    for way, switches in ways:
        begin = way.sent[0] + _FIRST_SECONDS
        for number, sent in enumerate(way.sent):
            if sent < begin or number not in way.read:
                continue
            is_near = any(abs(sent - switch) < _NEAR_SECONDS for switch in switches)
            (near if is_near else far).append(way.read[number] - sent)
        for switch in switches:
            after = [number for number, read in way.read.items() if read >= switch]
            first.append(way.read[min(after)] - way.sent[min(after)])
    report(f"{name}, more than {_NEAR_SECONDS} s from a switch: {spread(far)}; nearer: {spread(near)}")
    report(f"{name}, the first after each switch: {spread(first)}")
    more = [1000 * (percentile(near, share) - percentile(far, share)) for share in (0.5, 0.99)]
    at_switch = 1000 * (percentile(first, 0.5) - percentile(far, 0.5))
    report(
        f"{name}, near a switch more by: p50 {more[0]:.2f} ms, p99 {more[1]:.2f} ms; at the switch p50 {at_switch:.2f} ms"
    )
