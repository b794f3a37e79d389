"""Steps about load and the other profiles: the memory limit, TLS with secrets as files, Prometheus and Alertmanager."""

import asyncio
import contextlib
import dataclasses
import json
import ssl
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.e2e import standins
from tests.e2e.engine import ROOT, Compose, must
from tests.e2e.stage import Stage, check, status_of, until
from tests.support.certificates import Authority

MEMORY_MIB: Final = 192
_CALLS: Final = 450  # more than so much memory allows: (192 - 100) MiB / 256 KiB = 368
_ITEM_BYTES: Final = 256 << 10
_TIMES: Final = 4
_LOAD_SECONDS: Final = 15.0
_DIALS: Final = 50  # at once; RELAY_MAX_DIALS is 100
_TOKEN: Final = "e2e-token-0123456789"
_MONITORING: Final = ("prometheus/prometheus.yml", "prometheus/rules.yaml", "alertmanager/alertmanager.yml")


async def _anew(stage: Stage, compose: Compose, *services: str) -> None:
    """Take everything down and start these services of another set of settings."""
    await stage.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5")
    stage.compose = compose
    await compose("up", "--wait", *services)


async def the_memory_limit_holds(stage: Stage) -> str:
    """More calls than fit, large messages, half of the callers read nothing: the relay refuses, and is not killed."""
    settings = stage.folder / "load.env"
    settings.write_text("RELAY_ACCESS=open\nRELAY_OPEN_ANYWHERE=true\n", encoding="utf-8")
    override = stage.folder / "load.yml"
    # The simulator keeps every item of every conversation.
    override.write_text(
        f"services:\n  relay: {{mem_limit: {MEMORY_MIB}m}}\n  simulator: {{mem_limit: 2g}}\n", encoding="utf-8"
    )
    variables = {
        **{name: value for name, value in stage.compose.variables.items() if name.startswith("PUBLISHED") or name == "BASE"},
        "SETTINGS_FILE": str(settings), "OPENAI_BASE_URL": "http://127.0.0.1:8090/v1", "OPENAI_API_KEY": "sk-sim-good",
        "RELAY_DRAIN_SECONDS": "1",
    }  # fmt: skip
    files = ("docker-compose.yml", str(override))
    await _anew(stage, Compose(stage.compose.project, (), files, variables), "relay", "simulator")
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            used = await must("docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", container)
            most = max(most, _mib(used.split("/")[0]))
            await asyncio.sleep(0.5)

    container = (await stage.compose("ps", "--quiet", "relay")).strip()
    watching = asyncio.create_task(watch())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        door = asyncio.Semaphore(_DIALS)
        calls = await asyncio.gather(*(_load(http, door, stage.url, reads=number % 2 == 0) for number in range(_CALLS)))
    watching.cancel()
    most = max(most, _mib(f"{await _peak_kib(stage)}KiB"))
    let_in, refused = sum(calls), len(calls) - sum(calls)
    relay = await stage.compose.inspect("relay")
    check(not relay["State"]["OOMKilled"], "the relay was killed for its memory")
    check(
        (relay["RestartCount"], relay["State"]["Running"]) == (0, True), f"the relay did not live on: {relay['State']}"
    )
    check(await status_of(f"{stage.internal_url}/livez") == 200, "not alive after the load")
    check(0 < most < MEMORY_MIB, f"{most} MiB of {MEMORY_MIB} MiB")
    check(refused > 0, f"{let_in} calls fitted into {MEMORY_MIB} MiB; the limit was not shown")
    told = [line for line in await stage.compose.logs("relay") if line["event"] == "limit.lowered"]
    check(told and "memory" in told[0]["message"], "no line tells that memory allows fewer calls")
    sent = let_in * _TIMES * _ITEM_BYTES * 5 // 2 >> 20  # a quarter of a MiB each, from who reads nothing a whole one
    return f"{let_in} calls let in, {refused} refused, {sent} MiB to be carried: at most {most} of {MEMORY_MIB} MiB"


