"""The steps of GPT-Live, from the provider's side and from a client's, against scripted servers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from yarl import URL

from service.doctor import live as module
from service.doctor import relay
from service.doctor.live import CHUNKS, COST
from service.doctor.relay_url import websocket_url
from service.failures import CATALOGUE
from service.settings import Settings
from service.upstream.live_key import UNPROVEN
from tests.support.doctor_chain import ChainReport, run_provider_chain, run_relay_chain
from tests.support.harness import eventually, simulated_relay
from tests.support.live_provider import STARTED, LiveConnection, LiveProvider, Script, closed, converse, refusal
from tests.support.raw_http_server import Exchange, RawHttp, raw_http
from tests.support.raw_websocket_server import ServerConnection

MACHINE = ["files", "settings", "running", "key", "proxy", "dns", "tcp", "tls", "model", "clock"]
ORIGIN = "https://app.example.com"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second of silence takes no second, and what does not come is not awaited for long."""
    monkeypatch.setattr(module, "CHUNK_SECONDS", 0.001)
    monkeypatch.setattr(module, "_CLOSED_SECONDS", 0.3)
    monkeypatch.setattr(module, "_RELAY_ERROR_SECONDS", 0.3)
    monkeypatch.setattr(relay, "_LIVE_START_SECONDS", 3.0)


async def check_provider(
    tmp_path: Path, provider: LiveProvider, *, turn: bool = True, model: str | None = None, seconds: str = "5"
) -> ChainReport:
    """Run the chain to a provider; the output holds none of its text."""
    async with raw_http(provider) as upstream:
        settings = {
            "OPENAI_API_KEY": "sk-proj-" + "a1B2" * 12,
            "OPENAI_BASE_URL": upstream.url,
            "RELAY_DIAL_TIMEOUT_SECONDS": seconds,
        }
        report = await run_provider_chain(settings, tmp_path, turn=turn, live=True, model=model)
    assert "CANARY" not in report.document
    return report


async def test_live_without_turn_starts_no_session(tmp_path: Path) -> None:
    """It attaches to a session that does not exist, and states what that leaves open."""
    provider = LiveProvider(converse)
    report = await check_provider(tmp_path, provider, turn=False)

    assert [*MACHINE, "live_key"] == [result.name for result in report.results]
    assert report.failed_step is None, report.document
    assert UNPROVEN in report.text("live_key")
    assert [] == provider.connections
    assert "gpt-live-1" == json.loads(report.document)["target"]["model"]


async def test_live_turn_runs_a_session_and_reports_its_cost(tmp_path: Path) -> None:
    """Of the session only the model is set; a second of silence follows, then the orderly end."""
    provider = LiveProvider(converse)
    report = await check_provider(tmp_path, provider)

    assert [*MACHINE, "live_key", "live_upgrade", "live_start", "live_close"] == [r.name for r in report.results]
    assert report.failed_step is None, report.document
    assert "session ready: session.started, model gpt-live-1" == report["live_start"].finding
    assert "session.closed: close_requested; 12.0 s used, about 0.0100 USD" == report["live_close"].finding
    assert ["session.start", *["session.input_audio.append"] * CHUNKS, "session.close"] == provider.sent_types
    assert {"type": "session.start", "session": {"model": "gpt-live-1"}} == provider.connections[0].received[0]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        ("401 Unauthorized", json.dumps(refusal("invalid_api_key")).encode(), "key_rejected"),
        ("401 Unauthorized", json.dumps(refusal("missing_authorization")).encode(), "key_missing"),
        ("429 Too Many Requests", json.dumps(refusal("rate_limit_exceeded")).encode(), "rate_limited"),
    ],
)
async def test_refused_key_fails_live_key(tmp_path: Path, status: str, body: bytes, reason: str) -> None:
    """No session is opened after it."""
    provider = LiveProvider(converse, status, body)
    report = await check_provider(tmp_path, provider)

    assert ("live_key", reason) == (report.failed_step, report["live_key"].reason)
    assert report["live_key"].remedy
    assert [] == provider.connections


@pytest.mark.parametrize("body", [b"no page", b"", json.dumps(refusal(None)).encode()], ids=["page", "empty", "error"])
async def test_other_404_decides_only_without_a_session(tmp_path: Path, body: bytes) -> None:
    """A server that is not OpenAI may serve no attach; with `--turn` its session decides."""
    without = await check_provider(tmp_path, LiveProvider(converse, attach_body=body), turn=False)
    report = await check_provider(tmp_path, LiveProvider(converse, attach_body=body))

    assert ("live_key", "wrong_base_url") == (without.failed_step, without["live_key"].reason)
    assert report.failed_step is None, report.document
    assert "warn" == report["live_key"].status
    assert "The step 'live_upgrade' decides." in report.text("live_key")


