"""What a GPT-Live session keeps, counts and sends while it goes on, and when both sides end it together."""

import asyncio
import dataclasses
import gc
import json

import pytest

from service.failures import CATALOGUE
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner_items import Chunk, Message
from service.relay.session import Session
from service.wire.leg import WRITE_HIGH_BYTES
from tests.support.harness import eventually
from tests.support.live_upstream import MODEL, START, STARTED, LiveUpstream, closed, live_connection, live_session

AUDIO = {"type": "session.input_audio.append", "audio": "A" * 640}


async def has_read(session: Session, frames: int) -> None:
    """Wait until a session has read this number of its client's frames."""
    await eventually(lambda: session._to_upstream.totals()[1] >= frames, 20)


async def test_refused_events_of_a_client_that_reads_nothing_fill_no_memory() -> None:
    """Each is answered with an event, twenty times as large, as long as the client reads them."""
    async with live_session() as live:
        session = next(iter(live.relay.app.sessions))
        session._watch._limits = dataclasses.replace(session._watch._limits, slow_seconds=600.0)  # of a busy machine
        live.client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        starts = build_frame(Opcode.TEXT, json.dumps(START).encode(), b"abcd") * 1000
        for count in range(1, 31):
            live.client.writer.write(starts)
            await has_read(session, count * 1000)
            assert session._client.buffered_bytes < 4 * WRITE_HIGH_BYTES
        assert 30_000 == live.relay.metric("realtime_relay_live_events_refused_total", reason="start_repeated")
        live.client.reset()


async def test_refused_events_count_towards_the_rate_of_the_client() -> None:
    """A flood of them ends the session like any other."""
    async with live_session(RELAY_MAX_MESSAGES_PER_SECOND="100") as live:
        live.client.writer.write(build_frame(Opcode.TEXT, json.dumps(START).encode(), b"abcd") * 2000)
        assert (1008, CATALOGUE["rate_exceeded"].close_text) == await live.client.until_close()
        live.client.reset()
        assert "rate_exceeded" == (await live.ended())["reason"]


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(
    ("closed_reason", "reason"),
    [
        ("close_requested", "client_closed"),
        ("expired", "no_input_audio"),
        ("content", "content_filtered"),
        ("connection_lost", "upstream_lost"),
        ("a_new_reason", "upstream_closed"),
    ],
)
async def test_client_that_closes_at_session_closed_does_not_hide_the_reason(
    closed_reason: str, reason: str, resets: bool
) -> None:
    """Clients close as soon as they have read it, often before the provider does."""
    async with live_session() as live:
        live.upstream.send(closed(closed_reason))
        assert "session.closed" == (await live.client.next_event())["type"]
        if resets:
            live.client.reset()
        else:
            live.client.send_frame(Opcode.CLOSE, close_payload(1000))
            assert (1000, "") == await live.client.until_close()
        line = await live.ended()

        assert (reason, True) == (line["reason"], line["usage_confirmed"])
        assert ["session.start"] == live.upstream.types


async def test_client_that_leaves_after_session_close_needs_no_second_one() -> None:
    """Its own is still being answered: delegated work delays the last event by seconds."""
    async with live_session(LiveUpstream(on_close=None)) as live:
        live.client.send_event(type="session.close")
        await eventually(lambda: "session.close" in live.upstream.types)
        session = next(iter(live.relay.app.sessions))
        live.client.send_frame(Opcode.CLOSE, close_payload(1000))
        assert (1000, "") == await live.client.until_close()
        await eventually(session._ended.done)
        live.upstream.send(closed())
        line = await live.ended()

        assert ("client_closed", True) == (line["reason"], line["usage_confirmed"])
        assert ["session.start", "session.close"] == live.upstream.types