async def _load(http: aiohttp.ClientSession, door: asyncio.Semaphore, url: str, *, reads: bool) -> bool:
    """One call with large items, each of which comes back twice; whether it was let in."""
    size = _ITEM_BYTES if reads else 4 * _ITEM_BYTES
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x" * size}]}
    try:
        async with door:
            call = await http.ws_connect(f"{url}/v1/realtime?model=gpt-realtime", max_msg_size=0)
        async with call:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOAD_SECONDS):
                    for _ in range(_TIMES):
                        await call.send_json({"type": "conversation.item.create", "item": item})
                    while reads:
                        await call.receive()
                    await asyncio.sleep(_LOAD_SECONDS)
    except aiohttp.WSServerHandshakeError as refusal:
        check(refusal.status == 503, f"refused with {refusal.status}")
        return False
    return True


async def _peak_kib(stage: Stage) -> int:
    """The most that the container ever held, as the kernel counts it: v2 or v1, 0 where it does not say."""
    ask = (
        "for path in ('memory.peak', 'memory/memory.max_usage_in_bytes'):\n"
        "    try:\n"
        "        print(int(open('/sys/fs/cgroup/' + path).read()) // 1024)\n"
        "    except OSError:\n"
        "        pass\n"
    )
    said = (await stage.compose("exec", "-T", "relay", "python", "-c", ask)).split()
    return int(said[0]) if said else 0