@pytest.mark.parametrize(
    ("code", "model", "reason", "part"),
    [
        ("forbidden", None, "key_forbidden", "three causes"),
        ("credit_balance_exhausted", None, "quota_exhausted", "Received: credit_balance_exhausted."),
        ("invalid_model", "gpt-realtime", "model_not_found", "Connect to /v1/realtime?model="),
        ("invalid_model", "gpt-live-0", "model_not_found", "such as gpt-live-1"),
        ("unknown_parameter", None, "request_rejected", "session.start"),
    ],
)
async def test_refused_start_fails_live_start(
    tmp_path: Path, code: str, model: str | None, reason: str, part: str
) -> None:
    """By the code of the error event; nothing is sent to a session that did not start."""

    async def refuse(connection: LiveConnection) -> None:
        await connection.read_until("session.start")
        connection.send(refusal(code))
        await connection.read_until("session.close")

    provider = LiveProvider(refuse)
    report = await check_provider(tmp_path, provider, model=model)

    assert ("live_start", reason) == (report.failed_step, report["live_start"].reason)
    assert part in report.text("live_start")
    assert ["session.start"] == provider.sent_types
    assert "skipped" == report["live_close"].status


async def say_nothing(connection: LiveConnection) -> None:
    """Answer no event."""
    await connection.read_until("session.close")


async def close_at_start(connection: LiveConnection) -> None:
    """Abort the connection in place of an answer."""
    await connection.read_until("session.start")
    connection.connection.reset()


@pytest.mark.parametrize(
    ("script", "reason", "sent"),
    [
        (say_nothing, "first_event_timeout", ["session.start", "session.close"]),
        (close_at_start, "dropped_early", ["session.start"]),
    ],
)
async def test_start_without_an_answer_fails_live_start(
    tmp_path: Path, script: Script, reason: str, sent: list[str]
) -> None:
    """A session that may have started is closed, since it may be billed."""
    provider = LiveProvider(script)
    report = await check_provider(tmp_path, provider, seconds="0.5")

    assert ("live_start", reason) == (report.failed_step, report["live_start"].reason)
    assert sent == provider.sent_types


async def end_without_report(connection: LiveConnection) -> None:
    """Start, and reset the connection at `session.close`."""
    await connection.read_until("session.start")
    connection.send(STARTED)
    await connection.read_until("session.close")
    connection.connection.reset()


async def never_end(connection: LiveConnection) -> None:
    """Start, and do not answer `session.close`."""
    await connection.read_until("session.start")
    connection.send(STARTED)
    await connection.read_until("never")


async def expire(connection: LiveConnection) -> None:
    """Start, and end by itself."""
    await connection.read_until("session.start")
    connection.send(STARTED)
    connection.send(closed("expired"))
    await connection.read_until("session.close")


@pytest.mark.parametrize(
    ("script", "reason", "part"),
    [
        (end_without_report, "upstream_lost", "the usage is unconfirmed"),
        (never_end, "upstream_too_slow", "the usage is unconfirmed"),
        (expire, "session_expired", "during the silence: expired"),
    ],
)
async def test_session_without_an_orderly_end_fails_live_close(
    tmp_path: Path, script: Script, reason: str, part: str
) -> None:
    """Each is a reason of the catalogue."""
    report = await check_provider(tmp_path, LiveProvider(script))

    assert ("live_close", reason) == (report.failed_step, report["live_close"].reason)
    assert part in report.text("live_close")


@pytest.mark.parametrize("seconds", [None, True, -1.0, float("inf"), float("nan"), "12"])
async def test_session_without_usage_warns(tmp_path: Path, seconds: float | None) -> None:
    """What the provider does not report is not made up."""

    async def end(connection: LiveConnection) -> None:
        await connection.read_until("session.start")
        connection.send(STARTED)
        await connection.read_until("session.close")
        connection.send(closed("CANARY", seconds))

    report = await check_provider(tmp_path, LiveProvider(end))

    assert "warn" == report["live_close"].status
    assert "an unknown reason; the provider reported no usage" in report["live_close"].finding


async def test_interrupted_session_is_closed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the silence: a socket that just disappears would leave the bill open."""
    monkeypatch.setattr(module, "CHUNK_SECONDS", 30.0)
    provider = LiveProvider(never_end)
    task = asyncio.ensure_future(check_provider(tmp_path, provider))
    await eventually(lambda: "session.input_audio.append" in provider.sent_types)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ["session.start", "session.input_audio.append", "session.close"] == provider.sent_types


async def test_live_on_the_simulator_passes_all_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It knows no session to attach to, and bills the session that it runs."""
    monkeypatch.setattr(module, "_CLOSED_SECONDS", 15.0)
    settings = {"RELAY_UPSTREAM": "simulator", "OPENAI_API_KEY": "sk-sim-good"}
    report = await run_provider_chain(settings, tmp_path, turn=True, live=True)

    assert report.failed_step is None, report.document
    assert "that sessions of GPT-Live start" in report.text("model")
    assert "session.closed: close_requested; " in report["live_close"].finding


async def test_model_of_live_without_the_option_names_it(tmp_path: Path) -> None:
    """The provider refuses the model on the endpoint of the Realtime API."""
    settings = {"RELAY_UPSTREAM": "simulator", "OPENAI_API_KEY": "sk-sim-model-not-found"}
    report = await run_provider_chain(settings, tmp_path, model="gpt-live-1")

    assert ("first_event", "model_not_found") == (report.failed_step, report["first_event"].reason)
    assert "Connect to /v1/live/sessions" in report.text("first_event")
    assert "Run the doctor with --live" in report.text("first_event")


# -- from a client's side ---------------------------------------------------------------------------------------------


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


def test_cost_is_announced_before_a_session_starts() -> None:
    """With the price list's date."""
    assert "billed" in COST
    assert "November 2026" in COST
