"""The documents of /api: their shapes as docs/api.md states them, what they hold, and what they never hold."""

import asyncio
import json
import signal
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from unittest.mock import AsyncMock

import aiohttp
import pytest

from service.failures import CATALOGUE, RUNBOOK_PAGES
from service.settings import SETTINGS
from service.simulator import SimulatorOptions
from service.web import doctor_process
from service.web.doctor_process import DoctorProcess
from tests.support.console import BEARER, OPERATOR, OPERATOR_CANARY, ask
from tests.support.harness import (
    KEY_CANARY,
    TOKEN_CANARY,
    RawClient,
    Relay,
    eventually,
    open_raw,
    running_relay,
    simulated_relay,
    within,
)
from tests.support.relay_process import serving

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
DOCUMENTED: Final = {
    section.partition("\n")[0]: json.loads(section.split("```json\n")[1].split("```")[0])
    for section in PAGE.split("\n## ")[1:]
    if "```json" in section and section.startswith(("GET", "POST", "DELETE"))
}
TOKENS: Final = {
    "RELAY_ACCESS": "tokens",
    "RELAY_CLIENT_TOKENS": f"kiosk:{TOKEN_CANARY}",
    "RELAY_OPERATOR_TOKEN": OPERATOR_CANARY,
}
READS: Final = ("/api/overview", "/api/sessions", "/api/failures/recent", "/api/catalogue", "/api/settings")


def shape(value: Any) -> Any:
    """The names in a document, at every depth; of a list, those of its first item."""
    match value:
        case {"evidence": _}:
            return {name: shape(item) if name != "evidence" else "evidence" for name, item in value.items()}
        case dict():
            return {name: shape(item) for name, item in value.items()}
        case [first, *_]:
            return [shape(first)]
        case _:
            return None


def same_shape(documented: Any, answered: Any) -> bool:
    """Whether two shapes are the same; null and an empty list stand for anything."""
    if documented is None or answered is None:
        return True
    if isinstance(documented, dict) and isinstance(answered, dict):
        return documented.keys() == answered.keys() and all(
            same_shape(item, answered[name]) for name, item in documented.items()
        )
    if isinstance(documented, list) and isinstance(answered, list):
        return same_shape(documented[0], answered[0])
    return bool(documented == answered)


