"""Steps in the profile `demo`: health, confinement, conversation, failures, restart, drain."""

import asyncio
import time
from typing import Any, Final

import aiohttp

from conversations import tone
from failure_cases import FAILURE_CASES, NO_FAILURE
from tests.e2e.deployment import TOKEN, Deployment, check, reason_counts, status_of, until
from tests.e2e.engine import CheckFailed
from tools.conversation import create_client, disable_turn_detection, receive_response, send_audio, sha256

DRAIN_SECONDS: Final = 6.0
_SLOW: Final = ("stall-mid", "slow-reader", "say-nothing", "talk-too-long")
"""Cases that take seconds: caused concurrently, before the cases after which the relay refuses every client for a while."""
_GOING_AWAY: Final = 1001


async def containers_become_healthy(deployment: Deployment) -> str:
    """`up --wait` returns, and every container is healthy."""
    drain = {"RELAY_DRAIN_SECONDS": f"{DRAIN_SECONDS:.0f}"}
    deployment.compose.variables = {**deployment.compose.variables, **drain}
    started = time.monotonic()
    await deployment.compose("--profile", "demo", "up", "--wait")
    for service in ("relay", "simulator", "caller"):
        state = (await deployment.compose.inspect(service))["State"]
        check(state["Health"]["Status"] == "healthy", f"{service}: {state}")
    return f"three containers healthy after {time.monotonic() - started:.0f} s"


async def relay_container_is_confined(deployment: Deployment) -> str:
    """User 10001, no capability, nothing writable, limits, and no key in the log."""
    probe = (
        "import os\n"
        "status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)\n"
        "print(os.getuid(), os.getgid(), int(status['CapEff'], 16), status['NoNewPrivs'])\n"
        "for path in ('/x', '/app/x', '/venv/x', '/tmp/x', '/run/secrets/realtime-relay/x'):\n"
        "    try:\n"
        "        open(path, 'w'); print('WRITABLE', path)\n"
        "    except OSError as fault:\n"
        "        print(fault.strerror)\n"
    )
    output = (await deployment.compose("exec", "-T", "relay", "python", "-c", probe)).splitlines()
    check(output[0] == "10001 10001 0 1", f"user, group, capabilities, no_new_privs: {output[0]}")
    check(output[1:] == ["Read-only file system"] * 5, f"writing: {output[1:]}")
    relay = await deployment.compose.inspect("relay")
    check(relay["HostConfig"]["Memory"] == 512 << 20, "no memory limit")
    check(relay["HostConfig"]["PidsLimit"] == 100, "no limit on processes")
    lines = await deployment.compose.logs("relay")
    check(any(line["event"] == "service.started" for line in lines), "the log has no service.started")
    check("sk-sim-good" not in str(lines), "the key is in the log")
    return f"user 10001, read-only, no capabilities, {len(lines)} log lines of JSON"


async def conversation_passes_unchanged(deployment: Deployment) -> str:
    """The official SDK sends speech through the container, and every byte comes back."""
    audio = tone(2.0)
    async with (
        create_client(deployment.url, TOKEN) as client,
        client.realtime.connect(model="gpt-realtime") as connection,
    ):
        await disable_turn_detection(connection)
        await send_audio(connection, audio, pace=4)
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        turn = await receive_response(connection)
    check(sha256(audio) == sha256(bytes(turn.audio)), "the audio differs")
    return f"{len(audio)} bytes of speech there and back"


async def every_failure_reports_its_reason(deployment: Deployment) -> str:
    """The client receives the expected reason, and the relay counts the same reason."""
    before = await reason_counts(deployment)
    fast = [name for name in FAILURE_CASES if name not in _SLOW]
    slow = [_cause_failures(deployment, name) for name in _SLOW]
    # After three seconds the slow cases have opened their calls.
    output = "".join(await asyncio.gather(*slow, _cause_failures(deployment, *fast, after=3.0)))
    for name, case in FAILURE_CASES.items():
        check(f"{name}: " in output, f"{name} was not caused")
        if case.observed_reason == case.reason:
            check(f"{case.reason} - " in output, f"{name}: the client did not receive {case.reason}:\n{output}")
    reasons = {case.reason for case in FAILURE_CASES.values()} - {NO_FAILURE}
    missing = await _reasons_not_counted(deployment, reasons, before)
    check(not missing, f"the relay did not count {', '.join(sorted(missing))}:\n{output}")
    return f"{len(FAILURE_CASES)} failures, {len(reasons)} reasons"


