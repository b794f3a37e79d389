"""Steps in the profile `demo`: health, confinement, conversation, failures, restart, drain."""

import asyncio
import time
from typing import Any, Final

import aiohttp

from conversations import tone
from failure_cases import FAILURE_CASES, NO_FAILURE
from tests.e2e.engine import Failed
from tests.e2e.stage import TOKEN, Stage, check, counts, status_of, until
from tools.conversation import create_client, disable_turn_detection, receive_response, send_audio, sha256

DRAIN_SECONDS: Final = 6.0
_SLOW: Final = ("stall-mid", "slow-reader", "say-nothing", "talk-too-long")
"""What takes its time: made all at once, before what makes the relay refuse everybody for a while."""
_GOING_AWAY: Final = 1001


async def it_comes_up_healthy(stage: Stage) -> str:
    """`up --wait` returns once the engine calls every container healthy."""
    drain = {"RELAY_DRAIN_SECONDS": f"{DRAIN_SECONDS:.0f}"}
    stage.compose.variables = {**stage.compose.variables, **drain}
    began = time.monotonic()
    await stage.compose("--profile", "demo", "up", "--wait")
    for service in ("relay", "simulator", "caller"):
        state = (await stage.compose.inspect(service))["State"]
        check(state["Health"]["Status"] == "healthy", f"{service}: {state}")
    return f"three containers healthy after {time.monotonic() - began:.0f} s"


async def it_runs_with_nothing_it_does_not_need(stage: Stage) -> str:
    """User 10001, no capability, nothing writable, limits, and no secret in the log or in the image's history."""
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
    said = (await stage.compose("exec", "-T", "relay", "python", "-c", probe)).splitlines()
    check(said[0] == "10001 10001 0 1", f"user, group, capabilities, no_new_privs: {said[0]}")
    check(said[1:] == ["Read-only file system"] * 5, f"writing: {said[1:]}")
    relay = await stage.compose.inspect("relay")
    check(relay["HostConfig"]["Memory"] == 512 << 20, "no memory limit")
    check(relay["HostConfig"]["PidsLimit"] == 100, "no limit of processes")
    lines = await stage.compose.logs("relay")
    check(any(line["event"] == "service.started" for line in lines), "no line tells of the start")
    check("sk-sim-good" not in str(lines), "the key is in the log")
    return f"user 10001, read-only, no capabilities, {len(lines)} log lines of JSON"


async def a_conversation_passes(stage: Stage) -> str:
    """The official SDK speaks with the provider through the container, and every byte comes back."""
    audio = tone(2.0)
    async with create_client(stage.url, TOKEN) as client, client.realtime.connect(model="gpt-realtime") as connection:
        await disable_turn_detection(connection)
        await send_audio(connection, audio, pace=4)
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        turn = await receive_response(connection)
    check(sha256(audio) == sha256(bytes(turn.audio)), "the audio differs")
    return f"{len(audio)} bytes of speech there and back"


async def every_failure_is_told(stage: Stage) -> str:
    """The caller is told the reason that it was promised, and the relay counts that same reason."""
    before = await counts(stage)
    fast = [name for name in FAILURE_CASES if name not in _SLOW]
    slow = [_fail(stage, name) for name in _SLOW]
    told = "".join(
        await asyncio.gather(*slow, _fail(stage, *fast, after=3.0))
    )  # by then the calls of the slow are open
    for name, case in FAILURE_CASES.items():
        check(f"{name}: " in told, f"{name} was not made")
        if case.observed_reason == case.reason:
            check(f"{case.reason} - " in told, f"{name}: the caller was not told {case.reason}:\n{told}")
    reasons = {case.reason for case in FAILURE_CASES.values()} - {NO_FAILURE}
    missing = await _not_counted(stage, reasons, before)
    check(not missing, f"the relay did not count {', '.join(sorted(missing))}:\n{told}")
    return f"{len(FAILURE_CASES)} failures, {len(reasons)} reasons"


