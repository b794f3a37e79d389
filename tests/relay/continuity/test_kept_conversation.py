"""`kept_conversation.py` and the memory that sessions share: when a client is held back, and who frees memory."""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from service.realtime.continuity import interception
from service.realtime.continuity.continuity import Continuity
from service.realtime.continuity.journal_entries import OVERHEAD_BYTES
from service.realtime.continuity.kept import payload_of
from service.realtime.continuity.limits import ContinuityLimits
from service.realtime.frames import Opcode
from service.realtime.scanner_items import Message
from service.relay.continuity.kept_conversation import MAX_OTHER_BYTES, KeptConversation
from service.relay.continuity.pool import ContinuityOptions, ContinuityPool
from service.telemetry.continuity import ContinuityMetrics
from service.wire.leg import Leg
from tests.support.continued_call import client_frame, upstream_frame
from tests.support.kept_session import NewUpstream, session_object, user_text
from tests.support.reference_api import Event

LIMITS = ContinuityLimits(journal_bytes=100_000)
PICTURE = user_text("a", "x" * 150_000)


class FakeLeg:
    """Records why it is held, and the pings that it is to send."""

    def __init__(self) -> None:
        self.reasons: set[str] = set()
        self.pings: list[bytes] = []

    @property
    def held_since(self) -> float | None:
        """Whether it is held."""
        return 0.0 if self.reasons else None

    def hold(self, reason: str) -> None:
        """Called to hold it."""
        self.reasons.add(reason)

    def release(self, reason: str) -> None:
        """Called to release it."""
        self.reasons.discard(reason)

    def write(self, _: bytes) -> None:
        """Called to send an event."""

    def send_control(self, _: Opcode, payload: bytes) -> None:
        """Called to ping."""
        self.pings.append(payload)


def message(body: Event, frame: bytes, *, masked: bool) -> Message:
    """An event as a scanner shows it."""
    return Message(body["type"], payload_of(frame, masked=masked), frame)


class Kept:
    """A conversation of which the time is set."""

    def __init__(self) -> None:
        self.client, self.upstream, self.now = FakeLeg(), FakeLeg(), 0.0
        legs = cast("Leg", self.client), cast("Leg", self.upstream)
        self.kept = KeptConversation(Continuity(LIMITS), *legs, lambda _: None)
        self.kept._clock = lambda: self.now
        self.up(type="session.created", session=session_object())

    def up(self, **body: Any) -> None:
        """Upstream sends an event."""
        self.kept.upstream_event(message(body, upstream_frame(body), masked=False))

    def send(self, **body: Any) -> None:
        """The client sends an event."""
        self.kept.client_event(message(body, client_frame(body), masked=True))

    def tick(self, seconds: float) -> None:
        """Time passes, and upstream answers pings at once."""
        self.now += seconds
        self.kept.tick()
        for payload in self.upstream.pings:
            self.kept.pong_received(payload)
        self.upstream.pings.clear()


@pytest.fixture
async def kept() -> Kept:
    """A conversation within an event loop."""
    return Kept()


async def test_client_is_released_by_the_acknowledgement(kept: Kept) -> None:
    """Without waiting for the next tick."""
    kept.send(type="conversation.item.create", item=PICTURE)
    assert kept.client.reasons == {"journal_full"}
    kept.up(type="conversation.item.added", item=PICTURE, previous_item_id=None)
    assert not kept.client.reasons


async def test_event_that_upstream_never_acknowledges_holds_no_silent_client_for_ever(kept: Kept) -> None:
    """An error that names neither the event nor what is wrong with it; the client says nothing."""
    kept.send(type="conversation.item.create", item=PICTURE)
    kept.up(type="error", error={"type": "server_error", "code": None, "param": None, "event_id": None})
    for _ in range(30):
        kept.tick(0.5)
    assert not kept.client.reasons
    assert not kept.kept.continuity.journal.events
    kept.tick(5)
    assert not kept.upstream.pings  # nothing to be asked


async def test_client_without_upstream_is_held_until_there_is_one(kept: Kept) -> None:
    """If the sessions of the process keep too much; one that has an upstream is not held."""
    kept.kept.hold_client()
    assert not kept.client.reasons
    kept.kept.lose_upstream()
    kept.kept.hold_client()
    kept.tick(0.5)
    assert kept.client.reasons == {"journal_full"}


