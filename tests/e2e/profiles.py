"""Steps about load and the other profiles: memory limit, TLS with secret files, Prometheus and Alertmanager."""

import asyncio
import contextlib
import dataclasses
import json
import ssl
import time
from pathlib import Path
from typing import Any, Final

import aiohttp

from tests.e2e import substitute_images
from tests.e2e.deployment import Deployment, check, status_of, until
from tests.e2e.engine import ROOT, Compose, run_checked
from tests.support.certificates import Authority

MEMORY_MIB: Final = 192
_CALLS: Final = 450  # more than the memory allows: (192 - 100) MiB / 256 KiB = 368
_ITEM_BYTES: Final = 256 << 10
_ITEMS_PER_CALL: Final = 4
_LOAD_SECONDS: Final = 15.0
_TEMPORARY_SECONDS: Final = 45.0  # the health check waits 50 s for a temporary failure to pass
_DIALS: Final = 40  # concurrent; RELAY_MAX_DIALS is 100, and one client gets half
_TOKEN: Final = "e2e-token-0123456789"
_MONITORING: Final = ("prometheus/prometheus.yml", "prometheus/rules.yaml", "alertmanager/alertmanager.yml")


async def _restart(deployment: Deployment, compose: Compose, *services: str) -> None:
    """Stop everything and start these services with other settings."""
    await deployment.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5")
    deployment.compose = compose
    await compose("up", "--wait", *services)


def _published(deployment: Deployment) -> dict[str, str]:
    """The variables that hold for every set of settings: ports and base image."""
    variables = deployment.compose.variables
    return {name: value for name, value in variables.items() if name.startswith("PUBLISHED") or name == "BASE"}


async def memory_limit_refuses_calls(deployment: Deployment) -> str:
    """More calls than fit, large messages, half of the clients do not read: the relay refuses calls and is not OOM-killed."""
    settings = deployment.folder / "load.env"
    settings.write_text("RELAY_ACCESS=open\nRELAY_OPEN_ANYWHERE=true\n", encoding="utf-8")
    override = deployment.folder / "load.yml"
    # The simulator keeps every item of every conversation.
    override.write_text(
        f"services:\n  relay: {{mem_limit: {MEMORY_MIB}m}}\n  simulator: {{mem_limit: 2g}}\n", encoding="utf-8"
    )
    variables = {
        **_published(deployment),
        "SETTINGS_FILE": str(settings), "OPENAI_BASE_URL": "http://127.0.0.1:8090/v1", "OPENAI_API_KEY": "sk-sim-good",
        "RELAY_DRAIN_SECONDS": "1",
    }  # fmt: skip
    files = ("docker-compose.yml", str(override))
    await _restart(deployment, Compose(deployment.compose.project, (), files, variables), "relay", "simulator")
    peak = 0

    async def watch() -> None:
        nonlocal peak
        while True:
            used = await run_checked("docker", "stats", "--no-stream", "--format", "{{.MemUsage}}", container)
            peak = max(peak, _mib_from(used.split("/")[0]))
            await asyncio.sleep(0.5)

    container = (await deployment.compose("ps", "--quiet", "relay")).strip()
    watching = asyncio.create_task(watch())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        dials = asyncio.Semaphore(_DIALS)
        all_answered = asyncio.Barrier(_CALLS)
        calls = await asyncio.gather(
            *(_load_relay(http, dials, all_answered, deployment.url, reads=n % 2 == 0) for n in range(_CALLS))
        )
    watching.cancel()
    peak = max(peak, _mib_from(f"{await _peak_memory_kib(deployment)}KiB"))
    admitted, refused = sum(calls), len(calls) - sum(calls)
    relay = await deployment.compose.inspect("relay")
    check(not relay["State"]["OOMKilled"], "the relay was OOM-killed")
    check(
        (relay["RestartCount"], relay["State"]["Running"]) == (0, True),
        f"the relay did not keep running: {relay['State']}",
    )
    check(await status_of(f"{deployment.internal_url}/livez") == 200, "/livez fails after the load")
    check(0 < peak < MEMORY_MIB, f"{peak} MiB of {MEMORY_MIB} MiB")
    check(refused > 0, f"{admitted} calls fitted into {MEMORY_MIB} MiB; the limit was not reached")
    lowered = [line for line in await deployment.compose.logs("relay") if line["event"] == "limit.lowered"]
    check(lowered and "memory" in lowered[0]["message"], "limit.lowered does not name memory")
    # A quarter of a MiB per item from clients that read, 1 MiB from the others.
    sent = admitted * _ITEMS_PER_CALL * _ITEM_BYTES * 5 // 2 >> 20
    return f"{admitted} calls admitted, {refused} refused, {sent} MiB to forward: peak {peak} of {MEMORY_MIB} MiB"