def _mib(text: str) -> int:
    """What `docker stats` writes, such as 48.36MiB."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if text.strip().endswith(unit):
            return round(float(text.strip().removesuffix(unit)) * size) >> 20
    return 0


async def tls_with_secrets_as_files(stage: Stage) -> str:
    """Wss with a token through the front; key and tokens are files, and a new key is taken while calls go on."""
    image = await must(
        *stage.compose.command("--profile", "tls", "config", "--images"), env=stage.compose.environment()
    )
    name = next(line for line in image.splitlines() if "haproxy" in line)
    origin = await _have(stage, name)
    secrets = stage.folder / "secrets"
    (secrets / "tls").mkdir(parents=True)
    _secret(secrets / "openai-api-key", "sk-sim-good-the-first-key-0001\n")
    _secret(secrets / "client-tokens", f"e2e:{_TOKEN}\n")
    authority = Authority(stage.folder)
    certificate, key = secrets / "tls/relay.pem", secrets / "tls/relay.pem.key"
    authority.write_server_files(certificate, key)
    key.chmod(0o644)  # for the container's user; the folder above is closed to others
    variables = {
        **{name: value for name, value in stage.compose.variables.items() if name.startswith("PUBLISHED") or name == "BASE"},
        "SECRETS_DIR": str(secrets), "OPENAI_API_KEY_FILE": "/run/secrets/realtime-relay/openai-api-key",
        "OPENAI_BASE_URL": "http://127.0.0.1:8090/v1", "RELAY_DRAIN_SECONDS": "3",
    }  # fmt: skip
    await _anew(
        stage, Compose(stage.compose.project, ("compose/tls.env",), variables=variables), "relay", "simulator", "front"
    )
    context = ssl.create_default_context(cafile=str(authority.bundle))
    url = f"https://localhost:{stage.port('PUBLISHED_TLS_PORT')}/v1/realtime?model=gpt-realtime"
    headers = {"Authorization": f"Bearer {_TOKEN}", "X-Forwarded-For": "192.0.2.66"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
        check(await _handshake_status(http, url) == 401, "who shows no token came in")
        async with http.ws_connect(url, headers=headers) as call:
            check((await call.receive_json(timeout=10))["type"] == "session.created", "no session through the front")
            await _key_is_replaced(stage, secrets)
            event: Any = await _answer(call)
            check(event["type"] == "conversation.item.added", f"the open call after the new key: {event}")
            await stage.compose("kill", "--signal", "USR2", "front")  # as for a renewed certificate
            await asyncio.sleep(2)
            check(await _handshake_status(http, url, headers) == 101, "a new call after the front read its files again")
            while event["type"] != "conversation.item.done":
                event = await call.receive_json(timeout=5)
            event = await _answer(call)
            check(
                event["type"] == "conversation.item.added",
                f"the open call after the front read its files again: {event}",
            )
            stopping = asyncio.create_task(stage.compose("stop"))
            while (message := await call.receive(timeout=30)).type is aiohttp.WSMsgType.TEXT:
                pass
            check((message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001), f"the end of the call: {message}")
            await stopping
    started = next(line for line in await stage.compose.logs("relay") if line["event"] == "session.started")
    check(started["address"] != "192.0.2.66", "the relay believed what the caller wrote into X-Forwarded-For")
    check(started["client"] == "e2e", f"the client's name: {started}")
    await _open_access_does_not_start(stage)
    return f"401 without a token, a call over wss, a new key taken, 1001 through the front; {origin}"


async def _key_is_replaced(stage: Stage, secrets: Path) -> None:
    _secret(secrets / "new", "sk-sim-good-the-second-key-0002\n")
    (secrets / "new").rename(secrets / "openai-api-key")

    async def taken() -> bool:
        async with aiohttp.ClientSession() as http, http.get(f"{stage.internal_url}/metrics") as response:
            return 'key_rotations_total{result="taken"} 1.0' in await response.text()

    await until(taken, 30, "the new key")


async def _answer(call: aiohttp.ClientWebSocketResponse) -> Any:
    content = [{"type": "input_text", "text": "Still there?"}]
    item = {"type": "message", "role": "user", "content": content}
    await call.send_json({"type": "conversation.item.create", "item": item})
    return await call.receive_json(timeout=5)


async def _handshake_status(http: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None) -> int:
    try:
        async with http.ws_connect(url, headers=headers):
            return 101
    except aiohttp.WSServerHandshakeError as refusal:
        return refusal.status


async def _open_access_does_not_start(stage: Stage) -> None:
    """Without tokens everybody would come in through the front, so that it says so and ends."""
    words = ("run", "--rm", "--no-deps", "-T", "--env", "RELAY_ACCESS=open", "front")
    code, said = await stage.compose.attempt(*words)
    check(code != 0 and "RELAY_ACCESS is not tokens" in said, f"the front with open access: {code}, {said}")


def _secret(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


async def prometheus_and_alertmanager(stage: Stage) -> str:
    """Prometheus finds the relay by its name, has its rules, and finds Alertmanager. Grafana is left out, and told of."""
    missing = [name for name in _MONITORING if not (ROOT / "monitoring" / name).is_file()]
    if missing:
        stage.not_run.append(f"the profile observability, since there is no monitoring/{missing[0]}")
        return "not run"
    words = ("--profile", "observability", "config", "--images")
    images = (await must(*stage.compose.command(*words), env=stage.compose.environment())).split()
    origins = [await _have(stage, name) for name in sorted(set(images)) if name.startswith("prom/")]
    stage.not_run.append("Grafana: its image is left out here; the dashboards are tested by what they ask")
    variables = dict(stage.compose.variables) | {"OPENAI_API_KEY_FILE": "", "OPENAI_API_KEY": "sk-sim-good"}
    demo = dataclasses.replace(stage.compose, env_files=("compose/demo.env",), variables=variables)
    await _anew(stage, demo, "relay", "simulator", "prometheus", "alertmanager")
    prometheus = f"http://127.0.0.1:{stage.port('PUBLISHED_PROMETHEUS_PORT')}"

    async def scraped() -> bool:
        found = (await _json(f"{prometheus}/api/v1/query?query=realtime_relay_build_info"))["data"]["result"]
        return bool(found)

    async def linked() -> bool:
        return bool((await _json(f"{prometheus}/api/v1/alertmanagers"))["data"]["activeAlertmanagers"])

    await until(scraped, 60, "a scrape of the relay")
    await until(linked, 30, "Prometheus knowing Alertmanager")
    groups = (await _json(f"{prometheus}/api/v1/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    broken = [rule["name"] for rule in rules if rule["health"] == "err"]
    check(rules and not broken, f"rules: {len(rules)}, in error: {broken}")
    return f"the relay scraped, {len(rules)} rules without an error, Alertmanager known; {'; '.join(origins)}"


async def _have(stage: Stage, name: str) -> str:
    origin = await standins.have(name, stage.base)
    if origin.startswith("STAND-IN"):
        stage.stand_ins.append(name)
        stage.not_run.append(f"{name} itself: {origin}")
    return origin


async def _json(url: str) -> Any:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return json.loads(await response.text())
