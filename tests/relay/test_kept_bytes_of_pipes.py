"""What a pipe counts among the bytes that all sessions keep: all that it keeps, from its first read until it is finished."""

import json
import socket
from types import SimpleNamespace
from typing import Final, cast
from weakref import WeakKeyDictionary

import pytest

from service.realtime.closing import CloseCode
from service.realtime.continuity.kept import KEEP_FROM_UPSTREAM
from service.realtime.events import CLIENT_EVENT_TYPES, SERVER_EVENT_TYPES, Direction
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.realtime.scanner_items import Violation
from service.realtime.scanner_types import UNFINISHED_EVENT
from service.relay import kept_bytes
from service.relay.continuity.renewable_session import RenewableSession
from service.relay.kept_bytes import UNCOUNTED_UNSENT_BYTES
from service.relay.latency import LatencyTimer
from service.relay.pipe import Pipe
from service.relay.pipe_owner import PipeOwner
from service.telemetry.traffic import Traffic
from service.wire.leg import Leg
from tests.support.harness import eventually, open_raw
from tests.support.live_upstream import MODEL, START, live_connection
from tests.support.raw_websocket_server import echo
from tests.support.recording_transport import RecordingTransport
from tests.support.scripted_upstream import PATH, scripted_relay

SIZE: Final = 200_000
LIMIT: Final = 700_000
"""Three of the size, and not four."""
UPSTREAM_HALF: Final = build_frame(Opcode.TEXT, b'{"type":"error","error":{"message":"' + b"x" * SIZE + b'"}}')[:-1]
CLIENT_HALF: Final = build_frame(
    Opcode.TEXT, b'{"type":"conversation.item.create","item":"' + b"x" * SIZE + b'"}', b"key1"
)[:-1]
OTHERS: Final = "others"
"""Another client."""