async def _reasons_not_counted(deployment: Deployment, reasons: set[str], before: dict[str, float]) -> set[str]:
    """The reasons whose count has not grown. A session counts once both sockets are closed, later than its client sees it."""
    deadline = time.monotonic() + 60
    while True:
        after = await reason_counts(deployment)
        missing = {reason for reason in reasons if after.get(reason, 0) <= before.get(reason, 0)}
        if not missing or time.monotonic() > deadline:
            return missing
        await asyncio.sleep(0.5)


async def _cause_failures(deployment: Deployment, *names: str, after: float = 0.0) -> str:
    await asyncio.sleep(after)
    arguments = ("exec", "-T", "caller", "python", "/demo/caller.py", "fail", "--pause", "0", *names)
    code, output = await deployment.compose.attempt(*arguments, seconds=300)
    check(code == 0, f"exit code {code} of the client:\n{output}")
    return output


async def killed_relay_restarts(deployment: Deployment) -> str:
    """The engine restarts a killed relay, and calls succeed again."""
    count = (await deployment.compose.inspect("relay"))["RestartCount"]
    # All processes except init, as the kernel does when memory runs short. The engine does not restart after `docker kill`.
    kill = (
        "import os, signal\n"
        "for number in filter(str.isdigit, os.listdir('/proc')):\n"
        "    int(number) in (1, os.getpid()) or os.kill(int(number), signal.SIGKILL)\n"
    )
    await deployment.compose.attempt("exec", "-T", "relay", "python", "-c", kill)
    started = time.monotonic()

    async def restarted() -> bool:
        return bool((await deployment.compose.inspect("relay"))["RestartCount"] == count + 1)

    async def ready() -> bool:
        return await status_of(f"{deployment.url}/readyz") == 200

    async def healthy() -> bool:
        states = [(await deployment.compose.inspect(name))["State"] for name in ("relay", "simulator", "caller")]
        return all(state["Health"]["Status"] == "healthy" for state in states)

    await until(restarted, 15, "the restart of the relay")
    await until(ready, 60, "readiness of relay and simulator after the restart")
    answered = time.monotonic() - started
    await until(healthy, 60, "health after the restart")
    await conversation_passes_unchanged(deployment)
    return f"ready after {answered:.0f} s, including the restart of the simulator"


async def stop_drains_sessions(deployment: Deployment) -> str:
    """`docker compose stop`: an open call continues during the drain, new calls are refused, then 1001 and exit code 0."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"{deployment.url}/v1/realtime?model=gpt-realtime"
    async with aiohttp.ClientSession(headers=headers) as http, http.ws_connect(url) as call:
        check((await call.receive_json(timeout=60))["type"] == "session.created", "no session")
        started = time.monotonic()
        stopping = asyncio.create_task(deployment.compose("stop", "relay"))

        async def draining() -> bool:
            return await status_of(f"{deployment.internal_url}/readyz") == 503

        await until(draining, DRAIN_SECONDS, "readiness closed by the drain")
        refusal = await _refusal_reason(http, url)
        check(refusal == "relay_draining", f"a new call during the drain: {refusal}")
        await call.send_json({"type": "conversation.item.create", "item": _text_message("Are you still there?")})
        event: Any = await call.receive_json(timeout=60)
        check(event["type"] == "conversation.item.added", f"the open call during the drain: {event}")
        while (message := await call.receive(timeout=120)).type is aiohttp.WSMsgType.TEXT:
            pass
        lasted = time.monotonic() - started
        check(message.type is aiohttp.WSMsgType.CLOSE, f"the end of the call: {message}")
        check(message.data == _GOING_AWAY, f"the end of the call: {message}")
        check(lasted >= DRAIN_SECONDS - 1, f"the call was closed after {lasted:.1f} s, before the end of the drain")
        await stopping
    state = (await deployment.compose.inspect("relay"))["State"]
    check((state["ExitCode"], state["OOMKilled"]) == (0, False), f"the end of the relay: {state}")
    total = time.monotonic() - started
    return f"1001 after {lasted:.1f} s of a drain of {DRAIN_SECONDS:.0f} s, exit code 0 after {total:.1f} s"


async def _refusal_reason(http: aiohttp.ClientSession, url: str) -> str:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    async with http.get(url, headers=upgrade | key) as response:
        if response.status == 101:
            raise CheckFailed("a new call was admitted during the drain")
        body = await response.json(content_type=None)
    return str(body["error"]["code"])


def _text_message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
