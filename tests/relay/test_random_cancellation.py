"""D18: whatever happens to a call, and wherever its handler is cancelled, it ends once and leaves nothing behind.

A call goes its whole way here, from its request to the last byte, with a `MemoryTransport` on either side of the relay.
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
from tests.support.memory_relay import DIAL_SECONDS, STEPS, WAITS, Call, MemoryRelay, Peer
from tests.support.memory_transport import DEEP_SECONDS, IS_DEEP, HandClock, MemoryLeg, MemoryTransport, examples


def heard_by(line: MemoryTransport) -> tuple[list[bytes], bytes]:
    """The frames in what a peer has read, and an unfinished one behind them. Shares no code with the scanner."""
    raw = bytes(line.heard).split(b"\r\n\r\n", 1)[1] if line.heard.startswith(b"HTTP/") else bytes(line.heard)
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


def check_what_was_heard(line: MemoryTransport, sender: Peer, *, is_open: bool) -> None:
    """A prefix of what was sent, and all of it while the session lives; at most one CLOSE, and nothing behind it."""
    frames, rest = heard_by(line)
    closes = [number for number, frame in enumerate(frames) if frame[0] == 0x88]
    assert closes in ([], [len(frames) - 1])
    for frame in (frames[number] for number in closes if frames[number][1] & 0x7F):
        start = 6 if frame[1] & 0x80 else 2
        code = bytes(a ^ b for a, b in zip(frame[start : start + 2], frame[2:start] or b"\0\0", strict=False))
        assert is_sendable_close_code(int.from_bytes(code, "big"))
    assert not (closes and rest)
    data = [frame for frame in frames if not frame[0] & 0x08]
    # A message begins where the one before it has ended, the relay's own event too.
    assert all((one[0] >= 0x80) is bool(two[0] & 0x0F) for one, two in pairwise(data))
    if data and b'"relay_error"' in data[-1]:
        data.pop()
    received = b"".join(data) + rest
    assert bytes(sender.data[: len(received)]) == received
    if is_open:
        at_least = len(sender.data) - (sender.last if sender.rest else 0)
        assert at_least <= len(received) <= len(sender.data) - len(sender.rest)


async def live(relay: MemoryRelay, loop: HandClock, steps: list[str], read_bytes: int) -> None:
    """One call with these steps, and all that has to hold at its end."""
    tasks = asyncio.all_tasks()
    call = Call(relay, read_bytes)
    for step in steps:
        if step in WAITS:
            await asyncio.sleep(WAITS[step])
        else:
            STEPS[step](call)
    client, upstream = call.client.line, call.upstream.line
    assert client is not None
    if call.deadline is not None:
        await asyncio.sleep(max(0.0, call.deadline - loop.time()))
        assert all(line.lost_at is not None for line in call.dialled), "upstream outlives its client"
    await asyncio.sleep(WAITS["what is due"])
    if relay.count("session.started") > relay.count("session.ended"):
        call.client.do(MemoryTransport.listen)
        call.upstream.do(MemoryTransport.listen)
        await asyncio.sleep(WAITS["what is due"])
    is_open = any(not session._ended.done() for session in relay.sessions)
    if upstream is not None and relay.count("session.started"):
        check_what_was_heard(client, call.upstream, is_open=is_open)
        check_what_was_heard(upstream, call.client, is_open=is_open)
    assert not (is_open and any(drain.done() for drain in call.drains))
    if is_open or not relay.count("session.started"):
        call.client_goes(MemoryTransport.hang_up)
    # A session is over six seconds after its client at the latest, a tick and five for the CLOSE. A call that never became
    # one is refused when its dial has had its time, and aiohttp lingers for ten more.
    await asyncio.sleep(6 if relay.count("session.started") else DIAL_SECONDS + 12)

    for line in (client, *call.dialled):
        assert line.lost_at is not None, "a socket is left"
    assert tasks == asyncio.all_tasks()
    assert len(relay.sessions) == 0
    assert relay.count("session.started") == relay.count("session.ended") <= 1
    gone = {"sessions active": 0, "upstream connections": 0, "client connections": 0}
    assert {"sessions ended": relay.count("session.ended"), **gone} == relay.grown()
    assert [] == [line for line in relay.logs if line["event"] in {"session.failed", "request.failed"}]
    complaints = loop.complaints.copy()
    loop.complaints.clear()
    assert [] == complaints


@pytest.fixture(scope="module")
def memory_relay() -> Iterator[tuple[HandClock, MemoryRelay]]:
    """A relay for all examples, and its clock."""
    with (
        closing(HandClock()) as loop,
        structlog.testing.capture_logs() as logs,
        patch("service.wire.seam.Leg", MemoryLeg),
    ):
        relay = MemoryRelay(logs)
        loop.run_until_complete(relay.start())
        yield loop, relay
        loop.run_until_complete(relay.stop())


OPENING: Final = ["what is due", "upstream upgrades and speaks", "what is due"]
OPENINGS: Final[tuple[list[str], ...]] = (
    [],
    ["what is due"],
    ["what is due", "upstream upgrades", "what is due"],
    OPENING,
    ["what is due", "the relay drains", "a tick", "upstream upgrades and speaks", "what is due"],
    [*OPENING, "upstream stops reading", *["client sends much"] * 4, "what is due"],
    [*OPENING, "client stops reading", *["upstream sends much"] * 4, "what is due"],
    [*OPENING, "upstream sends a fragment", "what is due"],
    [*OPENING, "client sends half a large frame", "upstream sends half a large frame", "what is due"],
)
ANY_STEP: Final = st.sampled_from([*STEPS, *WAITS])


@pytest.mark.timeout(DEEP_SECONDS if IS_DEEP else 60)
@examples(300)
@example(OPENINGS[1], ["upstream upgrades and speaks", "client hangs up"], 1000)  # in the last moment before its 101
@example(OPENINGS[2], ["the handler is cancelled"], 1000)
@example(OPENINGS[4], [], 1000)
@example(OPENINGS[5], ["client closes"], 1000)
@example(OPENINGS[5], ["client hangs up"], 1000)
@example(OPENINGS[7], ["the session is ended"], 1000)
@given(
    st.sampled_from(OPENINGS),
    st.lists(ANY_STEP, max_size=6) | st.lists(ANY_STEP, min_size=7, max_size=15),
    st.sampled_from([256 * 1024, 256 * 1024, 1000, 37]),
)
def test_any_life_ends_once(
    memory_relay: tuple[HandClock, MemoryRelay], opening: list[str], steps: list[str], read_bytes: int
) -> None:
    """In any order of events, cancellations included, a call ends once, in time, and leaves no socket, task or count."""
    loop, relay = memory_relay
    loop.run_until_complete(live(relay, loop, [*opening, *steps], read_bytes))


WAYS: Final = ("closes", "hangs up", "resets")


def test_d13_both_leave_in_the_same_turn(memory_relay: tuple[HandClock, MemoryRelay]) -> None:
    """A thousand times both go at once, by CLOSE, FIN or RST, whoever is first: each is one end, for one of the two."""
    loop, relay = memory_relay
    pairs = product(("client", "upstream"), WAYS, WAYS, range(56))
    for first, way, other_way, _ in pairs:
        second = "upstream" if first == "client" else "client"
        loop.run_until_complete(live(relay, loop, [*OPENING, f"{first} {way}", f"{second} {other_way}"], 1000))

        ends = [line["reason"] for line in relay.logs if line["event"] == "session.ended"]
        assert len(ends) == 1
        assert ends[0] in {"client_closed", "client_lost", "upstream_closed", "upstream_lost"}
