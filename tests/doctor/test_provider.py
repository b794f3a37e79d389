"""The steps that send requests to the provider, against the simulator's scenarios and a scripted upstream."""

from pathlib import Path

import pytest

from service.doctor.response_check import COST
from service.simulator import Simulator, SimulatorOptions
from tests.support.doctor_chain import http_response, run_provider_chain, tcp_server
from tests.support.raw_websocket_server import CREATED, ServerConnection, raw_upstream

SIMULATED = {"RELAY_UPSTREAM": "simulator"}
SHORT = {"RELAY_DIAL_TIMEOUT_SECONDS": "0.3"}
"""For a dial that is to time out: on a busy machine others must not."""
STEPS = [
    "files", "settings", "running", "key", "proxy", "dns", "tcp", "tls", "model", "clock", "upgrade", "first_event"
]  # fmt: skip


@pytest.mark.parametrize(
    ("scenario", "step", "reason", "received"),
    [
        ("key-rejected", "model", "key_rejected", "HTTP 401, invalid_api_key"),
        ("close-only", "model", "key_rejected", "HTTP 401, invalid_api_key"),
        ("key-missing", "first_event", "key_missing", "close code 3000"),
        ("key-forbidden", "first_event", "key_forbidden", "close code 3000"),
        ("quota-exhausted", "first_event", "quota_exhausted", "close code 1013, credit_balance_exhausted"),
        ("model-not-found", "first_event", "model_not_found", "close code 4004, model_not_found"),
        ("invalid-model", "first_event", "model_not_found", "close code 4000, invalid_model"),
        ("beta-shape", "first_event", "beta_shape", "close code 4000, beta_api_shape_disabled"),
        ("overloaded", "first_event", "upstream_overloaded", "close code 1013"),
        ("rate-limited-inband", "first_event", "rate_limited", "close code 1013, rate_limit_exceeded"),
        ("drop", "first_event", "dropped_early", ""),
        ("hang", "first_event", "first_event_timeout", ""),
        ("hang-before-101", "model", "reply_timeout", ""),
        ("http-401", "model", "key_rejected", "HTTP 401, invalid_api_key"),
        ("http-403-geo", "upgrade", "region_blocked", "HTTP 403, unsupported_country_region_territory"),
        ("http-429-quota", "upgrade", "quota_exhausted", "HTTP 429, insufficient_quota"),
        ("http-429", "upgrade", "rate_limited", "HTTP 429"),
        ("http-520-html", "upgrade", "upstream_error", "HTTP 520"),
        ("redirect", "upgrade", "redirect_refused", "HTTP 302"),
        ("no-upgrade", "upgrade", "bad_reply", "HTTP 200"),
        ("wrong-accept", "upgrade", "bad_reply", "HTTP 101"),
    ],
)
async def test_failure_fails_its_step_with_its_reason(
    tmp_path: Path, scenario: str, step: str, reason: str, received: str
) -> None:
    """The result has reason, anchor, remedy and what the provider sent; no later step runs."""
    environ = SIMULATED | (SHORT if "hang" in scenario else {})
    report = await run_provider_chain(environ | {"OPENAI_API_KEY": f"sk-sim-{scenario}"}, tmp_path)

    assert (step, reason) == (report.failed_step, report[step].reason)
    assert f"docs/failures.md#{reason}" == report[step].anchor
    assert report[step].remedy
    assert received in report.text(step)
    later = STEPS[STEPS.index(step) + 1 :]
    assert [("skipped", "not run")] * len(later) == [(report[name].status, report[name].finding) for name in later]


async def test_valid_key_passes_all_steps_in_order(tmp_path: Path) -> None:
    """The output has 'connected' and 'session ready', which troubleshooting guides look for."""
    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": "sk-sim-good"}, tmp_path)

    assert STEPS == [result.name for result in report.results]
    assert report.failed_step is None
    assert report["upgrade"].finding.startswith("connected: 101")
    assert "session ready: session.created, model gpt-realtime" == report["first_event"].finding
    assert "It does not prove that the account has credit" in report.text("model")
    assert "within 30 s of the provider's clock" == report["clock"].finding
    assert all(result.seconds >= 0 for result in report.results)


async def test_rest_refusal_warns_if_the_websocket_works(tmp_path: Path) -> None:
    """A restricted key may not read models and still open Realtime sessions."""
    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": "sk-sim-model-rest-only-401"}, tmp_path)

    assert report.failed_step is None
    assert "warn" == report["model"].status
    assert "A restricted key can lack the permission to read models" in report.text("model")


async def test_html_page_is_reported_as_a_portal_or_proxy(tmp_path: Path) -> None:
    """The API never sends HTML."""
    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": "sk-sim-no-upgrade"}, tmp_path)

    assert "The response is an HTML page: a captive portal, proxy or edge answered" in report.text("upgrade")


async def test_chain_leaves_no_open_connection_at_the_provider(tmp_path: Path) -> None:
    """After success, a timeout and a refusal."""
    async with Simulator(SimulatorOptions(pace=0)) as simulator:
        environ = {"OPENAI_BASE_URL": simulator.url}
        for key in ("sk-sim-good", "sk-sim-hang", "sk-sim-quota-exhausted"):
            times = SHORT if "hang" in key else {}
            report = await run_provider_chain(environ | times | {"OPENAI_API_KEY": key}, tmp_path)
            assert "compatible" in report["settings"].finding

        assert 3 == len(simulator.connections)
        assert "gpt-realtime" == simulator.connections[0].query["model"]
    assert 0 == simulator.open_count


