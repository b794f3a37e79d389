"""The steps of GPT-Live, from the provider's side and from a client's, against scripted servers."""

import asyncio
import json
from pathlib import Path

import pytest

from service.doctor import live as module
from service.doctor.live import CHUNKS, COST
from service.upstream.live_key import UNPROVEN
from tests.support.doctor_chain import ChainReport, run_provider_chain
from tests.support.harness import eventually
from tests.support.live_provider import STARTED, LiveConnection, LiveProvider, Script, closed, converse, refusal
from tests.support.raw_http_server import raw_http

MACHINE = ["files", "settings", "running", "key", "proxy", "dns", "tcp", "tls", "model", "clock"]
ORIGIN = "https://app.example.com"
pytestmark = pytest.mark.usefixtures("short_live_waits")


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


def test_cost_is_announced_before_a_session_starts() -> None:
    """With the price list's date."""
    assert "billed" in COST
    assert "November 2026" in COST
