"""Clients of GPT-Live that misbehave or leave before `session.started`: nothing of them is left, and no other is refused."""

import asyncio
import json
import time

import pytest

from service.failures import Failure, Phase
from service.realtime.closing import close_payload
from service.realtime.frames import Opcode, build_frame
from service.realtime.scanner import Scanner
from service.relay.live_start import LiveStart
from service.relay.start_reader import ByteBudget, StartReader
from service.relay.watchdog import Probe
from service.web import live as live_pages
from service.web import refusals
from service.wire.leg import Leg
from tests.support.faulty_tcp_proxy import tcp_proxy
from tests.support.harness import RawClient, eventually, open_raw, within
from tests.support.live_upstream import PATH, START, STARTED, LiveUpstream, closed, live_connection
from tests.support.recording_transport import RecordingTransport

AUDIO = {"type": "session.input_audio.append", "audio": "A" * 640}
UNKNOWN_OPCODE = b"\x8f\x80abcd"
TOKENS = {name: name * 32 for name in "abc"}
ACCESS = {
    "RELAY_ACCESS": "tokens",
    "RELAY_CLIENT_TOKENS": ",".join(f"{name}:{token}" for name, token in TOKENS.items()),
}


def bearer(name: str) -> dict[str, str]:
    """The credential of a client."""
    return {"Authorization": f"Bearer {TOKENS[name]}"}


def live_scanner() -> Scanner:
    """That of a client's bytes."""
    return Scanner(masked=True, max_message_bytes=1 << 20, parsed_types=frozenset({"session.start"}))


def incomplete_start(client: RawClient, size: int) -> None:
    """Send the beginning of a `session.start` of a megabyte."""
    client.writer.write(bytes((0x81, 0xFF)) + (1_000_000).to_bytes(8, "big") + bytes(4))
    client.writer.write(b'{"type":"session.start","session":{"instructions":"' + b"a" * size)


async def test_mistakes_of_two_clients_refuse_no_other() -> None:
    """What a client sends behind its start is no answer of the provider, so the breaker does not remember it."""
    upstream = LiveUpstream(on_start=None)
    async with live_connection(upstream, headers=bearer("a"), **ACCESS) as live:
        second = await open_raw(live.relay.app.public_port, PATH, bearer("b"))
        for client in (live.client, second):
            client.writer.write(build_frame(Opcode.TEXT, json.dumps(START).encode(), b"abcd") + UNKNOWN_OPCODE)
            assert "client_protocol_error" == (await client.next_event())["error"]["code"]
        upstream.on_start = dict(STARTED)
        third = await open_raw(live.relay.app.public_port, PATH, bearer("c"))
        third.send_event(**START)

        assert STARTED == await third.next_event()
        for client in (second, third):
            await client.close()


async def test_close_frame_that_meets_the_start_ends_the_session_at_once() -> None:
    """Both arrive within one turn of the event loop; the session is closed upstream and counted once."""
    upstream = LiveUpstream(on_start=None)
    async with live_connection(upstream) as live:
        live.client.send_event(**START)
        await eventually(lambda: bool(upstream.received))
        live.client.send_frame(Opcode.CLOSE, close_payload(1000))
        upstream.send(STARTED)
        time.sleep(0.05)  # noqa: ASYNC251 - the relay's loop does not run until both have arrived
        line = await live.ended()

        assert ("client_closed", True) == (line["reason"], line["usage_confirmed"])
        assert (["session.start", "session.close"], {}) == (upstream.types, live.failures())


