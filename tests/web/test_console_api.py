"""The documents of /api: their shapes as docs/api.md states them, what they hold, and what they never hold."""

import json
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.failures import CATALOGUE, RUNBOOK_PAGES
from service.settings import SETTINGS
from service.simulator import SimulatorOptions
from service.web import console
from tests.support.console import (
    BEARER,
    DOCUMENTED,
    OPERATOR,
    OPERATOR_CANARY,
    ROOT,
    TOKENS,
    ask,
    read,
    same_shape,
    shape,
)
from tests.support.harness import (
    KEY_CANARY,
    TOKEN_CANARY,
    RawClient,
    Relay,
    eventually,
    open_raw,
    simulated_relay,
    within,
)

READS: Final = (
    "/api/overview",
    "/api/sessions",
    "/api/clients",
    "/api/failures/recent",
    "/api/catalogue",
    "/api/settings",
)


async def open_session(relay: Relay, path: str = "/v1/realtime?model=gpt-realtime") -> RawClient:
    """A client of the relay with its first event."""
    client = await open_raw(relay.app.public_port, path, {"Authorization": f"Bearer {TOKEN_CANARY}"})
    assert 101 == client.answer.status
    assert "session.created" == (await within(client.next_event(), 10))["type"]
    return client


async def answer_once(client: RawClient) -> None:
    """Let the simulator answer once."""
    client.send_event(type="response.create")
    while (await within(client.next_event(), 20))["type"] != "response.done":
        pass


async def test_documents_have_the_published_shape() -> None:
    """Every name of docs/api.md is in the answer, and no other."""
    async with simulated_relay(None, **TOKENS) as relay:
        client = await open_session(relay)
        refused = await open_raw(relay.app.public_port)
        assert 401 == refused.answer.status
        for path in READS:
            documented, answered = shape(DOCUMENTED[f"GET {path}"]), shape(await read(relay, path))
            assert same_shape(documented, answered), (documented, answered)
        [listed] = (await read(relay, "/api/sessions"))["sessions"]
        ended = await ask(f"{relay.internal_url}/api/sessions/{listed['id']}", "DELETE", OPERATOR | BEARER)
        assert DOCUMENTED["DELETE /api/sessions/{id}"].keys() == ended.json.keys()
        for each in (client, refused):
            await each.close()


async def test_overview_counts_sessions_and_failures() -> None:
    """By API, by reason, and against the limits."""
    async with simulated_relay(None, RELAY_MAX_SESSIONS="7", RELAY_MAX_DIALS="5", **TOKENS) as relay:
        client = await open_session(relay)
        for _ in range(3):
            await (await open_raw(relay.app.public_port)).close()
        body = await read(relay, "/api/overview")

        assert {"open": 1, "limit": 7, "by_api": {"realtime": 1, "live": 0}} == body["sessions"]
        assert {"active": 0, "limit": 5} == body["dials"]
        assert {"draining": False, "seconds_left": None} == body["drain"]
        assert ("pass", ["key", "handshake"]) == (
            body["health"]["status"],
            [check["name"] for check in body["health"]["checks"]],
        )
        assert all(check["checked_seconds_ago"] >= 0 for check in body["health"]["checks"])
        assert [(300, 30), (3600, 60)] == [(w["seconds"], len(w["failed_points"])) for w in body["connections"]]
        for window in body["connections"]:
            assert (1, 0, 1.0) == (window["succeeded"], window["failed"], window["success_ratio"])
            assert [{"reason": "token_missing", "count": 3, "counted": False}] == window["failures"]
            assert window["seconds"] == window["point_seconds"] * len(window["succeeded_points"])
        assert body["memory"]["used_bytes"] > 1_000_000
        await eventually(lambda: relay.app.metrics.recent.lag.last is not None)
        assert (await read(relay, "/api/overview"))["event_loop_lag"]["greatest_seconds"] >= 0
        relay.app.drainer.is_draining = True
        assert (await read(relay, "/api/overview"))["drain"]["draining"]
        await client.close()