async def test_client_is_held_by_speech_without_upstream_at_its_bound(kept: Kept) -> None:
    """Until then it is read."""
    kept.kept.lose_upstream()
    for _ in range(LIMITS.audio_bytes // len(AUDIO) + 1):
        assert not kept.client.reasons
        kept.kept.appends.append(AUDIO)
        kept.kept.take_appends()
    assert kept.client.reasons == {"journal_full"}


async def test_client_is_read_once_the_session_ends(kept: Kept) -> None:
    """Else its close frame would not be, and its socket would be reset after five seconds."""
    kept.send(type="conversation.item.create", item=PICTURE)
    assert kept.client.reasons
    kept.kept.stop()
    assert not kept.client.reasons


async def test_all_that_is_kept_is_counted(kept: Kept) -> None:
    """Also what no swap repeats, and small events by what they take in memory."""
    kept.kept.lose_upstream()
    before = kept.kept.kept_bytes
    for _ in range(100):
        kept.send(type="some.event")
    assert kept.kept.kept_bytes - before > 100 * OVERHEAD_BYTES
    while not kept.client.reasons:
        kept.send(type="some.event", text="x" * 1000)
    assert MAX_OTHER_BYTES < kept.kept.kept_bytes - before < MAX_OTHER_BYTES + 2000


async def test_session_that_ends_keeps_nothing(kept: Kept) -> None:
    """Its closing handshakes take up to five seconds, in which its client can open others."""
    kept.tick(0.5)
    speak(kept, 2)
    kept.kept.lose_upstream()
    kept.send(type="some.event")
    appends = kept.kept.appends  # which the client's pipe has as well
    appends.append(AUDIO)
    assert kept.kept.kept_bytes > 0
    kept.kept.stop()
    kept.kept.take_appends()
    assert (0, []) == (kept.kept.kept_bytes, appends)


async def test_sessions_that_keep_the_most_free_the_memory_of_the_process() -> None:
    """One client cannot take it from all others."""
    pool = ContinuityPool(ContinuityOptions("ask", 1000, 4), ContinuityMetrics("relay", CollectorRegistry()))
    sizes = [400, 400, 150, 60]
    for size in sizes:
        pool.join()
        assert not pool.must_free(size)
        pool.account(size)
    assert [pool.must_free(size) for size in sizes] == [True, True, False, False]
    pool.leave(400)
    assert pool.has_room
    assert not any(map(pool.must_free, sizes))


@pytest.mark.parametrize(("dials", "renewals", "recoveries"), [(1, 1, 1), (3, 1, 1), (8, 2, 4), (64, 16, 32)])
async def test_renewals_dial_a_quarter_and_recoveries_half_of_what_new_clients_may(
    dials: int, renewals: int, recoveries: int
) -> None:
    """One of each at least."""
    pool = ContinuityPool(ContinuityOptions("ask", 1000, dials), ContinuityMetrics("relay", CollectorRegistry()))
    for slots, expected in ((pool.renewals, renewals), (pool.recoveries, recoveries)):
        async with AsyncExitStack() as held:
            for _ in range(expected):
                await held.enter_async_context(slots.slot("a"))
            waiting = asyncio.ensure_future(slots.slot("b").__aenter__())
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting


async def test_process_at_its_bound_has_no_room_for_another_session() -> None:
    """Below it there is."""
    pool = ContinuityPool(ContinuityOptions("ask", 1000, 4), ContinuityMetrics("relay", CollectorRegistry()))
    pool.account(999)
    assert pool.has_room
    pool.account(1)
    assert not pool.has_room


AUDIO = client_frame({"type": "input_audio_buffer.append", "audio": "A" * 2560})


def speak(kept: Kept, seconds: float) -> None:
    """The client speaks, in pieces of 40 ms; upstream answers pings at once, and the clock ticks."""
    for number in range(round(seconds * 25)):
        kept.now += 0.04
        kept.kept.appends.append(AUDIO)
        if len(kept.kept.appends) * len(AUDIO) >= 65_536:
            kept.kept.take_appends()
        if number % 12 == 0 and not kept.kept.is_idle:
            kept.kept.tick()
        for payload in kept.upstream.pings:
            kept.kept.pong_received(payload)
        kept.upstream.pings.clear()


async def test_open_microphone_costs_little_more_than_the_lookback(kept: Kept) -> None:
    """Two and a half seconds of audio at most, of which 1.2 may hold the start of speech."""
    kept.tick(0.5)
    for _ in range(20):
        speak(kept, 1)
        assert kept.kept.continuity.journal.audio_bytes <= 2.5 * 25 * len(AUDIO)


async def test_ping_follows_the_appends_that_are_taken(kept: Kept) -> None:
    """One write carries both; few of them are taken at a tick."""
    for take in (kept.kept.take_appends, kept.kept.tick):
        kept.now += 5
        kept.kept.appends.append(AUDIO)
        take()
        assert len(kept.upstream.pings) == 1
        assert kept.kept.awaited_pong
        kept.kept.pong_received(kept.upstream.pings.pop())
        assert not kept.kept.awaited_pong


async def test_turn_is_not_asked_for(kept: Kept) -> None:
    """It is kept until it is committed. Then silence is freed as before."""
    kept.tick(0.5)
    speak(kept, 3)
    kept.up(type="input_audio_buffer.speech_started", item_id="a", audio_start_ms=2_000)
    kept.tick(0.5)
    for _ in range(5):
        kept.now += 1
        kept.kept.appends.append(AUDIO)
        kept.tick(0.0)
        assert not kept.kept.awaited_pong
        assert kept.kept._has_audio
    kept.up(type="input_audio_buffer.committed", item_id="a", previous_item_id=None)
    kept.tick(0.5)  # reads the commit
    kept.tick(0.5)
    assert kept.kept.continuity.journal.reached_at == kept.now
    kept.kept.continuity.journal.forget("a")
    for _ in range(5):
        speak(kept, 1)
        assert kept.kept.continuity.journal.audio_bytes <= 2.5 * 25 * len(AUDIO)


async def test_audio_of_the_last_moment_goes_to_the_next_upstream(kept: Kept) -> None:
    """What was forwarded and not taken yet, and what the client says meanwhile."""
    kept.kept.appends.append(AUDIO)
    kept.kept.lose_upstream()
    kept.kept.appends.append(AUDIO)
    kept.kept.take_appends()
    assert len(kept.kept.continuity.journal.unsent()) == 2


async def test_conversation_that_grows_is_not_idle(kept: Kept) -> None:
    """What is kept of it counts towards the limit of the process."""
    kept.tick(0.5)
    assert kept.kept.is_idle
    kept.up(type="input_audio_buffer.speech_started", item_id="a", audio_start_ms=0)
    assert not kept.kept.is_idle
    kept.tick(0.5)
    assert not kept.kept.is_idle
    kept.up(type="input_audio_buffer.committed", item_id="a", previous_item_id=None)
    kept.tick(0.5)
    assert kept.kept.is_idle
    kept.up(type="session.updated", session=session_object(detection=None))
    kept.tick(0.5)
    assert not kept.kept.is_idle
    kept.up(type="session.updated", session=session_object())
    kept.tick(0.5)
    kept.kept.lose_upstream()
    assert not kept.kept.is_idle


def swapped_with_an_absent_item(kept: Kept) -> None:
    """Another upstream has taken over, which lacks the answer `x`: nothing of it was said."""
    response = {"id": "resp_x", "conversation_id": "conv_1"}
    item = {"id": "x", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    kept.up(type="response.created", response=response)
    kept.up(type="response.output_item.added", response_id="resp_x", output_index=0, item=item)
    kept.up(type="conversation.item.added", item=item, previous_item_id=None)
    kept.up(type="response.done", response=response | {"status": "cancelled"})
    kept.kept.lose_upstream()
    created = json.dumps({"type": "session.created", "session": session_object()}).encode()
    replay = NewUpstream(kept.kept.continuity.start_replay(created, kept.now, is_tolerant=True)).run().replay
    kept.kept.flush(replay, cast("Leg", kept.upstream))
    assert kept.kept.continuity.intercepts


async def test_client_is_held_by_events_that_the_relay_changes(kept: Kept) -> None:
    """An item after one that upstream lacks is put elsewhere; it is not acknowledged either."""
    swapped_with_an_absent_item(kept)
    kept.send(type="conversation.item.create", previous_item_id="x", item=PICTURE)
    assert kept.client.reasons == {"journal_full"}
    kept.up(type="conversation.item.added", item=PICTURE, previous_item_id=None)
    assert not kept.client.reasons


async def test_intricate_event_is_not_parsed_behind_a_swap(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold up other sessions. The session goes on without continuity."""
    swapped_with_an_absent_item(kept)
    parsed: list[bytes] = []

    def note(raw: bytes, **_: bool) -> Event:
        parsed.append(raw)
        return {}

    monkeypatch.setattr(interception, "body_of", note)
    kept.send(type="response.create", response={"metadata": {str(key): "" for key in range(20_000)}})
    assert not parsed
    assert kept.kept.continuity.not_renewable == "kept_event_too_intricate"


async def test_next_upstream_is_kept_for_as_the_first_one(kept: Kept) -> None:
    """The client is read, upstream is asked what has arrived, and what was kept for the flush is not counted any more."""
    swapped_with_an_absent_item(kept)
    size, kept.now = kept.kept.kept_bytes, 5.0
    kept.kept.appends.append(AUDIO)
    kept.kept.take_appends()
    assert kept.kept.awaited_pong
    kept.kept.lose_upstream()
    while not kept.client.reasons:
        kept.send(type="some.event", text="x" * 10_000)
    created = json.dumps({"type": "session.created", "session": session_object()}).encode()
    replay = NewUpstream(kept.kept.continuity.start_replay(created, kept.now, is_tolerant=True)).run().replay
    kept.kept.flush(replay, cast("Leg", kept.upstream))
    assert not kept.client.reasons
    kept.upstream.pings.clear()
    kept.kept.appends.append(AUDIO)
    kept.tick(1.0)
    assert kept.kept.continuity.journal.reached_at == kept.now
    assert kept.kept.kept_bytes - size < 10_000
