"""Who may use the operator's page and /api: a matrix of bindings, tokens, credentials and paths."""

from pathlib import Path
from typing import Any

import pytest

from service.settings import load_settings
from service.web import console_files
from tests.support.console import BASIC, BEARER, OPERATOR, OPERATOR_CANARY, ask
from tests.support.harness import KEY_CANARY, TOKEN_CANARY, open_raw, running_relay, simulated_relay

READS = (
    "/",
    "/api/overview",
    "/api/sessions",
    "/api/clients",
    "/api/failures/recent",
    "/api/catalogue",
    "/api/runbooks/key",
    "/api/settings",
)
END = ("DELETE", "/api/sessions/0123456789abcdef")
DOCTOR = ("POST", "/api/doctor")
OPEN_PATHS = ("/metrics", "/livez", "/version", "/readyz?verbose", "/healthz?verbose")
ANYWHERE = {"RELAY_INTERNAL_HOST": "0.0.0.0"}
TOKEN = {"RELAY_OPERATOR_TOKEN": OPERATOR_CANARY}
WRONG = [
    {"Authorization": "Bearer wrong"},
    {"Authorization": f"Bearer {OPERATOR_CANARY}x"},
    {"Authorization": f"Bearer {TOKEN_CANARY}"},
    {"Authorization": f"Bearer {KEY_CANARY}"},
    {"Authorization": "Bearer "},
    {"Authorization": "Basic ***"},
    {"Authorization": "Basic bWU6d3Jvbmc="},
    {"Authorization": "Bearer \xe9"},
]
NONE: list[dict[str, str]] = [{}, {"Authorization": OPERATOR_CANARY}, {"api-key": OPERATOR_CANARY}]


