"""A client whose old connection is dead, behind a proxy that still acknowledges, reconnects at its session limit."""

import asyncio
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.failures import CATALOGUE
from service.realtime.frames import Opcode, build_frame
from service.relay import session_watch
from service.relay.closing_sides import LOST_CLIENT_CLOSE_SECONDS
from service.relay.session import Session
from service.relay.watchdog import ACK_ONLY_SECONDS, Lapse, Probe, SessionLimits, seconds_until_lost
from service.wire.leg import Leg
from service.wire.signs_of_life import MIN_PROGRESS_BYTES
from tests.relay.test_watchdog import LegState
from tests.support.faulty_tcp_proxy import tcp_proxy
from tests.support.frame_reader import pause_reading
from tests.support.harness import eventually, open_raw
from tests.support.raw_frames import PATH, recorded_relay
from tests.support.raw_websocket_server import CREATED, ServerConnection
from tests.support.scripted_upstream import scripted_relay

ANN: Final = {"Authorization": "Bearer CANARY1token-abcdefghij"}
TOKENS: Final = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": "ann:CANARY1token-abcdefghij"}
ACCESS: Final = {"tokens": TOKENS, "open": {"RELAY_ACCESS": "open"}}
LIMITS: Final = SessionLimits(max_message_bytes=1 << 20)
ORDINARY: Final = CATALOGUE["too_many_sessions"].remedy
WITHIN: Final = "within 12 seconds unless the client answers a ping"


async def refused(port: int) -> Any:
    """The answer to another connection of the client, which the relay refuses."""
    client = await open_raw(port, PATH, ANN)
    await client.close()
    assert (429, "too_many_sessions") == (client.answer.status, client.answer.error["code"])
    return client.answer


async def test_probe_of_a_session_that_is_closing_or_closed_fails_no_refusal() -> None:
    """The socket of its client is gone before the session is, and both sides are closed before its place is free."""
    async with recorded_relay(RELAY_MAX_SESSIONS_PER_CLIENT="1", **TOKENS) as recorded:
        relay = recorded.relay
        client = await open_raw(relay.app.public_port, PATH, ANN)
        await client.next_event()
        session = next(iter(relay.app.sessions))
        assert session._client.acknowledged_bytes > 0
        sock = session._client._transport.get_extra_info("socket")
        session._client._transport.abort()
        await eventually(lambda: sock.fileno() < 0)
        assert 0 == session._client.acknowledged_bytes
        session.probe_client()
        await eventually(lambda: session._is_closed)

        assert Lapse(0.0, is_ending=True) == session.probe_client()
        await client.close()


@pytest.mark.parametrize("access", ACCESS)
async def test_dead_connection_gives_way_to_a_reconnect(access: str) -> None:
    """Its client is refused, learns when it can return, and is admitted then; upstream is closed. No ping is sent twice."""
    async with recorded_relay(RELAY_MAX_SESSIONS_PER_CLIENT="1", **ACCESS[access]) as recorded:
        relay, port = recorded.relay, recorded.relay.app.public_port
        async with tcp_proxy(port) as proxy:
            ghost = await open_raw(proxy.port, PATH, ANN)
            await ghost.next_event()
            session = next(iter(relay.app.sessions))
            proxy.stall()

            answers = [await refused(port) for _ in range(3)]
            assert session._watch._prober.last is not None
            sent_at = session._watch._prober.last.sent_at
            assert "12" == answers[0].headers["Retry-After"]
            for answer, line in zip(answers, relay.events("admission.refused"), strict=True):
                seconds = answer.headers["Retry-After"]
                assert f"within {seconds} seconds unless the client answers a ping" in answer.error["remedy"]
                assert (answer.error["remedy"], f"{seconds} s") == (line["remedy"], line["lapses_within"])
                assert int(seconds) <= 12
            assert sent_at == session._watch._prober.last.sent_at

            session._watch._limits = SessionLimits(max_message_bytes=1 << 20, probe_seconds=0)
            session._watch.quiet_until = 0.0
            session.tick()
            assert session._ended.done()
            lapse = relay.app.sessions.probe_client(session.info.limited_as)
            assert lapse is not None
            assert lapse.is_ending
            assert 0 < lapse.seconds <= LOST_CLIENT_CLOSE_SECONDS
            await eventually(lambda: bool(relay.events("session.ended")))
            assert "client_lost" == relay.events("session.ended")[0]["reason"]
            await recorded.records[0].finished.wait()
            assert (1001, "") == recorded.records[0].close
            await eventually(lambda: not len(relay.app.sessions))
            client, _ = await recorded.open(ANN)
            assert 101 == client.answer.status
            proxy.resume()
            await ghost.close()


