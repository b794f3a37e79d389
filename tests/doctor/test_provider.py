"""The rungs that ask the provider: against the simulator's scenarios and a scripted upstream."""

from pathlib import Path

import pytest

from service.doctor.response_check import COST
from service.simulator import Simulator, SimulatorOptions
from tests.support.doctor_chain import answering, bare_server, run_provider_chain
from tests.support.raw_websocket_server import CREATED, Wire, raw_upstream

SIMULATED = {"RELAY_UPSTREAM": "simulator", "RELAY_DIAL_TIMEOUT_SECONDS": "0.3"}
STEPS = [
    "files", "settings", "running", "key", "proxy", "dns", "tcp", "tls", "model", "clock", "upgrade", "first_event"
]  # fmt: skip


@pytest.mark.parametrize(
    ("scenario", "rung", "reason", "wire"),
    [
        ("key-rejected", "model", "key_rejected", "HTTP 401, invalid_api_key"),
        ("close-only", "model", "key_rejected", "HTTP 401, invalid_api_key"),
        ("key-missing", "first_event", "key_missing", "CLOSE 3000"),
        ("key-forbidden", "first_event", "key_forbidden", "CLOSE 3000"),
        ("quota-exhausted", "first_event", "quota_exhausted", "CLOSE 1013, credit_balance_exhausted"),
        ("model-not-found", "first_event", "model_not_found", "CLOSE 4004, model_not_found"),
        ("invalid-model", "first_event", "model_not_found", "CLOSE 4000, invalid_model"),
        ("beta-shape", "first_event", "beta_shape", "CLOSE 4000, beta_api_shape_disabled"),
        ("overloaded", "first_event", "upstream_overloaded", "CLOSE 1013"),
        ("rate-limited-inband", "first_event", "rate_limited", "CLOSE 1013, rate_limit_exceeded"),
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
async def test_the_first_broken_rung(tmp_path: Path, scenario: str, rung: str, reason: str, wire: str) -> None:
    """Each way to fail breaks the rung where it shows, in the catalogue's words; what is behind is not tried."""
    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": f"sk-sim-{scenario}"}, tmp_path)

    assert (rung, reason) == (report.failed_step, report[rung].reason)
    assert f"docs/failures.md#{reason}" == report[rung].anchor
    assert report[rung].remedy
    assert wire in report.notes(rung)
    behind = STEPS[STEPS.index(rung) + 1 :]
    assert [("skipped", "not tried")] * len(behind) == [(report[name].status, report[name].finding) for name in behind]


async def test_all_well(tmp_path: Path) -> None:
    """With a good key every rung is climbed in order, and the signs of success are told."""
    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": "sk-sim-good"}, tmp_path)

    assert STEPS == [rung.name for rung in report.results]
    assert report.failed_step is None
    assert report["upgrade"].finding.startswith("connected: 101")
    assert "session ready: session.created, model gpt-realtime" == report["first_event"].finding
    assert "Does not prove credit, the Realtime permission" in report.notes("model")
    assert "right to some seconds" == report["clock"].finding
    assert all(rung.seconds >= 0 for rung in report.results)


async def test_rest_never_overrides_a_socket_that_works(tmp_path: Path) -> None:
    """A restricted key that may not list models warns there, and the socket decides that all is well."""
    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": "sk-sim-model-rest-only-401"}, tmp_path)

    assert report.failed_step is None
    assert "warn" == report["model"].status
    assert "A restricted key may lack the right to list models" in report.notes("model")


async def test_a_portal_is_recognised(tmp_path: Path) -> None:
    """A page of HTML where the API should answer is called a portal, proxy or edge; blocked WebSockets are suspected."""
    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": "sk-sim-no-upgrade"}, tmp_path)

    assert "The answer is a page of HTML" in report.notes("upgrade")


async def test_nothing_is_left_at_the_provider(tmp_path: Path) -> None:
    """After a climb no session is open: the dial that doctor made is hung up, well or broken."""
    async with Simulator(SimulatorOptions(pace=0)) as simulator:
        environ = {"OPENAI_BASE_URL": simulator.url, "RELAY_DIAL_TIMEOUT_SECONDS": "0.3"}
        for key in ("sk-sim-good", "sk-sim-hang", "sk-sim-quota-exhausted"):
            report = await run_provider_chain(environ | {"OPENAI_API_KEY": key}, tmp_path)
            assert "compatible" in report["settings"].finding

        assert 3 == len(simulator.connections)
        assert "gpt-realtime" == simulator.connections[0].query["model"]
    assert 0 == simulator.open_count


async def test_a_compatible_server_without_models(tmp_path: Path) -> None:
    """A server that describes no models is not blamed for it: the rung is skipped, and the socket decides."""

    async def create(wire: Wire) -> None:
        wire.send(CREATED)
        await wire.until_close()

    async with raw_upstream(create) as upstream, bare_server(answering("404 Not Found", "{}")) as bare:
        environ = {"OPENAI_API_KEY": "anything", "RELAY_MODEL": "scripted"}
        good = await run_provider_chain(environ | {"OPENAI_BASE_URL": upstream.url}, tmp_path)
        bad = await run_provider_chain(environ | {"OPENAI_BASE_URL": f"http://127.0.0.1:{bare}/v1"}, tmp_path)

    assert (None, "ok") == (good.failed_step, good["first_event"].status)
    assert "skipped" == bad["model"].status
    assert "HTTP 404: not every server describes its models" in bad["model"].finding
    assert "model_not_found" == bad["upgrade"].reason


async def test_a_wrong_clock_warns(tmp_path: Path) -> None:
    """A Date header a day away warns with the distance; it stops nothing."""
    date = "Tue, 01 Jan 2019 00:00:00 GMT"
    async with bare_server(answering("200 OK", "{}", Date=date)) as port:
        report = await run_provider_chain(
            {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}, tmp_path
        )

    assert "warn" == report["clock"].status
    assert "s ahead of the provider's" in report["clock"].finding
    assert "upgrade" == report.failed_step


async def test_a_server_that_sends_no_event_by_itself(tmp_path: Path) -> None:
    """With RELAY_FIRST_EVENT=optional the ladder ends well at the upgrade, and says that no event was waited for."""

    async def wait(wire: Wire) -> None:
        await wire.until_close()

    async with raw_upstream(wait) as upstream:
        environ = {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": upstream.url, "RELAY_MODEL": "scripted"}
        report = await run_provider_chain(environ | {"RELAY_FIRST_EVENT": "optional"}, tmp_path)

    assert (None, "skipped") == (report.failed_step, report["first_event"].status)


async def test_a_turn(tmp_path: Path) -> None:
    """`--turn` gets one short text answer and tells its tokens."""
    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": "sk-sim-good"}, tmp_path, turn=True)

    assert "ok" == report["turn"].status
    assert "the model has answered; 0 tokens in, " in report["turn"].finding
    assert "about 120 tokens" in COST


@pytest.mark.parametrize(
    ("scenario", "reason", "code"),
    [
        ("model-access-late", "model_not_found", "model_not_found"),
        ("rate-limited-mid", "rate_limited", "rate_limit_exceeded"),
        ("server-error-mid", "upstream_error", "server_error"),
    ],
)
async def test_a_turn_that_fails(tmp_path: Path, scenario: str, reason: str, code: str) -> None:
    """A response that fails in a session that opened breaks the last rung, with the provider's code."""
    report = await run_provider_chain(SIMULATED | {"OPENAI_API_KEY": f"sk-sim-{scenario}"}, tmp_path, turn=True)

    assert ("turn", reason) == (report.failed_step, report["turn"].reason)
    assert f"The session opened, but the response failed: {code}." in report.notes("turn")


@pytest.mark.parametrize(
    ("last", "reason", "said"),
    [
        (b'{"type":"error","error":{"type":"invalid_request_error","code":"unknown_parameter","message":"m"}}',
         "bad_request", "unknown_parameter"),
        (b'{"type":"response.done","response":{"status":"incomplete","status_details":{"reason":"max_output_tokens"}}}',
         None, "up to the cap"),
        (b'{"type":"response.done","response":{"status":"cancelled"}}', None, "ended as 'cancelled'"),
        (b'{"type":"response.done","response":{"status":"completed","usage":{"total_tokens":3}}}', None, "does not add up"),
        (None, "upstream_closed", "Closed with 1011."),
    ],
)  # fmt: skip
async def test_other_ends_of_a_turn(tmp_path: Path, last: bytes | None, reason: str | None, said: str) -> None:
    """An error in answer, a response cut short, one cancelled, and a socket that closes are told apart."""

    async def answer(wire: Wire) -> None:
        wire.send(CREATED)
        await wire.reader.read(4096)
        wire.send(b'{"type":"response.created","response":{}}')
        if last is None:
            wire.send_close(1011)
        else:
            wire.send(last)
        await wire.until_close()

    async with raw_upstream(answer) as upstream:
        environ = {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": upstream.url, "RELAY_MODEL": "scripted"}
        report = await run_provider_chain(environ, tmp_path, turn=True)

    assert reason == report["turn"].reason
    assert said in report.notes("turn")