@pytest.fixture(autouse=True)
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pages of both consoles, in place of the installed ones."""
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "base.css").write_text("body {}\n", encoding="utf-8")
    for name in ("operator", "talk"):
        (tmp_path / name / "parts").mkdir(parents=True)
        (tmp_path / name / "index.html").write_text(f"<!doctype html><title>{name}</title>", encoding="utf-8")
        (tmp_path / name / "parts" / f"{name}.js").write_text("export {};\n", encoding="utf-8")
        (tmp_path / name / f"{name}.css").write_text("body {}\n", encoding="utf-8")
        for unserved in ("notes.txt", ".hidden.js", "parts/.env"):
            (tmp_path / name / unserved).write_text("CANARY\n", encoding="utf-8")
        (tmp_path / name / "api").mkdir()
        (tmp_path / name / "api" / "overview.js").write_text("export {};\n", encoding="utf-8")
    monkeypatch.setattr(console_files, "PAGES", tmp_path)
    return tmp_path


async def test_loopback_reads_need_no_token() -> None:
    """Also where one is set; metrics, probes and version are as before."""
    for settings in ({}, TOKEN):
        async with simulated_relay(None, **settings) as relay:
            for path in (*READS, *OPEN_PATHS):
                assert 200 == (await ask(relay.internal_url + path)).status, path


async def test_loopback_changes_need_the_header_and_the_token_that_is_set() -> None:
    """A page of another origin cannot send the header; HTTP Basic, which browsers add by themselves, changes nothing."""
    for method, path in (END, DOCTOR):
        async with simulated_relay() as relay:
            for headers in ({}, {"Relay-Operator": "0"}, {"Relay-Operator": ""}, BEARER):
                answer = await ask(relay.internal_url + path, method, headers)
                assert (403, "operator_header_missing") == (answer.status, answer.code)
        async with simulated_relay(None, **TOKEN) as relay:
            for headers in (*NONE, BASIC):
                answer = await ask(relay.internal_url + path, method, OPERATOR | headers)
                assert (401, "operator_token_missing") == (answer.status, answer.code)
            for headers in WRONG[:5]:
                answer = await ask(relay.internal_url + path, method, OPERATOR | headers)
                assert (401, "operator_token_invalid") == (answer.status, answer.code)
            answer = await ask(relay.internal_url + path, method, BEARER)
            assert (403, "operator_header_missing") == (answer.status, answer.code)
    async with simulated_relay() as relay:
        assert "session_not_found" == (await ask(relay.internal_url + END[1], END[0], OPERATOR)).code


async def test_beyond_loopback_nothing_is_shown_without_a_token_that_is_set() -> None:
    """As in the image: 403 with the remedy, whatever the request carries. Scrapes and probes go on."""
    async with simulated_relay(None, **ANYWHERE) as relay:
        requests = [*(("GET", path) for path in (*READS, "/operator.css", "/parts/operator.js")), END, DOCTOR]
        for method, path in requests:
            for headers in (OPERATOR, OPERATOR | BEARER, BASIC):
                answer = await ask(relay.internal_url + path, method, headers)
                assert (403, "operator_token_unset") == (answer.status, answer.code), path
                assert "RELAY_OPERATOR_TOKEN" in answer.json["error"]["remedy"]
        for path in OPEN_PATHS:
            assert 200 == (await ask(relay.internal_url + path)).status, path


async def test_beyond_loopback_the_token_is_wanted_for_reads() -> None:
    """As Bearer, or for a browser as the password of HTTP Basic; the page challenges for both, /api for Bearer only."""
    async with simulated_relay(None, **ANYWHERE | TOKEN) as relay:
        for path in READS:
            for headers in NONE:
                answer = await ask(relay.internal_url + path, "GET", headers)
                assert (401, "operator_token_missing") == (answer.status, answer.code), path
                challenges = [value.split()[0] for value in answer.headers.getall("WWW-Authenticate")]
                assert (["Bearer", "Basic"] if path == "/" else ["Bearer"]) == challenges
            for headers in WRONG:
                answer = await ask(relay.internal_url + path, "GET", headers)
                assert (401, "operator_token_invalid") == (answer.status, answer.code), path
            for headers in (BEARER, BASIC):
                assert 200 == (await ask(relay.internal_url + path, "GET", headers)).status, path
        answer = await ask(relay.internal_url + END[1], END[0], BASIC | OPERATOR)
        assert (401, "operator_token_missing") == (answer.status, answer.code)
        answer = await ask(relay.internal_url + END[1], END[0], BEARER | OPERATOR)
        assert (404, "session_not_found") == (answer.status, answer.code)
        for path in OPEN_PATHS:
            assert 200 == (await ask(relay.internal_url + path)).status, path
        assert OPERATOR_CANARY not in str(relay.logs)


async def test_api_does_not_exist_on_the_public_port() -> None:
    """Whatever is sent, and whether the talk page is served or not."""
    for console in ("on", "off"):
        async with simulated_relay(None, RELAY_CONSOLE=console, **TOKEN) as relay:
            for method, path in (*(("GET", path) for path in READS[1:]), END, DOCTOR):
                answer = await ask(relay.url + path, method, BEARER | OPERATOR)
                assert (404, "path_not_found") == (answer.status, answer.code), path


@pytest.mark.parametrize(
    ("settings", "is_on"),
    [
        ({}, True),
        ({"RELAY_HOST": "::1"}, True),
        ({"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": TOKEN_CANARY}, False),
        ({"RELAY_TRUSTED_PROXIES": "127.0.0.1"}, False),
        ({"RELAY_HOST": "0.0.0.0", "RELAY_ACCESS": "open", "RELAY_OPEN_ANYWHERE": "true"}, False),
        ({"RELAY_HOST": "0.0.0.0", "RELAY_CLIENT_TOKENS": TOKEN_CANARY}, False),
        ({"RELAY_TRUSTED_PROXIES": "127.0.0.1", "RELAY_CONSOLE": "on"}, True),
        ({"RELAY_CONSOLE": "off"}, False),
    ],
)
def test_talk_page_is_on_by_default_where_only_this_machine_connects(settings: dict[str, str], is_on: bool) -> None:
    """With open access on loopback and no trusted proxies."""
    assert is_on == (load_settings(settings).console == "on")


@pytest.mark.parametrize(("console", "status"), [("on", 200), ("off", 404)])
async def test_public_port_serves_the_talk_page_only_where_it_is_on(console: str, status: int) -> None:
    """The operator's page is on the internal port in both cases."""
    async with simulated_relay(None, RELAY_CONSOLE=console) as relay:
        for path in ("/", "/talk.css", "/parts/talk.js", "/shared/base.css", "/console.json", "/runbooks/key"):
            answer = await ask(relay.url + path)
            assert (status, status == 200) == (answer.status, answer.code != "path_not_found"), path
            if status == 200:
                assert_locked_down(answer.headers)
        assert (await ask(relay.url + "/operator.css")).status == 404
        assert b"operator" in (await ask(relay.internal_url + "/")).body