async def test_overview_explains_a_failing_check() -> None:
    """In the catalogue's words, with the runbook."""
    async with simulated_relay(None, OPENAI_API_KEY="sk-sim-key-rejected-0123456789") as relay:
        await eventually(lambda: relay.app.monitor.key.status == "fail")
        health = (await read(relay, "/api/overview"))["health"]
        key = health["checks"][0]
        row = CATALOGUE[key["reason"]]
        assert ("fail", row.sentence, {"name": row.page, "anchor": row.reason}) == (
            health["status"],
            key["message"],
            key["runbook"],
        )
        assert key["remedy"]


async def test_failed_dial_is_listed_with_cause_and_remedy() -> None:
    """As in the log line of the same attempt."""
    async with simulated_relay(None, OPENAI_API_KEY="sk-sim-key-rejected-0123456789") as relay:
        client = await open_raw(relay.app.public_port)
        assert 424 == client.answer.status
        await client.close()
        [failure] = (await read(relay, "/api/failures/recent"))["failures"]
        [line] = relay.events("upstream.connect_failed")
        names = (
            "reason",
            "message",
            "remedy",
            "phase",
            "upstream_status",
            "upstream_code",
            "client",
            "address",
            "model",
        )
        assert {name: line[name] for name in names} == {name: failure[name] for name in names}
        assert ("connect_failed", line["session_id"]) == (failure["kind"], failure["session_id"])
        connections = (await read(relay, "/api/overview"))["connections"]
        assert [(0.0, failure["reason"])] * 2 == [(w["success_ratio"], w["failures"][0]["reason"]) for w in connections]


async def test_lost_upstream_is_listed_and_a_normal_end_is_not() -> None:
    """Endings that the operator may have to act on."""
    async with simulated_relay() as relay:
        first, second = [await open_raw(relay.app.public_port) for _ in range(2)]
        await first.close()
        await eventually(lambda: len(relay.app.sessions) == 1)
        next(iter(relay.app.sessions)).end("upstream_lost")
        assert await within(second.until_close(), 10)
        await second.close()
        await eventually(lambda: not len(relay.app.sessions))
        listed = (await read(relay, "/api/failures/recent"))["failures"]
        assert [("session_ended", "upstream_lost")] == [(entry["kind"], entry["reason"]) for entry in listed]


@pytest.mark.parametrize("limit", ["0", "-1", "x", "201", "1e3", "\u0663", "99999999999999999999"])
async def test_invalid_limit_is_refused(limit: str) -> None:
    """With the range."""
    async with simulated_relay() as relay:
        for path in ("/api/sessions", "/api/clients", "/api/failures/recent"):
            answer = await ask(f"{relay.internal_url}{path}?limit={limit}")
            assert (400, "limit_invalid") == (answer.status, answer.code)


