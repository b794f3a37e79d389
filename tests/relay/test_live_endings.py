"""How GPT-Live sessions end: what upstream gets, whether the usage is confirmed, and one count for each ending."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from service.failures import CATALOGUE
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode
from service.relay import live_call
from tests.support.harness import KEY_CANARY, eventually, within
from tests.support.live_upstream import LiveConnection, LiveUpstream, closed, live_session

AUDIO = {"type": "session.input_audio.append", "audio": "A" * 640}
Cause = Callable[[LiveConnection], Awaitable[None]]


async def close_event(live: LiveConnection) -> None:
    """The client ends the session in the way of the API."""
    live.client.send_event(type="session.close")


async def close_frame(live: LiveConnection) -> None:
    """The client closes its socket."""
    live.client.send_frame(Opcode.CLOSE, close_payload(1000))


async def fin(live: LiveConnection) -> None:
    """The client closes its side of the connection."""
    live.client.writer.write_eof()


async def reset(live: LiveConnection) -> None:
    """The client disconnects while it speaks."""
    live.client.send_event(**AUDIO)
    live.client.reset()


async def drain(live: LiveConnection) -> None:
    """The relay stops."""
    await asyncio.gather(live.relay.app.drain(), live.client.answer_close())


async def operator(live: LiveConnection) -> None:
    """The relay ends the session."""
    next(iter(live.relay.app.sessions)).end("ended_by_operator")


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (close_event, "client_closed"),
        (close_frame, "client_closed"),
        (fin, "client_lost"),
        (reset, "client_lost"),
        (drain, "relay_draining"),
        (operator, "ended_by_operator"),
    ],
)
async def test_end_closes_the_session_upstream_and_reads_its_usage(cause: Cause, reason: str) -> None:
    """Upstream gets one `session.close` and no other event behind it; the final usage is counted once."""
    async with live_session() as live:
        await cause(live)
        line = await live.ended()

        assert (reason, True, 13.0) == (line["reason"], line["usage_confirmed"], line["usage_seconds"])
        assert "live_u2_ABC" == line["upstream_session_id"]
        assert ("session.close", 1) == (live.upstream.types[-1], live.upstream.types.count("session.close"))
        assert 13.0 == live.relay.metric("realtime_relay_billed_seconds_total", model="gpt-live-1", kind="active")
        assert 1 == live.relay.metric("realtime_relay_sessions_ended_total", reason=reason, api="live")
        assert 1 == live.relay.metric("realtime_relay_live_final_usage_total", result="confirmed")
        assert {} == live.failures()


@pytest.mark.parametrize("cause", [close_frame, reset, operator])
async def test_usage_is_unconfirmed_without_an_answer(cause: Cause, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay waits for the answer as long as the provider may take, then closes the socket."""
    monkeypatch.setattr(live_call, "SETTLE_SECONDS", 0.2)
    async with live_session(LiveUpstream(on_close=None)) as live:
        live.upstream.send({"type": "session.usage.updated", "usage": {"seconds": 5.0}})
        await live.client.next_event()
        await cause(live)
        line = await live.ended()

        assert (False, 5.0) == (line["usage_confirmed"], line["usage_seconds"])
        assert "session.close" == live.upstream.types[-1]
        assert 1 == live.relay.metric("realtime_relay_live_final_usage_total", result="unconfirmed")
        assert 5.0 == live.relay.metric("realtime_relay_billed_seconds_total", model="gpt-live-1", kind="active")


async def test_lost_upstream_leaves_the_usage_unconfirmed() -> None:
    """Nothing can be sent any more."""
    async with live_session() as live:
        assert live.upstream.connection is not None
        live.upstream.connection.reset()
        assert "upstream_lost" == (await live.client.next_event())["error"]["code"]
        line = await live.ended()

        assert ("upstream_lost", False) == (line["reason"], line["usage_confirmed"])
        assert ["session.start"] == live.upstream.types


@pytest.mark.parametrize(
    ("closed_reason", "has_audio", "reason", "is_explained"),
    [
        ("close_requested", True, "client_closed", False),
        ("expired", True, "session_expired", False),
        ("expired", False, "no_input_audio", True),
        ("content", True, "content_filtered", True),
        ("remote_hangup", True, "remote_hangup", False),
        ("connection_lost", True, "upstream_lost", True),
        ("a_new_reason", True, "upstream_closed", False),
    ],
)
@pytest.mark.parametrize("sends_close", [True, False])
async def test_reason_of_session_closed_becomes_the_ending(
    closed_reason: str, has_audio: bool, reason: str, is_explained: bool, sends_close: bool
) -> None:
    """The client gets the event unchanged, then the relay's explanation where the reason needs one, then a close frame."""
    async with live_session() as live:
        if has_audio:
            live.client.send_event(**AUDIO)
            await eventually(lambda: len(live.upstream.received) > 1)
        event = closed(closed_reason)
        live.upstream.send(event)
        assert live.upstream.connection is not None
        if sends_close:
            live.upstream.connection.send_close(1000)
        else:
            live.upstream.connection.writer.close()
        line = await live.ended()
        assert event == await live.client.next_event()
        explanation = await live.client.next_event()
        code = await live.client.until_close()

        assert is_explained == (explanation is not None)
        if is_explained:
            assert (reason, CATALOGUE[reason].remedy) == (
                explanation["error"]["code"],
                explanation["error"]["remedy"],
            )
        assert (1000, "") == code
        assert (reason, True) == (line["reason"], line["usage_confirmed"])
        assert "session.close" not in live.upstream.types


async def test_unknown_reason_of_session_closed_is_redacted() -> None:
    """It can be any text of the provider, such as one with the relay's key."""
    async with live_session() as live:
        live.upstream.send(closed(f"the key {KEY_CANARY} was revoked"))

        assert closed("the key [redacted] was revoked") == await live.client.next_event()


async def test_socket_that_stays_open_after_session_closed_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider is expected to close it."""
    monkeypatch.setattr(live_call, "CLOSED_SECONDS", 0.1)
    async with live_session() as live:
        live.upstream.send(closed())
        assert "client_closed" == (await live.ended())["reason"]
        assert "session.closed" == (await live.client.next_event())["type"]
        assert (1000, "") == await live.client.until_close()


async def test_client_that_is_cut_inside_a_frame_ends_without_session_close() -> None:
    """No event can be sent inside another one: upstream is aborted, and the usage unconfirmed."""
    async with live_session() as live:
        fixture = b'{"type":"session.output_audio.fixture.play","audio":"' + b"A" * 200_000
        live.client.writer.write(bytes((0x81, 0xFF)) + (300_000).to_bytes(8, "big") + bytes(4) + fixture)
        await live.client.writer.drain()
        session = next(iter(live.relay.app.sessions))
        await eventually(lambda: session._to_upstream.forwarded_bytes > 100_000)
        live.client.reset()
        line = await live.ended()

        assert ("client_lost", False) == (line["reason"], line["usage_confirmed"])
        assert ["session.start"] == live.upstream.types


async def test_second_signal_sends_session_close_and_aborts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for the answer."""
    monkeypatch.setattr("service.relay.drain.FAST_CLOSE_SECONDS", 0.2)
    async with live_session(LiveUpstream(on_close=None), RELAY_DRAIN_SECONDS="60") as live:
        live.relay.app._signals.drain_signals.close_now.set()
        await live.relay.app.drain()
        line = await live.ended()

        assert ("relay_draining", False) == (line["reason"], line["usage_confirmed"])
        await within(live.upstream.has_ended.wait(), 5)
        assert ["session.start", "session.close"] == live.upstream.types