async def _load_relay(
    http: aiohttp.ClientSession, dials: asyncio.Semaphore, all_answered: asyncio.Barrier, url: str, *, reads: bool
) -> bool:
    """One call with large items, each of which comes back twice; returns whether it was admitted.

    The call stays open until all calls have been admitted or refused, however slow the machine is.
    """
    size = _ITEM_BYTES if reads else 4 * _ITEM_BYTES
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x" * size}]}
    try:
        async with dials:
            call = await http.ws_connect(f"{url}/v1/realtime?model=gpt-realtime", max_msg_size=0)
        async with call:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOAD_SECONDS):
                    for _ in range(_ITEMS_PER_CALL):
                        await call.send_json({"type": "conversation.item.create", "item": item})
                    while reads:
                        await call.receive()
                    await asyncio.sleep(_LOAD_SECONDS)
            await all_answered.wait()
    except aiohttp.WSServerHandshakeError as refusal:
        check(refusal.status == 503, f"refused with {refusal.status}")
        await all_answered.wait()
        return False
    return True


async def _peak_memory_kib(deployment: Deployment) -> int:
    """The peak memory of the container from cgroup v2 or v1; 0 if neither has it."""
    ask = (
        "for path in ('memory.peak', 'memory/memory.max_usage_in_bytes'):\n"
        "    try:\n"
        "        print(int(open('/sys/fs/cgroup/' + path).read()) // 1024)\n"
        "    except OSError:\n"
        "        pass\n"
    )
    output = (await deployment.compose("exec", "-T", "relay", "python", "-c", ask)).split()
    return int(output[0]) if output else 0


def _mib_from(text: str) -> int:
    """MiB from a value of `docker stats`, such as 48.36MiB."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if text.strip().endswith(unit):
            return round(float(text.strip().removesuffix(unit)) * size) >> 20
    return 0


async def rejected_key_is_named_soon(deployment: Deployment) -> str:
    """`up --wait` fails long before a temporary failure would, and the engine shows reason and remedy."""
    variables = _published(deployment) | {"OPENAI_API_KEY": "sk-sim-key-rejected"}
    demo = Compose(deployment.compose.project, ("compose/demo.env",), variables=variables)
    await deployment.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5")
    deployment.compose = demo
    started = time.monotonic()
    code, output = await demo.attempt("up", "--wait", "relay", "simulator")
    took = time.monotonic() - started
    check(code != 0 and "unhealthy" in output, f"`up --wait` with a rejected key: {code}\n{output}")
    check(took < _TEMPORARY_SECONDS, f"`up --wait` failed after {took:.0f} s")
    log = (await demo.inspect("relay"))["State"]["Health"]["Log"][-1]["Output"]
    check("key failed: key_rejected: The provider rejected" in log and "Set OPENAI_API_KEY" in log, f"no cause: {log}")
    return f"unhealthy after {took:.0f} s, with reason and remedy"


async def unreachable_provider_is_named(deployment: Deployment) -> str:
    """`up --wait` fails before the relay's grace period ends, after which /readyz answers 200 during an outage."""
    variables = _published(deployment) | {"OPENAI_API_KEY": "sk-sim-good", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}
    await deployment.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5")
    deployment.compose = Compose(deployment.compose.project, ("compose/demo.env",), variables=variables)
    code, output = await deployment.compose.attempt("up", "--wait", "relay")
    check(code != 0 and "unhealthy" in output, f"`up --wait` without a provider: {code}\n{output}")
    log = (await deployment.compose.inspect("relay"))["State"]["Health"]["Log"][0]["Output"]
    check("connect_refused" in log, f"no cause: {log}")
    return "unhealthy, with the reason"


