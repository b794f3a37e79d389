"""How the sessions of unmodified clients end that are killed in mid-speech, and those of clients whose relay stops."""

import asyncio
import json
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from service.simulator import ConnectionRecord, Simulator
from tests.e2e.live_clients import checks
from tests.e2e.live_clients.clients import Client
from tests.e2e.live_clients.outcome import ClientFailed
from tests.e2e.live_clients.relay import Relay, check_secrets, logged, relay_for, talk
from tests.support.harness import eventually

CLOSE_SECONDS: Final = 1.0
"""Within which upstream gets `session.close`."""
_REPETITIONS: Final = 8  # of the recorded sentence: the client speaks until its end
_MESSAGES: Final = 10  # of the client, then it is in mid-speech
_START_SECONDS: Final = 90.0
_DRAIN_SECONDS: Final = 17  # sessions of GPT-Live end 15 s earlier


async def be_killed(client: Client, environment: Path, speech: bytes) -> str:
    """The client's process gets SIGKILL in mid-speech; returns a summary. Raises ClientFailed."""
    async with Simulator() as simulator, _relay(client, simulator) as relay:
        closed_after = 0.0

        async def kill(program: asyncio.subprocess.Process) -> None:
            nonlocal closed_after
            record = await _speaking(simulator)
            killed_at = time.monotonic()
            program.kill()
            closed_after = await asyncio.wait_for(record.wait_client_event("session.close"), 30) - killed_at

        outcome = await talk(client, environment, speech * _REPETITIONS, relay, kill)
        billed = checks.check_end(await logged(relay.process, "session.ended"), client.name, "client_lost")
        checks.check_counts(await check_secrets(relay, outcome), "client_lost")
    if closed_after > CLOSE_SECONDS:
        raise ClientFailed(f"upstream got session.close {closed_after:.1f} s after the client was killed")
    return f"killed: session.close after {closed_after * 1000:.0f} ms, {billed}"


async def be_drained(client: Client, environment: Path, speech: bytes) -> str:
    """The relay gets SIGTERM while the client speaks; returns a summary. Raises ClientFailed."""
    async with Simulator() as simulator, _relay(client, simulator, RELAY_DRAIN_SECONDS=str(_DRAIN_SECONDS)) as relay:

        async def stop(_: asyncio.subprocess.Process) -> None:
            await _speaking(simulator)
            relay.process.process.terminate()

        outcome = await talk(client, environment, speech * _REPETITIONS, relay, stop)
        code = await relay.process.rest()
        ended = [line for line in relay.process.lines if line["event"] == "session.ended"]
        if code or len(ended) != 1:
            raise ClientFailed(f"the relay exited with {code} after {len(ended)} sessions")
        billed = checks.check_end(ended[0], client.name, "relay_draining")
        log = "\n".join(map(json.dumps, relay.process.lines))
        checks.check_secrets({"log": log}, checks.relay_secrets(relay.token))
        if "relay_draining" not in outcome.output:
            raise ClientFailed(f"it did not show relay_draining:\n{outcome.output[-3000:]}")
    return f"drained: {billed}"


def _relay(client: Client, simulator: Simulator, **settings: str) -> AbstractAsyncContextManager[Relay]:
    return relay_for(client.name, checks.KEY_CANARY, RELAY_UPSTREAM="auto", OPENAI_BASE_URL=simulator.url, **settings)


async def _speaking(simulator: Simulator) -> ConnectionRecord:
    """Wait until the client is in mid-speech; returns the connection of its session."""

    def found() -> list[ConnectionRecord]:
        return [
            record
            for record in simulator.connections
            if "/live/" in record.path and record.messages_received >= _MESSAGES
        ]

    await eventually(lambda: bool(found()), _START_SECONDS)
    return found()[0]
