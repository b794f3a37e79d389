"""`make e2e-live`: unmodified clients hold a spoken conversation with GPT-Live through the relay, on the built-in simulator.

    python -m tests.e2e.live_clients [--only NAME ...]

The programs are the examples of docs/clients.md. Each says a recorded sentence; the simulator repeats it, and every sample
must come back. Each is also refused once, for lack of credit, and must show why. Exit codes: 0 passed, 1 failed, 3 some
clients did not run, since this machine or its registries lack what they need.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.e2e.live_clients import checks
from tests.e2e.live_clients.clients import CLIENTS, Client
from tests.e2e.live_clients.environments import EnvironmentUnavailable, WrongPackage
from tests.e2e.live_clients.outcome import ClientFailed, Outcome
from tests.support.relay_process import Process, serving
from tools.voice import VoiceUnavailable, load_phrase

NOT_RUN: Final = 3
PHRASE: Final = "Front_Center"


@dataclass(frozen=True, slots=True)
class Relay:
    """A relay, and the token of its client."""

    process: Process
    port: int
    internal_url: str
    token: str


def main() -> int:
    """Install the clients, run them, print the results; returns the exit code."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # also terminate the child processes
    chosen = [client for client in CLIENTS if not options.only or client.name in options.only]
    try:
        speech = load_phrase(PHRASE)
    except VoiceUnavailable as exc:
        _print(f"NOT RUN: the clients of GPT-Live, since no recorded speech is available: {exc}")
        return NOT_RUN
    return asyncio.run(_run_all(chosen, speech))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.live_clients", description="Clients of GPT-Live.")
    parser.add_argument(
        "--only",
        action="append",
        choices=[client.name for client in CLIENTS],
        help="run this client; may be repeated. Default: all",
    )
    return parser.parse_args()


async def _run_all(clients: Sequence[Client], speech: bytes) -> int:
    started = time.monotonic()
    failed, not_run = 0, 0
    for client in clients:
        begun = time.monotonic()
        try:
            environment = await asyncio.to_thread(client.install)
            installed = time.monotonic()
            summary = [await run(client, environment, speech) for run in (_converse, _be_refused)]
        except EnvironmentUnavailable as exc:
            _print(f"NOT RUN: {client.name}: {exc}")
            not_run += 1
        except (ClientFailed, LookupError, WrongPackage) as exc:
            _print(f"FAILED: {client.name}: {exc}")
            failed += 1
        else:
            times = f"installed in {installed - begun:.0f} s, ran {time.monotonic() - installed:.0f} s"
            _print(f"{client.name}: {'; '.join(summary)} ({times})")
    counts = f"{len(clients) - failed - not_run} passed, {failed} failed, {not_run} not run"
    _print(f"{counts}, in {time.monotonic() - started:.0f} s")
    return 1 if failed else NOT_RUN if not_run else 0


@asynccontextmanager
async def _relay_for(client: Client, key: str) -> AsyncIterator[Relay]:
    """A relay on the built-in simulator, which behaves as the key says, and whose only client has the name of `client`."""
    token = f"CANARY1token-{client.name}-abcdefghijkl"
    settings = {
        "RELAY_UPSTREAM": "simulator",
        "RELAY_ACCESS": "tokens",
        "RELAY_CLIENT_TOKENS": f"{client.name}:{token}",
        "RELAY_LOG_LEVEL": "debug",
        "OPENAI_API_KEY": key,
    }
    async with serving(**settings) as (process, port, internal_url):
        yield Relay(process, port, internal_url, token)


async def _converse(client: Client, environment: Path, speech: bytes) -> str:
    """One conversation and what the relay recorded of it; returns a summary. Raises ClientFailed."""
    async with _relay_for(client, checks.KEY_CANARY) as relay:
        outcome = await _talk(client, environment, speech, relay)
        summary = outcome.check()
        billed = checks.check_end(await _logged(relay.process, "session.ended"), client.name)
        checks.check_counts(await _check_secrets(relay, outcome))
    return f"{summary}; {billed}"


async def _be_refused(client: Client, environment: Path, speech: bytes) -> str:
    """A start that the provider refuses, and what client and relay show of it; returns a summary. Raises ClientFailed."""
    async with _relay_for(client, checks.REFUSED_KEY) as relay:
        outcome = await _talk(client, environment, speech, relay)
        event = await _logged(relay.process, "upstream.connect_failed")
        checks.check_refusal(event, client.name, await _check_secrets(relay, outcome))
    return outcome.check_refusal(*client.shows)


async def _talk(client: Client, environment: Path, speech: bytes, relay: Relay) -> Outcome:
    with tempfile.TemporaryDirectory(prefix=f"realtime-relay-{client.name}-", ignore_cleanup_errors=True) as folder:
        return await client.talk(environment, Path(folder), speech, port=relay.port, token=relay.token)


async def _check_secrets(relay: Relay, outcome: Outcome) -> dict[str, float]:
    """Search log, metrics and the client's output; returns the metrics. Raises ClientFailed."""
    metrics, values = await asyncio.to_thread(checks.counts, relay.internal_url)
    log = "\n".join(map(json.dumps, relay.process.lines))
    checks.check_secrets({"log": log, "metrics": metrics}, checks.relay_secrets(relay.token))
    checks.check_secrets({"client's output": outcome.output}, (checks.KEY_CANARY, checks.REFUSED_KEY))
    return values


async def _logged(process: Process, name: str) -> Any:
    """The next log line with this event."""
    try:
        return await process.event(name)
    except (TimeoutError, AssertionError) as exc:
        raise ClientFailed(f"the relay logged no {name}: {exc}") from None


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command line


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