async def test_session_keeps_neither_its_start_nor_early_audio() -> None:
    """A session may last two hours; both are large, and the start holds instructions."""
    upstream = LiveUpstream(on_start=None)
    async with live_connection(upstream) as live:
        instructions = "I" * 100_000
        live.client.send_event(type="session.start", session={"model": MODEL, "instructions": instructions})
        for _ in range(50):
            live.client.send_event(**AUDIO)
        await eventually(lambda: bool(upstream.received))
        upstream.received.clear()
        upstream.send(STARTED | {"session": {"id": "live_u2_A", "instructions": instructions}})
        assert "session.started" == (await live.client.next_event())["type"]
        await eventually(lambda: len(upstream.received) == 50)
        await asyncio.sleep(0)
        kept = [item for item in gc.get_objects() if isinstance(item, Message | Chunk)]

        assert [] == [len(item.raw) for item in kept if len(item.raw) > 500]


async def test_usage_of_a_session_that_its_client_did_not_wait_for_is_counted() -> None:
    """The provider bills it all the same; no session has ended."""
    upstream = LiveUpstream(on_start=None)
    async with live_connection(upstream) as live:
        live.client.send_event(**START)
        await eventually(lambda: bool(upstream.received))
        live.client.reset()
        await live.failed()
        await eventually(upstream.has_ended.is_set)

        assert 13.0 == live.relay.metric("realtime_relay_billed_seconds_total", model=MODEL, kind="active")
        await eventually(lambda: not len(live.relay.app.dials))
        assert 1 == live.relay.metric("realtime_relay_live_final_usage_total", result="confirmed")
        assert 0 == live.relay.metric("realtime_relay_live_final_usage_total", result="unconfirmed")
        assert {("session_start", "client_left", "none"): 1} == live.failures()


@pytest.mark.parametrize("kind", ["session.output_audio.delta", "a.new.event", "response.event", "session.updated"])
async def test_large_event_of_the_provider_passes(kind: str) -> None:
    """A picture that a delegated tool makes is nested in `response.event`, which the relay reads where it is small."""
    async with live_session() as live:
        nested = {"type": "response.image_generation_call.partial_image", "partial_image_b64": "A" * (4 << 20)}
        for event in ({"type": kind, "event": nested}, closed()):
            live.upstream.send(event)
            assert event == await live.client.next_event()


async def test_large_start_and_its_echo_pass() -> None:
    """Instructions, history and tools come in one frame, and come back in another."""
    session = {"model": MODEL, "instructions": "I" * 1_500_000}
    started = {"type": "session.started", "session": {"id": "live_u2_A"} | session}
    async with live_connection(LiveUpstream(on_start=started)) as live:
        live.client.send_event(type="session.start", session=session)
        assert started == await live.client.next_event()
        live.client.send_event(audio="A" * 1_920_000, type="session.output_audio.fixture.play")
        await eventually(lambda: len(live.upstream.received) == 2)
        live.client.send_frame(Opcode.CLOSE, close_payload(1000))
        assert "client_closed" == (await live.ended())["reason"]


@pytest.mark.parametrize("allowed", ["", MODEL])
async def test_event_that_is_too_large_to_be_read_is_explained(allowed: str) -> None:
    """With the limit, and where to put the type; nothing of it reaches upstream."""
    async with live_session(RELAY_ALLOWED_MODELS=allowed) as live:
        live.client.send_event(audio="A" * (2 << 20), type="session.update")
        await live.ended()
        remedy = (await live.client.next_event())["error"]["remedy"]
        assert (1009, CATALOGUE["message_too_big"].close_text) == await live.client.until_close()

        assert remedy.startswith(
            "A message over 2 MiB, or in thousands of fragments, is an event that the relay has to read"
        )
        assert ["session.start", "session.close"] == live.upstream.types


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16", "utf-32-be"])
@pytest.mark.parametrize("size", [0, 100_000])
async def test_other_encoding_hides_no_model(opcode: Opcode, encoding: str, size: int) -> None:
    """JSON parsers detect it; as text it is valid UTF-8 with NULs between the letters."""
    update = {"type": "session.update", "session": {"delegation": {"responses": {"model": "gpt-x"}}}, "x": "A" * size}
    async with live_session(RELAY_ALLOWED_MODELS=MODEL) as live:
        live.client.send_frame(opcode, json.dumps(update).encode(encoding))
        assert "start_invalid" == (await live.client.next_event())["error"]["code"]
        live.client.send_event(**AUDIO)
        await eventually(lambda: live.upstream.types == ["session.start", AUDIO["type"]])