@pytest.mark.parametrize("port", ["public", "internal"])
async def test_pages_have_a_strict_policy_and_a_validator(port: str) -> None:
    """No inline script, no frame, no cookie; a browser asks again with the validator."""
    async with simulated_relay() as relay:
        base, name = (relay.url, "talk") if port == "public" else (relay.internal_url, "operator")
        types = {"/": "text/html", f"/{name}.css": "text/css", f"/parts/{name}.js": "text/javascript"}
        for path, content_type in types.items():
            answer = await ask(base + path)
            assert f"{content_type}; charset=utf-8" == answer.headers["Content-Type"]
            assert_locked_down(answer.headers)
            again = await ask(base + path, "GET", {"If-None-Match": answer.headers["ETag"]})
            assert (304, b"") == (again.status, again.body)
            assert 200 == (await ask(base + path, "GET", {"If-None-Match": '"other"'})).status
        for path in ("/notes.txt", "/.hidden.js", "/parts/.env", "/api/overview.js", "/../index.html", "/%2e%2e/x.js"):
            assert b"CANARY" not in (await ask(base + path)).body
            assert 404 == (await ask(base + path)).status


async def test_every_answer_of_the_console_is_locked_down() -> None:
    """Refusals and runbooks included; documents are never cached."""
    async with simulated_relay(None, **ANYWHERE | TOKEN) as relay:
        for path in (*READS[1:], "/api/runbooks/none", "/api/sessions?limit=x"):
            for headers in ({}, BEARER):
                answer = await ask(relay.internal_url + path, "GET", headers)
                assert_locked_down(answer.headers)
                is_runbook = path == "/api/runbooks/key" and answer.status == 200
                assert ("no-cache" if is_runbook else "no-store") == answer.headers["Cache-Control"]


def assert_locked_down(headers: Any) -> None:
    """No script but the relay's own files, no frame, no sniffed type, no cookie."""
    policy = headers["Content-Security-Policy"]
    directives = {name: sources for name, _, sources in (part.strip().partition(" ") for part in policy.split(";"))}
    assert {"default-src": "'none'", "base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"} | {
        f"{kind}-src": "'self'" for kind in ("script", "worker", "style", "img", "media", "connect")
    } == directives
    assert headers["Permissions-Policy"].startswith("microphone=(self),")
    assert "no-referrer" == headers["Referrer-Policy"]
    assert "DENY" == headers["X-Frame-Options"]
    assert "nosniff" == headers["X-Content-Type-Options"]
    assert "Set-Cookie" not in headers
    assert "Access-Control-Allow-Origin" not in headers
    assert "Server" not in headers


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        (
            {},
            {
                "access": "open",
                "apis": ["realtime", "live"],
                "upstream": "compatible",
                "model": "gpt-realtime",
                "models": [],
            },
        ),
        (
            {"RELAY_LIVE": "off", "RELAY_ALLOWED_MODELS": "a,b"},
            {"access": "open", "apis": ["realtime"], "upstream": "compatible", "model": "a", "models": ["a", "b"]},
        ),
        (
            {"RELAY_CLIENT_TOKENS": TOKEN_CANARY, "RELAY_ACCESS": "tokens", "RELAY_ALLOWED_MODELS": "secret-model"},
            {"access": "tokens", "apis": ["realtime", "live"], "upstream": None, "model": None, "models": None},
        ),
    ],
)
async def test_talk_page_learns_what_a_caller_without_token_can(
    settings: dict[str, str], shown: dict[str, Any]
) -> None:
    """Models and upstream only where no token is needed to learn them; the public port has nothing else of the relay."""
    async with simulated_relay(None, RELAY_CONSOLE="on", **settings) as relay:
        answer = await ask(relay.url + "/console.json")
        document = dict(answer.json)
        reasons, scenarios = document.pop("operator_reasons"), document.pop("scenarios")
        assert {"service": "realtime-relay"} | shown == document
        assert [] == scenarios  # of the built-in simulator only
        assert {"key_rejected", "dns_failed"} <= set(reasons)
        assert {"token_missing", "upstream_overloaded", "ended_by_operator"}.isdisjoint(reasons)
        assert 304 == (await ask(relay.url + "/console.json", "GET", {"If-None-Match": answer.headers["ETag"]})).status
        for name in ("none", "..%2f..%2fREADME", "key.md", "%00"):
            assert (404, "runbook_not_found") == ((gone := await ask(f"{relay.url}/runbooks/{name}")).status, gone.code)


async def test_talk_page_learns_the_scenarios_of_the_built_in_simulator() -> None:
    """Which its field Query offers; not where a caller needs a token."""
    for access, shows in (("open", True), ("tokens", False)):
        settings: dict[str, Any] = {"RELAY_ACCESS": access, "RELAY_CLIENT_TOKENS": TOKEN_CANARY if not shows else ""}
        async with running_relay(RELAY_UPSTREAM="simulator", RELAY_CONSOLE="on", **settings) as relay:
            scenarios = (await ask(relay.url + "/console.json")).json["scenarios"]
            assert shows == ({"good", "key-rejected", "http-503"} <= set(scenarios))
            assert shows or scenarios == []


