"""The doctor's steps of GPT-Live through a relay."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from yarl import URL

from service.doctor import live as module
from service.doctor.relay_url import websocket_url
from service.failures import CATALOGUE
from service.settings import Settings
from tests.doctor.test_live import ORIGIN
from tests.support.doctor_chain import run_relay_chain
from tests.support.harness import eventually, simulated_relay
from tests.support.live_provider import LiveConnection, LiveProvider, Script, converse, refusal
from tests.support.raw_http_server import Exchange, RawHttp, raw_http
from tests.support.raw_websocket_server import ServerConnection

pytestmark = pytest.mark.usefixtures("short_live_waits")


@asynccontextmanager
async def relay_like(script: Script, refused: tuple[str, bytes] | None = None) -> AsyncIterator[RawHttp]:
    """A server that answers as a relay does: with a script after the 101, or with a refusal."""
    provider = LiveProvider(script)

    async def answer(exchange: Exchange) -> None:
        if refused is not None:
            exchange.answer(refused[0], refused[1], Content_Type="application/json")
            return
        if exchange.header("Origin"):
            exchange.upgrade(
                headers="Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Protocol: realtime\r\n"
            )
            await script(LiveConnection(ServerConnection(exchange.reader, exchange.writer, exchange.head)))
            return
        await provider(exchange)

    async with raw_http(answer) as upstream:
        yield upstream


def relay_error(reason: str) -> dict[str, object]:
    """The relay's error object in an event or a body."""
    row = CATALOGUE[reason]
    error = {"type": "relay_error", "code": reason, "message": row.sentence, "remedy": "Do what the relay advises."}
    return {"type": "error", "error": error | {"session_id": "0123456789abcdef"}}


RELAY_STEPS = ["address", "dns", "tcp", "tls", "relay", "upgrade", "origin", "token", "live_key", "round_trip"]


@pytest.mark.parametrize("origin", [None, ORIGIN])
@pytest.mark.parametrize("turn", [False, True])
async def test_live_through_a_relay_passes_all_steps(origin: str | None, *, turn: bool) -> None:
    """Without `--turn` no session is started."""
    async with relay_like(converse) as server:
        report = await run_relay_chain(server.url, turn=turn, live=True, origin=origin)

    assert report.failed_step is None, report.document
    assert RELAY_STEPS + ["live_start", "live_close"] * turn == [result.name for result in report.results]
    assert server.heads[0].startswith("GET /v1/live/sessions HTTP/1.1")
    if turn:
        assert "12.0 s used" in report["live_close"].finding


@pytest.mark.parametrize("origin", [None, ORIGIN])
async def test_refusal_of_the_relay_fails_live_key(origin: str | None) -> None:
    """By HTTP status, or to a browser by event."""

    async def refuse(connection: LiveConnection) -> None:
        connection.send(relay_error("key_rejected"))
        connection.connection.send_close(3000)

    body = json.dumps(relay_error("key_rejected")).encode()
    async with relay_like(refuse, None if origin else ("424 Failed Dependency", body)) as server:
        report = await run_relay_chain(server.url, live=True, origin=origin)

    assert ("live_key", "key_rejected") == (report.failed_step, report["live_key"].reason)
    assert "Do what the relay advises." in report.text("live_key")


@pytest.mark.parametrize("explains", [True, False])
async def test_refused_start_behind_the_relay_fails_live_start(*, explains: bool) -> None:
    """The relay's own error follows that of the provider; without one the doctor translates the code itself."""

    async def refuse(connection: LiveConnection) -> None:
        await connection.read_until("session.start")
        connection.send(refusal("credit_balance_exhausted"))
        if explains:
            connection.send(relay_error("quota_exhausted"))
        connection.connection.send_close(1008)

    async with relay_like(refuse) as server:
        report = await run_relay_chain(server.url, turn=True, live=True)

    assert ("live_start", "quota_exhausted") == (report.failed_step, report["live_start"].reason)
    assert ("Do what the relay advises." in report.text("live_start")) is explains
    assert "CANARY" not in report.document


@pytest.mark.parametrize(
    ("scenario", "step", "reason"),
    [
        ("good", None, None),
        ("key-rejected", "live_key", "key_rejected"),
        ("key-forbidden", "live_start", "key_forbidden"),
        ("quota-exhausted", "live_start", "quota_exhausted"),
        ("drop", "live_start", "dropped_early"),
        ("drop-mid", "live_close", "upstream_lost"),
        ("live-content", "live_close", "content_filtered"),
    ],
)
async def test_live_through_a_running_relay_has_its_reason(
    scenario: str, step: str | None, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason that the relay logs; its session_id finds the line."""
    monkeypatch.setattr(module, "_CLOSED_SECONDS", 15.0)
    async with simulated_relay(OPENAI_API_KEY=f"sk-sim-{scenario}") as running:
        report = await run_relay_chain(running.url, turn=True, live=True)

        assert step == report.failed_step, report.document
        if step is None:
            assert "session.closed: close_requested" in report["live_close"].finding
            await eventually(lambda: running.events("session.ended"))
            assert running.events("session.ended")[0]["usage_confirmed"] is True
        else:
            assert reason == report[step].reason


async def test_relay_without_live_is_named() -> None:
    """The operator has switched it off."""
    async with simulated_relay(RELAY_LIVE="off") as running:
        report = await run_relay_chain(running.url, live=True)

    assert ("live_key", "live_disabled") == (report.failed_step, report["live_key"].reason)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://r", "http://r/v1/live/sessions"),
        ("ws://r/v1", "http://r/v1/live/sessions"),
        ("wss://r/v1/realtime?model=x", "https://r/v1/live/sessions?model=x"),
        ("https://r/openai/v1/live/sessions", "https://r/openai/v1/live/sessions"),
        ("https://r/gateway/realtime", "https://r/gateway/live/sessions"),
    ],
)
def test_url_of_the_relay_leads_to_live(url: str, expected: str) -> None:
    """The model is not added: GPT-Live has it in `session.start`."""
    assert expected == str(websocket_url(URL(url), Settings().model, with_live=True))
