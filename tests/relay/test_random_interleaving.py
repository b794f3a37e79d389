"""Random orders of events, cancellations included: every session ends once and leaves no socket, task or count.

Each example runs one client connection from its request to its last byte, with a `MemoryTransport` on either side of it.
"""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise, product
from typing import Final
from unittest.mock import patch

import pytest
import structlog
from hypothesis import example, given
from hypothesis import strategies as st

from service.realtime.closing import is_sendable_close_code
from tests.support.memory_relay import DIAL_SECONDS, STEPS, WAITS, ClientConnection, MemoryPeer, MemoryRelay
from tests.support.memory_transport import DEEP_SECONDS, IS_DEEP, MemoryLeg, MemoryTransport, VirtualTimeLoop, examples


def frames_received(transport: MemoryTransport) -> tuple[list[bytes], bytes]:
    """The frames that a peer has read, and an incomplete one behind them. Shares no code with the scanner."""
    raw = bytes(transport.peer_received)
    if raw.startswith(b"HTTP/"):
        raw = raw.split(b"\r\n\r\n", 1)[1]
    frames, at = [], 0
    while at + 2 <= len(raw):
        size, end = raw[at + 1] & 0x7F, at + 2
        if size > 125:
            width = 2 if size == 126 else 8
            size, end = int.from_bytes(raw[end : end + width], "big"), end + width
        end += size + (4 if raw[at + 1] & 0x80 else 0)
        if end > len(raw):
            break
        frames.append(raw[at:end])
        at = end
    return frames, raw[at:]


def check_received(transport: MemoryTransport, sender: MemoryPeer, *, is_open: bool) -> None:
    """Assert that a peer has received a prefix of what was sent, or all of it while the session is open.

    Also at most one close frame, and nothing behind it.
    """
    frames, rest = frames_received(transport)
    closes = [number for number, frame in enumerate(frames) if frame[0] == 0x88]
    assert closes in ([], [len(frames) - 1])
    for frame in (frames[number] for number in closes if frames[number][1] & 0x7F):
        start = 6 if frame[1] & 0x80 else 2
        code = bytes(a ^ b for a, b in zip(frame[start : start + 2], frame[2:start] or b"\0\0", strict=False))
        assert is_sendable_close_code(int.from_bytes(code, "big"))
    assert not (closes and rest)
    data = [frame for frame in frames if not frame[0] & 0x08]
    # A message starts where the one before it has ended; the relay's own event, too.
    assert all((one[0] >= 0x80) is bool(two[0] & 0x0F) for one, two in pairwise(data))
    if data and b'"relay_error"' in data[-1]:
        data.pop()
    received = b"".join(data) + rest
    assert bytes(sender.data[: len(received)]) == received
    if is_open:
        minimum = len(sender.data) - (sender.held_size if sender.is_incomplete else 0)
        assert minimum <= len(received) <= len(sender.data) - len(sender.rest)


async def run(relay: MemoryRelay, loop: VirtualTimeLoop, steps: list[str], read_bytes: int) -> None:
    """Run one client's connection with these steps, and check the invariants at its end."""
    tasks = asyncio.all_tasks()
    connection = ClientConnection(relay, read_bytes)
    for step in steps:
        if step in WAITS:
            await asyncio.sleep(WAITS[step])
        else:
            STEPS[step](connection)
    client, upstream = connection.client.transport, connection.upstream.transport
    assert client is not None
    if connection.deadline is not None:
        await asyncio.sleep(max(0.0, connection.deadline - loop.time()))
        assert all(transport.lost_at is not None for transport in connection.dialled), "upstream outlives its client"
    await asyncio.sleep(WAITS["pending callbacks"])
    if relay.has_open_session():
        connection.client.act(MemoryTransport.peer_resume_reading)
        connection.upstream.act(MemoryTransport.peer_resume_reading)
        await asyncio.sleep(WAITS["pending callbacks"])
    is_open = any(not session._ended.done() for session in relay.sessions)
    if upstream is not None and relay.count("session.started"):
        check_received(client, connection.upstream, is_open=is_open)
        check_received(upstream, connection.client, is_open=is_open)
    assert not (is_open and any(drain.done() for drain in connection.drains))
    if is_open or not relay.count("session.started"):
        connection.disconnect_client(MemoryTransport.peer_close)
    # A session ends at most six seconds after its client: a tick, and five seconds for the closing handshake. A connection
    # without a session is refused when its dial times out, and aiohttp lingers for ten seconds more.
    await asyncio.sleep(6 if relay.count("session.started") else DIAL_SECONDS + 12)

    for transport in (client, *connection.dialled):
        assert transport.lost_at is not None, "a socket is left open"
    assert tasks == asyncio.all_tasks()
    assert len(relay.sessions) == 0
    assert relay.count("session.started") == relay.count("session.ended") <= 1
    none_left = {"sessions active": 0, "upstream connections": 0, "client connections": 0}
    assert {"sessions ended": relay.count("session.ended"), **none_left} == relay.counts()
    assert [] == [line for line in relay.logs if line["event"] in {"session.failed", "request.failed"}]
    errors = loop.errors.copy()
    loop.errors.clear()
    assert [] == errors


