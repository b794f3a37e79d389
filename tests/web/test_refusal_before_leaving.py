"""A client that leaves, or a limit that expires, between a provider's refusal and its end: the refusal is counted."""

import asyncio

import pytest

from service.realtime.closing import close_payload
from service.realtime.frames import Opcode
from service.relay.live_start import LiveStart
from service.upstream import connector, dial, first_event
from tests.support.harness import eventually, open_raw
from tests.support.live_upstream import START, LiveConnection, LiveUpstream, live_connection
from tests.support.raw_http_relay import connect_once, failure_count, raw_http_relay
from tests.support.raw_http_server import PATH, Exchange
from tests.support.series import sum_of_series
from tests.upstream.test_first_event import after_101, refusal, text

NO_CREDIT = {
    "type": "error",
    "error": {"type": "invalid_request_error", "code": "credit_balance_exhausted", "message": "no credits"},
}


def the_start(live: LiveConnection) -> LiveStart:
    """The only session that is about to start."""
    ((start,),) = live.relay.app.sessions._by_client.values()
    assert isinstance(start, LiveStart)
    return start


@pytest.mark.parametrize("leaves_by", ["reset", "close frame", "protocol error"])
@pytest.mark.parametrize("ends_by", ["close frame", "reset"])
async def test_start_that_is_refused_before_its_client_leaves(
    leaves_by: str, ends_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One count, of the provider's reason; the breaker remembers it."""
    monkeypatch.setattr(first_event, "CLOSE_AFTER_ERROR_SECONDS", 60.0)
    async with live_connection(LiveUpstream(on_start=dict(NO_CREDIT))) as live:
        live.client.send_event(**START)
        await eventually(lambda: the_start(live).refusal is not None)
        start, upstream = the_start(live), live.upstream.connection
        match leaves_by:
            case "reset":
                live.client.reset()
            case "close frame":
                live.client.send_frame(Opcode.CLOSE, close_payload(1000))
            case _:
                live.client.writer.write(b"\x8f\x80abcd")
        await eventually(start._reader.left.done)
        assert upstream is not None
        if ends_by == "reset":
            upstream.reset()
        else:
            upstream.send_close(4000)
        line = await live.failed()

        assert ("quota_exhausted", "session_start") == (line["reason"], line["phase"])
        assert [("session_start", "quota_exhausted")] == [key[:2] for key in live.failures()]
        assert ["session.start"] == live.upstream.types
        registry = live.relay.app.metrics.registry
        name = "realtime_relay_live_start_failures_total"
        assert (1, 1) == (sum_of_series(registry, name), sum_of_series(registry, name, reason="quota_exhausted"))
        again = await open_raw(live.relay.app.public_port, "/v1/live/sessions")
        again.send_event(**START)
        assert "quota_exhausted" == (await again.next_event())["error"]["code"]
        assert ["breaker", "session_start"] == sorted(phase for phase, _, _ in live.failures())
        assert 2 == sum_of_series(registry, name, reason="quota_exhausted")
        await again.close()


async def test_dial_that_is_refused_before_its_client_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The `error` event of the Realtime API has arrived, the close frame not yet."""
    monkeypatch.setattr(first_event, "CLOSE_AFTER_ERROR_SECONDS", 60.0)
    seen = asyncio.Event()
    wait_for_close = first_event.FirstEventReader._wait_for_close

    def note(reader: first_event.FirstEventReader, error: object) -> None:
        wait_for_close(reader, error)  # type: ignore[arg-type] # passed on
        seen.set()

    monkeypatch.setattr(first_event.FirstEventReader, "_wait_for_close", note)
    async with raw_http_relay(after_101(text(refusal("invalid_api_key"))), RELAY_DIAL_TIMEOUT_SECONDS="30") as (
        relay,
        upstream,
    ):
        leaving = asyncio.ensure_future(open_raw(relay.app.public_port, PATH))
        await seen.wait()
        leaving.cancel()
        await asyncio.wait([leaving])
        await eventually(lambda: upstream.open == 0)

        assert 1 == failure_count(relay, "key_rejected", "none", "first_event")
        assert 0 == failure_count(relay, "client_left", "none", "first_event")
        assert 424 == (await connect_once(relay)).status
        assert 1 == failure_count(relay, "key_rejected", "none", "breaker")


async def test_refusal_whose_close_frame_is_late_is_no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dial's budget ends between both."""
    monkeypatch.setattr(first_event, "CLOSE_AFTER_ERROR_SECONDS", 60.0)
    async with raw_http_relay(after_101(text(refusal("invalid_api_key"))), RELAY_DIAL_TIMEOUT_SECONDS="1") as (
        relay,
        _,
    ):
        assert (424, "key_rejected") == ((answer := await connect_once(relay)).status, answer.error["code"])


async def test_refusal_whose_body_is_incomplete_when_the_client_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status has arrived."""

    async def refuse(exchange: Exchange) -> None:
        exchange.writer.write(
            b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n"
        )
        await exchange.wait_closed()

    reading = asyncio.Event()

    async def read_body(_: object) -> bytes:
        reading.set()
        await asyncio.Event().wait()
        return b""

    monkeypatch.setattr(dial, "read_body", read_body)
    async with raw_http_relay(refuse, RELAY_DIAL_TIMEOUT_SECONDS="30") as (relay, upstream):
        leaving = asyncio.ensure_future(open_raw(relay.app.public_port, PATH))
        await reading.wait()
        leaving.cancel()
        await asyncio.wait([leaving])
        await eventually(lambda: upstream.open == 0)
        (line,) = relay.events("upstream.connect_failed")
        assert "client_left" != line["reason"]
        assert (401, "upgrade") == (line["upstream_status"], line["phase"])


async def test_refusal_whose_retry_is_due_when_the_client_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has been answered 503, and leaves before the second attempt."""
    monkeypatch.setattr(connector, "RETRY_PAUSE_SECONDS", (20.0, 20.0))

    async def refuse(exchange: Exchange) -> None:
        exchange.answer("503 Service Unavailable", b"{}", Content_Type="application/json")

    async with raw_http_relay(refuse, RELAY_DIAL_TIMEOUT_SECONDS="30") as (relay, _):
        leaving = asyncio.ensure_future(open_raw(relay.app.public_port, PATH))
        await eventually(lambda: relay.metric("realtime_relay_upstream_retries_total") == 1)
        leaving.cancel()
        await asyncio.wait([leaving])
        await eventually(lambda: bool(relay.events("upstream.connect_failed")))
        (line,) = relay.events("upstream.connect_failed")
        assert ("upstream_overloaded", 503) == (line["reason"], line["upstream_status"])


async def test_failures_of_starts_count_dials_and_the_breaker() -> None:
    """Of GPT-Live only: neither sidebands nor the Realtime API start a session of it."""

    async def refuse(exchange: Exchange) -> None:
        exchange.answer("401 Unauthorized", b'{"error":{"code":"invalid_api_key"}}', Content_Type="application/json")

    name = "realtime_relay_live_start_failures_total"
    async with raw_http_relay(refuse) as (relay, _):
        for path, count in (
            (PATH, 0),
            ("/v1/live/sessions/live_u1_A/attach", 0),
            *[("/v1/live/sessions", at) for at in (1, 2)],
        ):
            client = await open_raw(relay.app.public_port, path)
            await client.close()
            assert "key_rejected" == client.answer.error["code"]
            assert count == relay.metric(name, reason="key_rejected")
            assert count == sum_of_series(relay.app.metrics.registry, name)