async def test_compatible_server_without_models_endpoint_skips_the_model_step(tmp_path: Path) -> None:
    """The WebSocket decides, well or badly."""

    async def create(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.until_close()

    async with raw_upstream(create) as upstream, tcp_server(http_response("404 Not Found", "{}")) as port:
        environ = {"OPENAI_API_KEY": "anything", "RELAY_MODEL": "scripted"}
        good = await run_provider_chain(environ | {"OPENAI_BASE_URL": upstream.url}, tmp_path)
        bad = await run_provider_chain(environ | {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}, tmp_path)

    assert (None, "ok") == (good.failed_step, good["first_event"].status)
    assert "skipped" == bad["model"].status
    assert "HTTP 404: this server may not serve /models" in bad["model"].finding
    assert "wrong_base_url" == bad["upgrade"].reason
    assert "The 404 for /v1/realtime is not an API error" in bad.text("upgrade")
    assert "base_url_from environment" in bad.text("upgrade")


@pytest.mark.parametrize("step", ["upgrade", "first_event"])
async def test_compatible_server_without_the_model_names_it(step: str, tmp_path: Path) -> None:
    """A mistyped name shows at the step that fails, whether the server refuses it by an HTTP status or by an event."""
    refusal = http_response("404 Not Found", '{"error": {"code": "model_not_found"}}', Content_Type="application/json")
    environ = {"OPENAI_API_KEY": "anything", "RELAY_MODEL": "gpt-realtimee"}
    async with Simulator(SimulatorOptions()) as simulator, tcp_server(refusal) as port:
        url = f"http://127.0.0.1:{port}/v1" if step == "upgrade" else simulator.url
        report = await run_provider_chain(environ | {"OPENAI_BASE_URL": url}, tmp_path)

    assert (step, "model_not_found") == (report.failed_step, report[step].reason)
    assert "Requested: model gpt-realtimee." in report.text(step)


async def test_wrong_clock_warns_with_the_difference(tmp_path: Path) -> None:
    """The Date header is years away; later steps run nevertheless."""
    date = "Tue, 01 Jan 2019 00:00:00 GMT"
    async with tcp_server(http_response("200 OK", "{}", Date=date)) as port:
        report = await run_provider_chain(
            {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}, tmp_path
        )

    assert "warn" == report["clock"].status
    assert "s ahead of the provider's" in report["clock"].finding
    assert "upgrade" == report.failed_step


async def test_optional_first_event_is_not_waited_for(tmp_path: Path) -> None:
    """With RELAY_FIRST_EVENT=optional the chain passes at the upgrade."""

    async def wait(connection: ServerConnection) -> None:
        await connection.until_close()

    async with raw_upstream(wait) as upstream:
        environ = {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": upstream.url, "RELAY_MODEL": "scripted"}
        report = await run_provider_chain(environ | {"RELAY_FIRST_EVENT": "optional"}, tmp_path)

    assert (None, "skipped") == (report.failed_step, report["first_event"].status)


async def test_turn_reports_the_tokens_of_a_response(tmp_path: Path) -> None:
    """`--turn` adds one step after the first event."""
    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": "sk-sim-good"}, tmp_path, turn=True)

    assert "ok" == report["turn"].status
    assert "the model answered; 0 tokens in, " in report["turn"].finding
    assert "about 120 input tokens" in COST


@pytest.mark.parametrize(
    ("scenario", "reason", "code"),
    [
        ("model-access-late", "model_not_found", "model_not_found"),
        ("rate-limited-mid", "rate_limited", "rate_limit_exceeded"),
        ("server-error-mid", "upstream_error", "server_error"),
    ],
)
async def test_failed_response_fails_turn_with_its_code(tmp_path: Path, scenario: str, reason: str, code: str) -> None:
    """The session opened: all steps before pass."""
    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": f"sk-sim-{scenario}"}, tmp_path, turn=True)

    assert ("turn", reason) == (report.failed_step, report["turn"].reason)
    assert f"The session opened, but the response failed: {code}." in report.text("turn")


@pytest.mark.parametrize(
    ("last_event", "reason", "text"),
    [
        (b'{"type":"error","error":{"type":"invalid_request_error","code":"unknown_parameter","message":"m"}}',
         "request_rejected", "unknown_parameter"),
        (b'{"type":"response.done","response":{"status":"incomplete","status_details":{"reason":"max_output_tokens"}}}',
         None, "up to the limit of 16 tokens"),
        (b'{"type":"response.done","response":{"status":"cancelled"}}', None, "ended with status 'cancelled'"),
        (b'{"type":"response.done","response":{"status":"completed","usage":{"total_tokens":3}}}', None,
         "the reported usage is inconsistent"),
        (None, "upstream_closed", "closed with code 1011 during the response"),
    ],
)  # fmt: skip
async def test_turn_distinguishes_the_ends_of_a_response(
    tmp_path: Path, last_event: bytes | None, reason: str | None, text: str
) -> None:
    """An `error` event, an incomplete and a cancelled response, inconsistent usage, and a close frame."""

    async def answer(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.reader.read(4096)
        connection.send(b'{"type":"response.created","response":{}}')
        if last_event is None:
            connection.send_close(1011)
        else:
            connection.send(last_event)
        await connection.until_close()

    async with raw_upstream(answer) as upstream:
        environ = {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": upstream.url, "RELAY_MODEL": "scripted"}
        report = await run_provider_chain(environ, tmp_path, turn=True)

    assert reason == report["turn"].reason
    assert text in report.text("turn")
