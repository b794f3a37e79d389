"""The relay of one client, and what it logged and counted."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.live_clients import checks
from tests.e2e.live_clients.clients import Client, Watch
from tests.e2e.live_clients.outcome import ClientFailed, Outcome
from tests.support.relay_process import Process, serving


@dataclass(frozen=True, slots=True)
class Relay:
    """A relay, and the token of its client."""

    process: Process
    port: int
    internal_url: str
    token: str


@asynccontextmanager
async def relay_for(client: str, key: str, **others: str) -> AsyncIterator[Relay]:
    """A relay on the built-in simulator, which behaves as the key says, and whose only client has this name."""
    token = f"CANARY1token-{client}-abcdefghijkl"
    settings = {
        "RELAY_UPSTREAM": "simulator",
        "RELAY_ACCESS": "tokens",
        "RELAY_CLIENT_TOKENS": f"{client}:{token}",
        "RELAY_LOG_LEVEL": "debug",
        "OPENAI_API_KEY": key,
        **others,
    }
    async with serving(**settings) as (process, port, internal_url):
        yield Relay(process, port, internal_url, token)


async def talk(client: Client, environment: Path, speech: bytes, relay: Relay, watch: Watch | None = None) -> Outcome:
    """Run the client's program in an empty folder. Raises ClientFailed."""
    with tempfile.TemporaryDirectory(prefix=f"realtime-relay-{client.name}-", ignore_cleanup_errors=True) as folder:
        return await client.talk(environment, Path(folder), speech, port=relay.port, token=relay.token, watch=watch)


async def check_secrets(relay: Relay, outcome: Outcome) -> dict[str, float]:
    """Search log, metrics and the client's output; returns the metrics. Raises ClientFailed."""
    metrics, values = await asyncio.to_thread(checks.counts, relay.internal_url)
    log = "\n".join(map(json.dumps, relay.process.lines))
    checks.check_secrets({"log": log, "metrics": metrics}, checks.relay_secrets(relay.token))
    checks.check_secrets({"client's output": outcome.output}, (checks.KEY_CANARY, checks.REFUSED_KEY))
    return values


async def logged(process: Process, name: str) -> Any:
    """The next log line with this event."""
    try:
        return await process.event(name)
    except (TimeoutError, AssertionError) as exc:
        raise ClientFailed(f"the relay logged no {name}: {exc}") from None