async def read(relay: Relay, path: str) -> Any:
    """A document."""
    answer = await ask(relay.internal_url + path)
    assert (200, "application/json; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    return answer.json


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
        for path in ("/api/sessions", "/api/failures/recent"):
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
        await client.close()


async def test_real_doctor_prints_its_steps() -> None:
    """From the process's own environment to the first event."""
    async with simulated_relay(None, **TOKENS) as relay:
        answer = await within(ask(relay.internal_url + "/api/doctor", "POST", OPERATOR | BEARER), 100)
        body = answer.json
        assert (200, True) == (answer.status, body["ok"]), body
        assert same_shape(shape(DOCUMENTED["POST /api/doctor"]["rungs"]), shape(body["rungs"]))
        assert {"settings", "key", "tcp"} <= {rung["name"] for rung in body["rungs"]}
        assert b"CANARY" not in answer.body
        assert not (await read(relay, "/api/overview"))["doctor_running"]


async def test_one_doctor_runs_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second request is refused until the first has its answer."""
    started, finish, runs = asyncio.Event(), asyncio.Event(), []

    async def run(_: DoctorProcess) -> dict[str, Any]:
        runs.append(1)
        started.set()
        await finish.wait()
        return {"ok": True, "rungs": []}

    monkeypatch.setattr(DoctorProcess, "run", run)
    async with simulated_relay() as relay:
        url = relay.internal_url + "/api/doctor"
        first = asyncio.ensure_future(ask(url, "POST", OPERATOR))
        await within(started.wait(), 10)
        for _ in range(3):
            answer = await ask(url, "POST", OPERATOR)
            assert (409, "doctor_busy") == (answer.status, answer.code)
        assert (await read(relay, "/api/overview"))["doctor_running"]
        finish.set()
        assert 200 == (await within(first, 10)).status
        assert 200 == (await ask(url, "POST", OPERATOR)).status
        assert 2 == len(runs)


WAITS: Final = "import sys, time; time.sleep(60)"


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.subprocess.Process]:
    """The processes that the relay starts; each waits for a minute."""
    started: list[asyncio.subprocess.Process] = []
    original: Callable[..., Awaitable[asyncio.subprocess.Process]] = asyncio.create_subprocess_exec

    async def start(*args: Any, **kwargs: Any) -> asyncio.subprocess.Process:
        started.append(await original(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    monkeypatch.setattr(doctor_process, "_PROGRAM", WAITS)
    return started


async def test_doctor_is_ended_at_its_bound(
    monkeypatch: pytest.MonkeyPatch, processes: list[asyncio.subprocess.Process]
) -> None:
    """The process is gone before the answer."""
    monkeypatch.setattr(doctor_process, "DOCTOR_SECONDS", 0.5)
    async with simulated_relay() as relay:
        answer = await within(ask(relay.internal_url + "/api/doctor", "POST", OPERATOR), 30)
        assert (504, "doctor_timeout") == (answer.status, answer.code)
        assert all(process.returncode is not None for process in processes)
        assert len(processes) <= 1


async def test_doctor_ends_with_the_connection_that_asked_for_it(processes: list[asyncio.subprocess.Process]) -> None:
    """And with the relay; the next request finds it free."""
    async with simulated_relay() as relay:
        _, writer = await asyncio.open_connection("127.0.0.1", relay.app.internal_port)
        writer.write(b"POST /api/doctor HTTP/1.1\r\nHost: localhost\r\nRelay-Operator: 1\r\n\r\n")
        await eventually(lambda: len(processes) == 1, 20)
        reset = struct.pack("ii", 1, 0)  # a FIN alone keeps the request, as with `nc -N`
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        writer.transport.abort()
        await eventually(lambda: processes[0].returncode is not None, 20)
        again = asyncio.ensure_future(ask(relay.internal_url + "/api/doctor", "POST", OPERATOR))
        await eventually(lambda: len(processes) == 2, 20)
    await eventually(lambda: processes[1].returncode is not None, 20)
    await asyncio.wait([again], timeout=20)


async def test_doctor_needs_memory_below_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the relay in its container it could have the kernel end the relay."""
    monkeypatch.setattr("service.machine.memory_used_bytes", lambda: 100 << 20)
    async with simulated_relay() as relay:
        monkeypatch.setattr("service.machine.memory_limit_bytes", lambda: 150 << 20)
        answer = await ask(relay.internal_url + "/api/doctor", "POST", OPERATOR)
        assert (503, "doctor_needs_memory") == (answer.status, answer.code)
        monkeypatch.setattr(DoctorProcess, "run", AsyncMock(return_value={"ok": True}))
        for limit in (None, 200 << 20):
            monkeypatch.setattr("service.machine.memory_limit_bytes", lambda limit=limit: limit)
            assert 200 == (await ask(relay.internal_url + "/api/doctor", "POST", OPERATOR)).status


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_doctor_never_outlives_the_relay(end: signal.Signals) -> None:
    """A provider that answers nothing holds it for seconds; the process that asks reads no answer."""
    silent = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{silent.sockets[0].getsockname()[1]}/v1"
    async with (
        silent,
        serving(RELAY_UPSTREAM="openai", OPENAI_BASE_URL=url, RELAY_DRAIN_SECONDS="0") as (relay, _, internal),
    ):
        request = asyncio.ensure_future(ask(internal + "/api/doctor", "POST", OPERATOR))
        await eventually(lambda: len(doctors_of(relay.process.pid)) == 1, 30)
        [doctor] = doctors_of(relay.process.pid)
        await eventually(lambda: "1000" == (doctor / "oom_score_adj").read_text().strip(), 30)
        relay.process.send_signal(end)
        await within(relay.rest(), 60)
        await eventually(lambda: not is_running(doctor), 30)
        with suppress(aiohttp.ClientError):
            await within(request, 30)


def doctors_of(pid: int) -> list[Path]:
    """The doctors among the children of a process, by their folder in /proc."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    folders = [Path(f"/proc/{child}") for child in children]
    return [folder for folder in folders if b"doctor" in (folder / "cmdline").read_bytes()]


def is_running(folder: Path) -> bool:
    """Whether the process exists and is no zombie."""
    with suppress(OSError):
        return ") Z " not in (folder / "stat").read_text(encoding="utf-8")
    return False


async def test_doctor_without_a_document_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it cannot be started."""
    for program in ("print('no document')", "print('[]')", "raise SystemExit(1)"):
        monkeypatch.setattr(doctor_process, "_PROGRAM", program)
        async with running_relay(simulator=None, intervals=None, adjust=None, RELAY_UPSTREAM="simulator") as relay:
            answer = await within(ask(relay.internal_url + "/api/doctor", "POST", OPERATOR), 30)
            assert (500, "doctor_failed") == (answer.status, answer.code)


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