async def test_live_connection_keeps_its_session() -> None:
    """A client that answers the ping is asked to close a session; the next ping is sent after `probe_seconds`."""
    async with recorded_relay(RELAY_MAX_SESSIONS_PER_CLIENT="1", **TOKENS) as recorded:
        relay, port = recorded.relay, recorded.relay.app.public_port
        client, _ = await recorded.open(ANN)
        session = next(iter(relay.app.sessions))
        assert WITHIN in (await refused(port)).error["remedy"]
        assert Opcode.PING is (await client.next_item_or_ping()).opcode
        client.send_frame(Opcode.PONG, b"")
        await eventually(lambda: is_answered(session))

        answer = await refused(port)
        assert ORDINARY == answer.error["remedy"]
        assert 1 <= int(answer.headers["Retry-After"]) <= 5
        session._watch._limits = SessionLimits(max_message_bytes=1 << 20, probe_seconds=0)
        session._watch.quiet_until = 0.0
        session.tick()
        assert not session._ended.done()
        session._watch._limits = LIMITS
        session._watch.quiet_until = 0.0


def is_answered(session: Session) -> bool:
    """Whether the client has answered the last probe."""
    return session._watch._prober.last is not None and session._watch._prober.last.is_answered(session._client)


AUDIO: Final = b'{"type":"response.output_audio.delta","delta":"AAAA"}'
SECONDS: Final = st.integers(0, 200)


@given(SECONDS, SECONDS, st.none() | SECONDS, st.booleans(), st.sampled_from((0, MIN_PROGRESS_BYTES)))
def test_only_a_silent_client_that_is_read_and_reads_nothing_fails_a_probe(
    probed: int, received: int, full: int | None, held: bool, acknowledged: int
) -> None:
    """And its refusals name a bound that no later one exceeds, never more than that of a proxy that acknowledges."""
    now = 1000.0
    client = LegState(
        held_since=now if held else None,
        full_since=None if full is None else now - full,
        last_received_at=now - received,
        acknowledged_bytes=acknowledged,
    )
    leg, probe = cast("Leg", client), Probe(now - probed, 0)
    failed = probe.has_failed(now, leg, LIMITS.probe_seconds)
    lapse = seconds_until_lost(now, leg, probe, LIMITS)

    is_read_and_reads_nothing = not (held or full is not None or acknowledged)
    assert failed is (probed >= LIMITS.probe_seconds and received > probed and is_read_and_reads_nothing)
    assert (lapse is None) is (received <= probed or held)
    if lapse is not None:
        assert 0 <= lapse <= ACK_ONLY_SECONDS
        assert not failed or lapse == 0
        later = seconds_until_lost(now + 1, leg, probe, LIMITS)
        assert later is not None
        assert later <= lapse
    assert LIMITS.probe_seconds + LOST_CLIENT_CLOSE_SECONDS <= 12


async def test_client_that_acknowledges_speech_and_sends_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it acknowledges, after `ACK_ONLY_SECONDS`; upstream, which sends, is not the one that is lost."""
    async with recorded_relay() as recorded:
        client, record = await recorded.open()
        session = next(iter(recorded.relay.app.sessions))
        monkeypatch.setattr("service.relay.watchdog.ACK_ONLY_SECONDS", 0.1)
        session._watch.quiet_until = 0.0
        while not session._ended.done():
            record.connection.send(AUDIO)
            await client.next_item()
            session.tick()
        assert "client_lost" == session._ended.result().reason
        await record.finished.wait()
        assert (1001, "") == record.close


async def test_client_that_disconnects_while_it_is_not_read_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its FIN waits behind bytes for which there is no room: only RST, as the answer to a ping, shows that it has gone."""
    monkeypatch.setattr(session_watch, "HELD_PING_SECONDS", 0.05)
    is_over = asyncio.Event()

    async def deaf(connection: ServerConnection) -> None:
        pause_reading(connection)
        connection.send(CREATED)
        await is_over.wait()

    async with scripted_relay(deaf) as (relay, _):
        client = await open_raw(relay.app.public_port, "/v1/realtime?model=scripted")
        await client.next_event()
        [session] = relay.app.sessions
        client.writer.write(
            16 * build_frame(Opcode.TEXT, b'{"type":"input_audio_buffer.append"}' + bytes(1 << 20), b"key1")
        )
        await eventually(lambda: session._client.held_since is not None)
        unsent: list[int] = []

        def is_full() -> bool:
            unsent.append(client.writer.transport.get_write_buffer_size())
            return len(unsent) > 10 and unsent[-10] == unsent[-1] > 0

        await eventually(is_full)
        assert not session._client.peer_disconnected()
        client.writer.transport.abort()
        await eventually(session._ended.done, 5)
        is_over.set()
        await client.close()

        await eventually(lambda: bool(relay.events("session.ended")))
        assert "client_lost" == relay.events("session.ended")[0]["reason"]