@pytest.mark.parametrize("has_started", [False, True])
async def test_close_frame_before_the_session_is_answered_and_the_socket_closed(
    has_started: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client waits for the relay to close the connection (RFC 6455 section 7.1.1)."""
    monkeypatch.setattr(refusals, "_CLOSE_SECONDS", 60.0)
    async with live_connection(LiveUpstream(on_start=None)) as live:
        if has_started:
            live.client.send_event(**START)
            await eventually(lambda: bool(live.upstream.received))
        live.client.send_frame(Opcode.CLOSE, close_payload(1000, "bye"))
        assert (1000, "") == await live.client.until_close()
        assert b"" == await within(live.client.reader.read(), 5)
        assert {("session_start", "client_left", "none"): 1} == live.failures()


@pytest.mark.parametrize("is_hurried", [False, True])
async def test_end_of_a_drain_ends_the_wait_for_the_last_event(
    is_hurried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a start whose client has left: upstream has `session.close`, and answers nothing."""
    monkeypatch.setattr(live_pages, "SETTLE_SECONDS", 60.0)
    upstream = LiveUpstream(on_start=None, on_close=None)
    async with live_connection(upstream) as live:
        live.client.send_event(**START)
        await eventually(lambda: bool(upstream.received))
        live.client.reset()
        await live.failed()
        await eventually(lambda: upstream.types == ["session.start", "session.close"])
        if is_hurried:
            live.relay.app._signals.drain_signals.close_now.set()
        await within(live.relay.app.drain(), 5)
        await eventually(upstream.has_ended.is_set)


async def test_one_client_leaves_half_of_the_memory_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own next start is refused, that of another client passes."""
    monkeypatch.setattr(ByteBudget.__init__, "__defaults__", (200_000,))
    async with live_connection(None, path=PATH, headers=bearer("a"), **ACCESS) as live:
        incomplete_start(live.client, 90_000)
        await live.client.writer.drain()
        greedy = await open_raw(live.relay.app.public_port, PATH, bearer("a"))
        incomplete_start(greedy, 90_000)
        assert "relay_full" == (await greedy.next_event())["error"]["code"]
        other = await open_raw(live.relay.app.public_port, PATH, bearer("b"))
        other.send_event(**START)
        assert STARTED == await other.next_event()
        for client in (greedy, other):
            await client.close()


async def test_early_audio_counts_towards_the_memory_and_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without memory for it a client is not read until its session has started."""
    monkeypatch.setattr(ByteBudget.__init__, "__defaults__", (20_000,))
    upstream = LiveUpstream(on_start=None)
    async with live_connection(upstream) as live:
        live.client.send_event(**START)
        await eventually(lambda: len(upstream.received) == 1)
        for number in range(400):
            live.client.send_event(**AUDIO, event_id=str(number))
        await live.client.writer.drain()
        upstream.send(STARTED)
        assert STARTED == await live.client.next_event()
        await eventually(lambda: len(upstream.received) == 401)
        assert [str(number) for number in range(400)] == [event["event_id"] for event in upstream.received[1:]]


async def test_bytes_behind_a_start_that_has_ended_are_ignored() -> None:
    """They may be delivered between the failure and the next receiver of the leg."""
    leg = Leg(RecordingTransport(), asyncio.Protocol(), b"", masks=False)
    reader = StartReader(leg, Scanner(masked=True, max_message_bytes=1 << 20), ByteBudget(), "a")
    reader.start.cancel()
    reader.receive(b"\x81\x80abcd")
    assert [] == reader.items


async def test_bytes_between_a_start_and_the_session_take_no_budget() -> None:
    """Nothing would give it back, and in time no session could start. The session still gets these bytes."""
    budget = ByteBudget(1000)
    leg = Leg(RecordingTransport(), asyncio.Protocol(), b"", masks=False)
    scanner = live_scanner()
    reader = StartReader(leg, scanner, budget, "a")
    reader.receive(build_frame(Opcode.TEXT, json.dumps(START).encode(), b"abcd"))
    assert reader.start.done()
    reader.give_back()
    reader.receive(build_frame(Opcode.TEXT, b'{"type":"session.update"}', b"abcd"))

    assert reader.items
    for client in ("a", "b"):
        budget.take(client, 500)


async def test_events_behind_a_start_are_kept_up_to_the_limit() -> None:
    """Not all that has been read of them: of the smallest, each takes thirty times its bytes."""
    leg = Leg(RecordingTransport(), asyncio.Protocol(), b"", masks=False)
    reader = StartReader(leg, live_scanner(), ByteBudget(), "a")
    leg.start(reader)
    leg.data_received(build_frame(Opcode.TEXT, json.dumps(START).encode(), b"abcd"))
    leg.data_received(build_frame(Opcode.TEXT, b"{}", b"abcd") * 40_000)
    await eventually(lambda: "no_receiver" in leg._hold_reasons)
    for _ in range(10):
        await asyncio.sleep(0)

    assert 1000 < len(reader.items) < 3000  # an event is two items, of 128 bytes each
    leg.abort()


def test_budget_is_given_back() -> None:
    """Whole, to all and to the client."""
    budget = ByteBudget(100)
    budget.take("a", 50)
    with pytest.raises(Failure) as refused:
        budget.take("a", 1)
    assert ("relay_full", Phase.SESSION_START) == (refused.value.reason, refused.value.phase)
    budget.take("b", 50)
    with pytest.raises(Failure):
        budget.take("c", 1)
    budget.give_back("a", 50)
    budget.take("c", 50)


async def test_pings_before_a_start_take_no_budget() -> None:
    """They are answered and not kept, nor are bytes that the leg takes back."""
    leg = Leg(RecordingTransport(), asyncio.Protocol(), b"", masks=False)
    budget = ByteBudget(10_000)
    reader = StartReader(leg, Scanner(masked=True, max_message_bytes=1 << 20), budget, "a")
    leg.start(reader)
    for _ in range(20):
        leg.data_received(build_frame(Opcode.PING, b"x" * 100, b"abcd") * 300)
    await eventually(lambda: leg.held_since is None)

    assert not reader.start.done()
    budget.take("a", 5000)
    reader.give_back()


@pytest.mark.parametrize("is_sent", [False, True])
async def test_dead_client_of_a_start_gives_way_to_a_reconnect(is_sent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is pinged when the reconnect is refused; without an answer it has left, and the refusal says when."""
    upstream = LiveUpstream(on_start=None)
    settings = {**ACCESS, "RELAY_MAX_SESSIONS_PER_CLIENT": "1"}
    async with live_connection(upstream, headers=bearer("b"), **settings) as live:
        port = live.relay.app.public_port
        async with tcp_proxy(port) as proxy:
            ghost = await open_raw(proxy.port, PATH, bearer("a"))
            if is_sent:
                ghost.send_event(**START)
                await eventually(lambda: bool(upstream.received))
            proxy.stall()
            refused = await open_raw(port, PATH, bearer("a"))
            await refused.close()
            error, seconds = refused.answer.error, refused.answer.headers["Retry-After"]
            assert (429, "too_many_sessions") == (refused.answer.status, error["code"])
            assert int(seconds) - (27 if is_sent else 12) in {0, 1}  # rounded up
            assert f"within {seconds} seconds unless the client answers a ping" in error["remedy"]

            ((start,),) = [found for name, found in live.relay.app.sessions._by_client.items() if name == "a"]
            assert isinstance(start, LiveStart)
            monkeypatch.setattr(Probe, "has_failed", lambda *_: True)
            start._end_if_probe_failed()
            await eventually(lambda: "a" not in live.relay.app.sessions._by_client)
            assert "client_left" in [line["reason"] for line in live.relay.events("upstream.connect_failed")]
            again = await open_raw(port, PATH, bearer("a"))
            assert 101 == again.answer.status
            await again.close()
            proxy.resume()
            await ghost.close()


async def test_live_client_of_a_start_keeps_its_place() -> None:
    """It answers the ping."""
    async with live_connection(
        LiveUpstream(), **ACCESS, RELAY_MAX_SESSIONS_PER_CLIENT="1", headers=bearer("a")
    ) as live:
        port = live.relay.app.public_port
        await (await open_raw(port, PATH, bearer("a"))).close()
        assert Opcode.PING is (await live.client.next_item_or_ping()).opcode
        live.client.send_frame(Opcode.PONG, b"")
        ((start,),) = live.relay.app.sessions._by_client.values()
        assert isinstance(start, LiveStart)
        await eventually(lambda: start.probe_client() is None)
        start._end_if_probe_failed()
        live.client.send_event(**START)
        assert STARTED == await live.client.next_event()


@pytest.mark.parametrize("has_started", [False, True])
async def test_client_at_its_limit_learns_when_its_last_session_is_over(has_started: bool) -> None:
    """A session whose client has left holds its place until its final usage has arrived."""
    upstream = LiveUpstream(on_start=dict(STARTED) if has_started else None, on_close=None)
    settings = {**ACCESS, "RELAY_MAX_SESSIONS_PER_CLIENT": "1"}
    async with live_connection(upstream, headers=bearer("a"), **settings) as live:
        live.client.send_event(**START)
        if has_started:
            await live.client.next_event()
        await eventually(lambda: bool(upstream.received))
        live.client.reset()
        await eventually(lambda: upstream.types == ["session.start", "session.close"])
        refused = await open_raw(live.relay.app.public_port, PATH, bearer("a"))
        await refused.close()
        seconds = refused.answer.headers["Retry-After"]
        assert (429, "too_many_sessions") == (refused.answer.status, refused.answer.error["code"])
        assert 1 <= int(seconds) <= 17
        assert f"it is over within {seconds} seconds" in refused.answer.error["remedy"]
        (line,) = [line for line in live.relay.events("admission.refused") if line["reason"] == "too_many_sessions"]
        assert ("an older session is ending", f"{seconds} s") == (line["detail"], line["lapses_within"])

        upstream.send(closed())
        await eventually(lambda: not live.relay.app.sessions._by_client)
        again = await open_raw(live.relay.app.public_port, PATH, bearer("a"))
        assert 101 == again.answer.status
        await again.close()