METHODS = ("HEAD", "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
ALLOWED = {"/": "GET, HEAD", "/api/overview": "GET, HEAD", "/api/doctor": "POST", "/api/sessions/x": "DELETE"}


async def test_other_methods_and_paths_are_refused_behind_the_access() -> None:
    """Without a token nothing distinguishes them; with it they are named. No preflight of another origin succeeds."""
    async with simulated_relay(None, **ANYWHERE | TOKEN) as relay:
        for method in METHODS:
            for path in (*ALLOWED, "/api", "/api/", "/api/none", "/%61pi/none", "/api/overview/", "/api/sessions/x/y"):
                answer = await ask(relay.internal_url + path, method, {"Origin": "https://evil.example"})
                assert 401 == answer.status, (method, path)
                assert not {name for name in answer.headers if name.startswith("Access-Control")}
                allowed = ALLOWED.get(path)
                if allowed is not None and method in allowed.split(", "):
                    continue
                answer = await ask(relay.internal_url + path, method, BEARER | OPERATOR)
                assert (405 if allowed else 404) == answer.status, (method, path)
                assert allowed == answer.headers.get("Allow")
                assert not {name for name in answer.headers if name.startswith("Access-Control")}
        answer = await ask(relay.internal_url + "/metrics", "POST")
        assert (405, "Send GET: the internal port serves probes, metrics and documents.") == (
            answer.status,
            answer.json["error"]["remedy"],
        )


async def test_refused_requests_are_counted_and_guesses_logged_without_the_token() -> None:
    """By reason; of wrong tokens five lines in a minute name the address."""
    async with simulated_relay(None, **ANYWHERE | TOKEN) as relay:
        counter = relay.app.metrics.operator_refusals
        for number in range(20):
            guess = {"Authorization": f"Bearer {TOKEN_CANARY}{number}"}
            assert "operator_token_invalid" == (await ask(relay.internal_url + "/api/sessions", "GET", guess)).code
        await ask(relay.internal_url + "/api/sessions")
        await ask(relay.internal_url + END[1], END[0], BEARER)
        counts = {
            sample.labels["reason"]: sample.value for [family] in [counter.collect()] for sample in family.samples
        }
        assert {
            "operator_token_unset": 0,
            "operator_token_missing": 1,
            "operator_token_invalid": 20,
            "operator_header_missing": 1,
        } == counts
        lines = relay.events("console.refused")
        assert [("127.0.0.1", "operator_token_invalid")] * 5 == [(line["address"], line["reason"]) for line in lines]
        assert "CANARY" not in str(relay.logs)
        assert 200 == (await ask(relay.internal_url + "/api/sessions", "GET", BEARER)).status


async def test_missing_pages_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The relay starts, and its documents are served."""
    monkeypatch.setattr(console_files, "PAGES", tmp_path / "none")
    async with simulated_relay() as relay:
        assert 404 == (await ask(relay.url + "/")).status
        assert "page_not_installed" == (await ask(relay.internal_url + "/")).code
        assert 200 == (await ask(relay.internal_url + "/api/overview")).status


async def test_foreign_host_is_refused_before_the_token() -> None:
    """DNS rebinding: a page with its own name reaches nothing, with every header that it can set."""
    async with simulated_relay() as relay:
        for method, path in (*(("GET", path) for path in READS), END, DOCTOR):
            answer = await ask(relay.internal_url + path, method, {"Host": "rebinding.example"} | OPERATOR | BEARER)
            assert (421, "host_refused") == (answer.status, answer.code), path
        client = await open_raw(relay.app.public_port)
        assert 101 == client.answer.status
        await client.close()


async def test_pod_address_and_front_reach_the_console() -> None:
    """Beyond loopback, and behind trusted proxies, `Host` is whatever the way to the port makes of it."""
    for settings, needs_token in ((ANYWHERE | TOKEN, True), ({"RELAY_TRUSTED_PROXIES": "127.0.0.1"}, False)):
        async with simulated_relay(None, **settings) as relay:
            for host in ("10.1.2.3:9464", "relay.internal", "ops.example.com"):
                for path in OPEN_PATHS:
                    assert 200 == (await ask(relay.internal_url + path, "GET", {"Host": host})).status, path
                for path in READS:
                    answer = await ask(relay.internal_url + path, "GET", {"Host": host})
                    assert (401 if needs_token else 200) == answer.status, path
                    assert 200 == (await ask(relay.internal_url + path, "GET", BEARER | {"Host": host})).status