async def _not_counted(stage: Stage, reasons: set[str], before: dict[str, float]) -> set[str]:
    """The reasons whose count has not grown; a session counts when both its sockets are gone, after its client was told."""
    deadline = time.monotonic() + 10
    while True:
        after = await counts(stage)
        missing = {reason for reason in reasons if after.get(reason, 0) <= before.get(reason, 0)}
        if not missing or time.monotonic() > deadline:
            return missing
        await asyncio.sleep(0.5)


async def _fail(stage: Stage, *names: str, after: float = 0.0) -> str:
    await asyncio.sleep(after)
    words = ("exec", "-T", "caller", "python", "/demo/caller.py", "fail", "--pause", "0", *names)
    code, told = await stage.compose.attempt(*words, seconds=300)
    check(code == 0, f"exit code {code} of the caller:\n{told}")
    return told


async def a_kill_restarts(stage: Stage) -> str:
    """The program is killed, the engine starts it again, and calls come about again."""
    count = (await stage.compose.inspect("relay"))["RestartCount"]
    # All but init: as the kernel does when memory is short. `docker kill` would be taken for a wish, and not restarted.
    kill = (
        "import os, signal\n"
        "for number in filter(str.isdigit, os.listdir('/proc')):\n"
        "    int(number) in (1, os.getpid()) or os.kill(int(number), signal.SIGKILL)\n"
    )
    await stage.compose.attempt("exec", "-T", "relay", "python", "-c", kill)
    began = time.monotonic()

    async def restarted() -> bool:
        return bool((await stage.compose.inspect("relay"))["RestartCount"] == count + 1)

    async def ready() -> bool:
        return await status_of(f"{stage.url}/readyz") == 200

    async def healthy() -> bool:
        states = [(await stage.compose.inspect(name))["State"] for name in ("relay", "simulator", "caller")]
        return all(state["Health"]["Status"] == "healthy" for state in states)

    await until(restarted, 15, "the restart of the relay")
    await until(ready, 60, "readiness after the restart, and with it the simulator's")
    answered = time.monotonic() - began
    await until(healthy, 60, "health after the restart")
    await a_conversation_passes(stage)
    return f"ready after {answered:.0f} s, the simulator's own restart included"


async def a_stop_drains(stage: Stage) -> str:
    """`docker compose stop`: the open call goes on while the relay drains, nobody new comes in, then 1001 and exit code 0."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    url = f"{stage.url}/v1/realtime?model=gpt-realtime"
    async with aiohttp.ClientSession(headers=headers) as http, http.ws_connect(url) as call:
        check((await call.receive_json(timeout=10))["type"] == "session.created", "no session")
        began = time.monotonic()
        stopping = asyncio.create_task(stage.compose("stop", "relay"))
        await asyncio.sleep(DRAIN_SECONDS / 3)
        refusal = await _refusal_of(http, url)
        check(refusal == "relay_draining", f"a new call while draining: {refusal}")
        await call.send_json({"type": "conversation.item.create", "item": _words("Are you still there?")})
        event: Any = await call.receive_json(timeout=5)
        check(event["type"] == "conversation.item.added", f"the open call while draining: {event}")
        while (message := await call.receive(timeout=30)).type is aiohttp.WSMsgType.TEXT:
            pass
        lasted = time.monotonic() - began
        check(message.type is aiohttp.WSMsgType.CLOSE, f"the end of the call: {message}")
        check(message.data == _GOING_AWAY, f"the end of the call: {message}")
        check(lasted >= DRAIN_SECONDS - 1, f"the call was closed after {lasted:.1f} s, before the drain was over")
        await stopping
    state = (await stage.compose.inspect("relay"))["State"]
    check((state["ExitCode"], state["OOMKilled"]) == (0, False), f"the end of the relay: {state}")
    whole = time.monotonic() - began
    return f"1001 after {lasted:.1f} s of a drain of {DRAIN_SECONDS:.0f} s, exit code 0 after {whole:.1f} s"


async def _refusal_of(http: aiohttp.ClientSession, url: str) -> str:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    async with http.get(url, headers=upgrade | key) as response:
        if response.status == 101:
            raise Failed("a new call was let in while draining")
        body = await response.json(content_type=None)
    return str(body["error"]["code"])


def _words(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