@pytest.fixture(autouse=True)
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three events are enough."""
    monkeypatch.setattr(kept_bytes, "MAX_KEPT_BYTES", LIMIT)
    monkeypatch.setattr(kept_bytes, "_kept", WeakKeyDictionary())


class FullTransport(RecordingTransport):
    """Has a number of unsent bytes."""

    unsent = 0

    def get_write_buffer_size(self) -> int:
        """What the test sets."""
        return self.unsent


class Owner:
    """A session that ends as `Session` does: its pipes discard their data, and more is done later."""

    def __init__(self, client: str) -> None:
        self.info = SimpleNamespace(limited_as=client)
        self.pipes: list[Pipe] = []
        self.reasons: list[object] = []

    def end(self, reason: object, detail: str | None = None) -> None:
        """Called by the pipe."""
        self.reasons.append((reason, detail) if detail else reason)
        for pipe in self.pipes:
            pipe.discard_data()

    def peer_broke_protocol(self, _: Direction, violation: Violation) -> None:
        """Called by the pipe."""
        self.end(violation)


class Subject:
    """A pipe with its legs and its owner."""

    def __init__(self, *, from_upstream: bool = True, client: str = "a") -> None:
        self.transport = FullTransport()
        self.owner = Owner(client)
        self.source = Leg(RecordingTransport(), SimpleNamespace(), b"", masks=from_upstream)  # type: ignore[arg-type]
        self.sink = Leg(self.transport, SimpleNamespace(), b"", masks=not from_upstream)  # type: ignore[arg-type]
        direction = Direction.UPSTREAM_TO_CLIENT if from_upstream else Direction.CLIENT_TO_UPSTREAM
        self.scanner = self.new_scanner(from_upstream=from_upstream)
        self.pipe = Pipe(
            self.source,
            self.sink,
            self.scanner,
            traffic=Traffic(direction, SERVER_EVENT_TYPES if from_upstream else CLIENT_EVENT_TYPES),
            latency=LatencyTimer(lambda: 0.0, float, float),
            owner=cast("PipeOwner", self.owner),
        )
        self.owner.pipes.append(self.pipe)
        self.half = UPSTREAM_HALF if from_upstream else CLIENT_HALF

    @staticmethod
    def new_scanner(*, from_upstream: bool) -> Scanner:
        """It reads what a session with continuity reads."""
        parsed = KEEP_FROM_UPSTREAM | {"error"} if from_upstream else CLIENT_EVENT_TYPES
        return Scanner(masked=not from_upstream, max_message_bytes=1 << 24, parsed_types=parsed)

    def fill(self, unsent: int) -> None:
        """Have the sink full."""
        self.transport.unsent = unsent
        self.sink.pause_writing()


def total() -> int:
    """What is counted."""
    return kept_bytes.kept_bytes().total


async def test_half_event_behind_a_full_sink_is_not_counted_after_the_end() -> None:
    """The end of backpressure counts again, as the scanner still keeps it."""
    subject = Subject()
    subject.fill(0)
    subject.pipe.receive(subject.half)
    assert SIZE < total() < SIZE + 100
    subject.owner.end("client_lost")
    subject.pipe.stop_backpressure()
    subject.pipe.finish()
    subject.fill(UNCOUNTED_UNSENT_BYTES + SIZE)
    subject.pipe.count_waiting(SIZE)

    assert (0, ["client_lost"]) == (total(), subject.owner.reasons)


async def test_session_does_not_end_for_what_those_of_another_client_keep() -> None:
    """Although it has kept its half event for the longest."""
    subjects = [Subject(client=client) for client in ("a", OTHERS, OTHERS, OTHERS)]
    for subject in subjects:
        subject.pipe.receive(subject.half)

    assert [0, 1, 0, 0] == [len(subject.owner.reasons) for subject in subjects]


async def test_unsent_bytes_count_until_the_sink_has_sent_them() -> None:
    """A client that reads slowly is held back again and again."""
    subject = Subject()
    subject.fill(UNCOUNTED_UNSENT_BYTES + SIZE)
    assert SIZE == total()
    subject.transport.unsent = 0
    subject.sink.resume_writing()
    assert 0 == total()


async def test_half_event_of_a_former_source_is_not_counted() -> None:
    """Upstream was lost within it, and another connection goes on."""
    subject = Subject()
    subject.pipe.receive(subject.half)
    assert SIZE < total()
    source = Leg(RecordingTransport(), SimpleNamespace(), b"", masks=True)  # type: ignore[arg-type]
    subject.pipe.replace_source(source, Subject.new_scanner(from_upstream=True))
    assert 0 == total()


@pytest.mark.parametrize("from_upstream", [False, True])
@pytest.mark.parametrize("is_held", [False, True])
async def test_session_that_gives_up_frees_its_half_event_and_is_not_counted_again(
    from_upstream: bool, is_held: bool
) -> None:
    """Although its pipe reports to the same sum within the end. Otherwise a second session would end for it."""
    subjects = [Subject(from_upstream=from_upstream) for _ in range(4)]
    if is_held:
        subjects[0].fill(0)
    for subject in subjects:
        subject.pipe.receive(subject.half)
    detail = UNFINISHED_EVENT
    violation = Violation(CloseCode.POLICY_VIOLATION, detail) if from_upstream else ("rate_exceeded", detail)
    slow = "client_too_slow" if from_upstream else "upstream_too_slow"

    assert [[slow if is_held else violation], [], [], []] == [subject.owner.reasons for subject in subjects]
    assert 0 == subjects[0].scanner.kept_bytes
    assert 3 * SIZE < total() < 3 * SIZE + 300


async def test_session_that_ends_counts_until_it_is_finished_and_frees_what_it_keeps_for_others() -> None:
    """A client that has session after session end, each with half an event, would keep any number of them for seconds."""
    subjects = [Subject() for _ in range(4)]
    for subject in subjects[:3]:
        subject.pipe.receive(subject.half)
        subject.owner.end("client_lost")
    assert 3 * SIZE < total()
    subjects[3].pipe.receive(subjects[3].half)

    assert 0 == subjects[0].scanner.kept_bytes
    assert [["client_lost"], []] == [subject.owner.reasons for subject in (subjects[0], subjects[3])]
    assert not subjects[0].transport.aborted
    for subject in subjects:
        subject.pipe.finish()
    assert 0 == total()


async def test_unsent_bytes_of_a_session_that_ends_are_counted_and_freed() -> None:
    """It waits for seconds until a client has read them."""
    subject, other = Subject(), Subject(client=OTHERS)
    subject.fill(unsent := UNCOUNTED_UNSENT_BYTES + 600_000)
    subject.owner.end("client_closed")
    subject.pipe.stop_backpressure()
    assert unsent - UNCOUNTED_UNSENT_BYTES == total()
    other.pipe.receive(other.half)

    assert (True, False, ["client_closed"]) == (
        subject.transport.aborted,
        other.transport.aborted,
        subject.owner.reasons,
    )
    assert SIZE < total() < SIZE + 100


async def test_slow_session_that_gives_up_is_not_counted_again_as_it_ends() -> None:
    """Its sink is aborted, but not closed yet: another session of the client would give up for it."""
    subject, other = Subject(), Subject()
    subject.fill(UNCOUNTED_UNSENT_BYTES + 600_000)
    other.pipe.receive(other.half)
    assert (["client_too_slow"], True) == (subject.owner.reasons, subject.transport.aborted)
    subject.pipe.stop_backpressure()

    assert [] == other.owner.reasons
    assert SIZE < total() < SIZE + 100


async def test_events_that_wait_for_a_boundary_end_the_session_of_a_slow_client() -> None:
    """They count although the sink is not full, beyond what every session may have."""
    subject, other = Subject(), Subject(client=OTHERS)
    subject.pipe.count_waiting(UNCOUNTED_UNSENT_BYTES)
    assert 0 == total()
    subject.pipe.count_waiting(UNCOUNTED_UNSENT_BYTES + 600_000)
    other.pipe.receive(other.half)

    assert (["client_too_slow"], []) == (subject.owner.reasons, other.owner.reasons)
    assert SIZE < total() < SIZE + 100  # not again what is freed later


async def test_early_half_event_of_a_live_client_is_counted() -> None:
    """The scanner got its beginning before the session: what follows is only added to it."""
    event = build_frame(Opcode.TEXT, b'{"a":"' + b"x" * SIZE + b'"}', b"key1")
    async with live_connection(RELAY_ALLOWED_MODELS=MODEL) as live:
        frame = build_frame(Opcode.TEXT, json.dumps(START).encode(), b"key1")
        live.client.writer.write(frame + event[:1000])
        assert (await live.client.next_event()) == live.upstream.on_start
        await eventually(lambda: total() > SIZE)
        live.client.writer.write(event[1000:-1])
    await eventually(lambda: total() == 0)


async def test_all_that_is_written_to_a_client_that_reads_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also answers of the relay's own, which nothing holds back."""
    monkeypatch.setattr("service.relay.held_source.UNCOUNTED_UNSENT_BYTES", 0)
    monkeypatch.setattr(kept_bytes, "MAX_KEPT_BYTES", 16 << 20)
    sessions: list[RenewableSession] = []
    run = RenewableSession.run

    async def run_and_keep(session: RenewableSession) -> str:
        sessions.append(session)
        sock = session._client._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # the kernel would take megabytes
        return await run(session)

    monkeypatch.setattr(RenewableSession, "run", run_and_keep)
    async with scripted_relay(echo, RELAY_CONTINUITY="renew") as (relay, _):
        client = await open_raw(relay.app.public_port, PATH)
        try:
            await client.next_event()
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a reading transport
            [session] = sessions
            for _ in range(28):
                session.send_to_client(json.dumps({"type": "x", "x": "x" * 131_072}).encode())
                assert total() == (session._client.buffered_bytes if session._client.full_since is not None else 0)
            assert total() > 1 << 20
        finally:
            await client.close()
        await eventually(lambda: bool(relay.events("session.ended")))
        await eventually(lambda: total() == 0)