async def test_catalogue_and_runbooks_are_complete() -> None:
    """Each reason leads to a runbook that is served and has its section."""
    async with simulated_relay() as relay:
        reasons = (await read(relay, "/api/catalogue"))["reasons"]
        assert list(CATALOGUE) == [row["reason"] for row in reasons]
        texts = {}
        for name in (*sorted(set(RUNBOOK_PAGES.values())), "alerts", "README"):
            answer = await ask(f"{relay.internal_url}/api/runbooks/{name}")
            assert (200, "text/markdown; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
            texts[name] = answer.body.decode()
            assert (ROOT / "docs" / "runbooks" / f"{name}.md").read_text(encoding="utf-8") == texts[name]
        for row in reasons:
            assert f"\n### {row['runbook']['anchor']}\n" in texts[row["runbook"]["name"]]
        for name in ("none", "..%2f..%2fREADME", "key.md", "%2e%2e"):
            assert 404 == (await ask(f"{relay.internal_url}/api/runbooks/{name}")).status


async def test_settings_show_sources_and_no_secret() -> None:
    """Every setting as it holds, also where its default follows from others."""
    async with simulated_relay(None, **TOKENS, RELAY_MODEL="m") as relay:
        entries = {entry["name"]: entry for entry in (await read(relay, "/api/settings"))["settings"]}
        assert [setting.name for setting in SETTINGS] == list(entries)
        assert ("m", "environment") == (entries["RELAY_MODEL"]["value"], entries["RELAY_MODEL"]["source"])
        assert ("off", "default") == (entries["RELAY_CONSOLE"]["value"], entries["RELAY_CONSOLE"]["source"])
        assert {None} == {entry["value"] for entry in entries.values() if entry["secret"]}
        assert ["kiosk: "] == [text[:7] for text in entries["RELAY_CLIENT_TOKENS"]["fingerprints"]]
        assert all("sha256:" in entries[name]["fingerprints"][0] for name in ("OPENAI_API_KEY", "RELAY_OPERATOR_TOKEN"))


async def test_secrets_are_in_no_document() -> None:
    """Nor in the log: keys and tokens where clients may put them, and in settings."""
    async with simulated_relay(None, **TOKENS, RELAY_LIVE="off") as relay:
        client = await open_session(relay, f"/v1/realtime?model=gpt-realtime&x={OPERATOR_CANARY}")
        for path, headers in (
            (f"/v1/realtime?model={KEY_CANARY}", {"Authorization": f"Bearer {TOKEN_CANARY}"}),
            (f"/v1/realtime?model={OPERATOR_CANARY}", {"Authorization": f"Bearer {TOKEN_CANARY}"}),
            (f"/v1/realtime?model=a&token={TOKEN_CANARY}", {}),
            (f"/v1/realtime?model={OPERATOR_CANARY}&model=b", {}),
            ("/v1/realtime?model=a", {"Authorization": f"Bearer {OPERATOR_CANARY}"}),
            ("/v1/realtime?model=a", {"Sec-WebSocket-Protocol": f"openai-insecure-api-key.{KEY_CANARY}"}),
            ("/v1/realtime?model=a", {"Origin": f"https://{OPERATOR_CANARY}.example"}),
            (f"/{KEY_CANARY}", {}),
        ):
            await (await open_raw(relay.app.public_port, path, headers)).close()
        await ask(relay.internal_url + "/api/doctor", "POST", OPERATOR | {"Authorization": f"Bearer {TOKEN_CANARY}"})
        assert (await read(relay, "/api/failures/recent"))["failures"]
        assert (await read(relay, "/api/sessions"))["sessions"]
        for path in (*READS, f"/api/sessions?search={TOKEN_CANARY}"):
            body = (await ask(relay.internal_url + path)).body.decode()
            assert "CANARY" not in body, path
            assert not set("<>&") & set(body)
            assert body.isascii()
        for path in ("/metrics", "/api/runbooks/key", "/", "/api/none"):
            assert b"CANARY" not in (await ask(relay.internal_url + path, "GET", BEARER)).body, path
        for path in ("/", "/console.json", "/runbooks/key", "/api/overview"):
            assert b"CANARY" not in (await ask(relay.url + path, "GET", BEARER)).body, path
        logged = [relay.app.redactor(None, "", dict(line)) for line in relay.logs]  # as the log's last step does
        assert "CANARY" not in str(logged)
        await client.close()


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text()), max_size=5))
def test_documents_are_ascii_and_hold_no_markup(body: dict[str, object]) -> None:
    """Whatever texts from outside are in them, they arrive as they are."""
    response = console._json(body)
    assert isinstance(response.text, str)
    assert body == json.loads(response.text)
    assert response.text.isascii()
    assert not set("<>&") & set(response.text)


async def test_usage_of_a_session_is_shown_while_it_is_open() -> None:
    """Messages and bytes of both pipes, tokens and cost of its responses."""
    async with simulated_relay(SimulatorOptions(pace=0), **TOKENS) as relay:
        client = await open_session(relay)
        [before] = (await read(relay, "/api/sessions"))["sessions"]
        await answer_once(client)
        [after] = (await read(relay, "/api/sessions"))["sessions"]

        assert (0, 0.0, True) == (before["tokens"], before["cost_usd"], before["cost_is_complete"])
        assert after["tokens"] == relay.metric("realtime_relay_tokens_total") > 0
        assert after["cost_usd"] == pytest.approx(relay.metric("realtime_relay_estimated_cost_usd_total"), abs=1e-6)
        assert (1, 1) == (before["upstream_to_client"]["messages"], after["client_to_upstream"]["messages"])
        assert after["upstream_to_client"]["bytes"] > before["upstream_to_client"]["bytes"]
        assert ("kiosk", "127.0.0.1", "gpt-realtime") == (after["client"], after["address"], after["model"])
        await client.close()