@pytest.fixture(scope="module")
def memory_relay() -> Iterator[tuple[VirtualTimeLoop, MemoryRelay]]:
    """A relay for all examples, and its event loop."""
    with (
        closing(VirtualTimeLoop()) as loop,
        structlog.testing.capture_logs() as logs,
        patch("service.wire.seam.Leg", MemoryLeg),
        patch("service.relay.lookahead.LOOKAHEAD_FRAMES", 1 << 20),
    ):
        relay = MemoryRelay(logs)
        loop.run_until_complete(relay.start())
        yield loop, relay
        loop.run_until_complete(relay.stop())


OPENING: Final = ["pending callbacks", "upstream sends 101 and first event", "pending callbacks"]
OPENINGS: Final[tuple[list[str], ...]] = (
    [],
    ["pending callbacks"],
    ["pending callbacks", "upstream sends 101", "pending callbacks"],
    OPENING,
    [
        "pending callbacks",
        "relay drains",
        "one tick",
        "upstream sends 101 and first event",
        "pending callbacks",
    ],
    [*OPENING, "upstream pauses reading", *["client sends 60 kB"] * 4, "pending callbacks"],
    [*OPENING, "client pauses reading", *["upstream sends 60 kB"] * 4, "pending callbacks"],
    [*OPENING, "upstream sends a fragment", "pending callbacks"],
    [*OPENING, "client sends half a large frame", "upstream sends half a large frame", "pending callbacks"],
)
ANY_STEP: Final = st.sampled_from([*STEPS, *WAITS])


@pytest.mark.timeout(DEEP_SECONDS if IS_DEEP else 180)
@examples(300)
@example(OPENINGS[1], ["upstream sends 101 and first event", "client sends FIN"], 1000)  # just before the client's 101
@example(OPENINGS[2], ["relay cancels the handler"], 1000)
@example(OPENINGS[4], [], 1000)
@example(OPENINGS[5], ["client sends CLOSE"], 1000)
@example(OPENINGS[5], ["client sends FIN"], 1000)
@example(OPENINGS[7], ["relay ends the session"], 1000)
@given(
    st.sampled_from(OPENINGS),
    st.lists(ANY_STEP, max_size=6) | st.lists(ANY_STEP, min_size=7, max_size=15),
    st.sampled_from([256 * 1024, 256 * 1024, 1000, 37]),
)
def test_any_order_of_steps_ends_once_and_leaks_nothing(
    memory_relay: tuple[VirtualTimeLoop, MemoryRelay], opening: list[str], steps: list[str], read_bytes: int
) -> None:
    """Cancellations included; upstream is closed in time."""
    loop, relay = memory_relay
    loop.run_until_complete(run(relay, loop, [*opening, *steps], read_bytes))


METHODS: Final = ("sends CLOSE", "sends FIN", "sends RST")


def test_simultaneous_disconnects_are_one_ending(memory_relay: tuple[VirtualTimeLoop, MemoryRelay]) -> None:
    """A thousand times both sides disconnect in one iteration, by CLOSE, FIN or RST, in either order."""
    loop, relay = memory_relay
    combinations = product(("client", "upstream"), METHODS, METHODS, range(56))
    for first, method, other_method, _ in combinations:
        second = "upstream" if first == "client" else "client"
        loop.run_until_complete(run(relay, loop, [*OPENING, f"{first} {method}", f"{second} {other_method}"], 1000))

        ends = [line["reason"] for line in relay.logs if line["event"] == "session.ended"]
        assert len(ends) == 1
        assert ends[0] in {"client_closed", "client_lost", "upstream_closed", "upstream_lost"}