async def tls_front_with_secret_files(deployment: Deployment) -> str:
    """Calls over wss through the TLS front; key and tokens are files; a new key is adopted while calls continue."""
    image = await run_checked(
        *deployment.compose.command("--profile", "tls", "config", "--images"), env=deployment.compose.environment()
    )
    name = next(line for line in image.splitlines() if "haproxy" in line)
    origin = await _provide(deployment, name)
    secrets = deployment.folder / "secrets"
    (secrets / "tls").mkdir(parents=True)
    _write_secret(secrets / "openai-api-key", "sk-sim-good-the-first-key-0001\n")
    _write_secret(secrets / "client-tokens", f"e2e:{_TOKEN}\n")
    authority = Authority(deployment.folder)
    certificate, key = secrets / "tls/relay.pem", secrets / "tls/relay.pem.key"
    authority.write_server_files(certificate, key)
    key.chmod(0o644)  # for the container's user; the folder above is closed to others
    variables = {
        **_published(deployment),
        "SECRETS_DIR": str(secrets), "OPENAI_API_KEY_FILE": "/run/secrets/realtime-relay/openai-api-key",
        "OPENAI_BASE_URL": "http://127.0.0.1:8090/v1", "RELAY_DRAIN_SECONDS": "3",
    }  # fmt: skip
    await _restart(
        deployment,
        Compose(deployment.compose.project, ("compose/tls.env",), variables=variables),
        "relay",
        "simulator",
        "front",
    )
    context = ssl.create_default_context(cafile=str(authority.bundle))
    url = f"https://localhost:{deployment.port('PUBLISHED_TLS_PORT')}/v1/realtime?model=gpt-realtime"
    headers = {"Authorization": f"Bearer {_TOKEN}", "X-Forwarded-For": "192.0.2.66"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as http:
        check(await _handshake_status(http, url) == 401, "a client without a token was admitted")
        async with http.ws_connect(url, headers=headers) as call:
            check((await call.receive_json(timeout=60))["type"] == "session.created", "no session through the front")
            await _replace_key(deployment, secrets)
            event: Any = await _send_item(call)
            check(event["type"] == "conversation.item.added", f"the open call after the new key: {event}")
            await deployment.compose("kill", "--signal", "USR2", "front")  # as for a renewed certificate
            await asyncio.sleep(2)
            check(await _handshake_status(http, url, headers) == 101, "a new call after the front reloaded its files")
            while event["type"] != "conversation.item.done":
                event = await call.receive_json(timeout=60)
            event = await _send_item(call)
            check(
                event["type"] == "conversation.item.added",
                f"the open call after the front reloaded its files: {event}",
            )
            stopping = asyncio.create_task(deployment.compose("stop"))
            while (message := await call.receive(timeout=120)).type is aiohttp.WSMsgType.TEXT:
                pass
            check((message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001), f"the end of the call: {message}")
            await stopping
    started = next(line for line in await deployment.compose.logs("relay") if line["event"] == "session.started")
    check(started["address"] != "192.0.2.66", "the relay trusted X-Forwarded-For from a client")
    check(started["client"] == "e2e", f"the client's name: {started}")
    await _check_front_refuses_open_access(deployment)
    return f"401 without a token, a call over wss, a new key adopted, 1001 through the front; {origin}"


async def _replace_key(deployment: Deployment, secrets: Path) -> None:
    _write_secret(secrets / "new", "sk-sim-good-the-second-key-0002\n")
    (secrets / "new").rename(secrets / "openai-api-key")

    async def new_key_in_use() -> bool:
        async with aiohttp.ClientSession() as http, http.get(f"{deployment.internal_url}/metrics") as response:
            return 'key_rotations_total{result="taken"} 1.0' in await response.text()

    await until(new_key_in_use, 30, "the new key")


async def _send_item(call: aiohttp.ClientWebSocketResponse) -> Any:
    content = [{"type": "input_text", "text": "Still there?"}]
    item = {"type": "message", "role": "user", "content": content}
    await call.send_json({"type": "conversation.item.create", "item": item})
    return await call.receive_json(timeout=60)


async def _handshake_status(http: aiohttp.ClientSession, url: str, headers: dict[str, str] | None = None) -> int:
    try:
        async with http.ws_connect(url, headers=headers):
            return 101
    except aiohttp.WSServerHandshakeError as refusal:
        return refusal.status


async def _check_front_refuses_open_access(deployment: Deployment) -> None:
    """Without tokens the front would admit every client, so that it reports that and exits."""
    arguments = ("run", "--rm", "--no-deps", "-T", "--env", "RELAY_ACCESS=open", "front")
    code, output = await deployment.compose.attempt(*arguments)
    check(code != 0 and "RELAY_ACCESS is not tokens" in output, f"the front with open access: {code}, {output}")


def _write_secret(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


async def prometheus_and_alertmanager_connect(deployment: Deployment) -> str:
    """Prometheus scrapes the relay, loads the rules, and finds Alertmanager. Grafana is not started."""
    missing = [name for name in _MONITORING if not (ROOT / "monitoring" / name).is_file()]
    if missing:
        deployment.not_run.append(f"the profile observability, since there is no monitoring/{missing[0]}")
        return "not run"
    arguments = ("--profile", "observability", "config", "--images")
    images = (await run_checked(*deployment.compose.command(*arguments), env=deployment.compose.environment())).split()
    origins = [await _provide(deployment, name) for name in sorted(set(images)) if name.startswith("prom/")]
    deployment.not_run.append("Grafana: its image is not used here; other tests run the queries of the dashboards")
    variables = dict(deployment.compose.variables) | {"OPENAI_API_KEY_FILE": "", "OPENAI_API_KEY": "sk-sim-good"}
    demo = dataclasses.replace(deployment.compose, env_files=("compose/demo.env",), variables=variables)
    await _restart(deployment, demo, "relay", "simulator", "prometheus", "alertmanager")
    prometheus = f"http://127.0.0.1:{deployment.port('PUBLISHED_PROMETHEUS_PORT')}"

    async def scraped() -> bool:
        found = (await _json(f"{prometheus}/api/v1/query?query=realtime_relay_build_info"))["data"]["result"]
        return bool(found)

    async def linked() -> bool:
        return bool((await _json(f"{prometheus}/api/v1/alertmanagers"))["data"]["activeAlertmanagers"])

    await until(scraped, 60, "a scrape of the relay")
    await until(linked, 30, "Alertmanager among Prometheus' targets")
    groups = (await _json(f"{prometheus}/api/v1/rules"))["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    broken = [rule["name"] for rule in rules if rule["health"] == "err"]
    check(rules and not broken, f"rules: {len(rules)}, in error: {broken}")
    return f"the relay scraped, {len(rules)} rules without an error, Alertmanager found; {'; '.join(origins)}"


async def _provide(deployment: Deployment, name: str) -> str:
    origin = await substitute_images.provide(name, deployment.base)
    if origin.startswith("SUBSTITUTE"):
        deployment.created_images.append(name)
        deployment.not_run.append(f"{name} itself: {origin}")
    return origin


async def _json(url: str) -> Any:
    async with aiohttp.ClientSession() as http, http.get(url) as response:
        return json.loads(await response.text())
