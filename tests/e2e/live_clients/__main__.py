"""`make e2e-live`: unmodified clients hold a spoken conversation with GPT-Live through the relay, on the built-in simulator.

    python -m tests.e2e.live_clients [--only NAME ...]

The programs are the examples of docs/clients.md. Each says a recorded sentence; the simulator repeats it, and every sample
must come back. Exit codes: 0 passed, 1 failed, 3 some clients did not run, since this machine or its registries lack
what they need.
"""

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.e2e.live_clients import checks
from tests.e2e.live_clients.clients import CLIENTS, Client
from tests.e2e.live_clients.environments import EnvironmentUnavailable, WrongPackage
from tests.e2e.live_clients.outcome import ClientFailed
from tests.support.relay_process import Process, serving
from tools.voice import VoiceUnavailable, load_phrase

NOT_RUN: Final = 3
PHRASE: Final = "Front_Center"


@dataclass(frozen=True, slots=True)
class Relay:
    """The relay that all clients use, and the token of one."""

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
    tokens = {client.name: f"CANARY1token-{client.name}-abcdefghijkl" for client in clients}
    settings = {
        "RELAY_UPSTREAM": "simulator",
        "RELAY_ACCESS": "tokens",
        "RELAY_CLIENT_TOKENS": ",".join(f"{name}:{token}" for name, token in tokens.items()),
        "RELAY_LOG_LEVEL": "debug",
        "OPENAI_API_KEY": checks.KEY_CANARY,
    }
    failed, not_run = 0, 0
    async with serving(**settings) as (process, port, internal_url):
        for client in clients:
            begun = time.monotonic()
            try:
                environment = await asyncio.to_thread(client.install)
                installed = time.monotonic()
                relay = Relay(process, port, internal_url, tokens[client.name])
                summary = await _run(client, environment, speech, relay)
            except EnvironmentUnavailable as exc:
                _print(f"NOT RUN: {client.name}: {exc}")
                not_run += 1
            except (ClientFailed, LookupError, WrongPackage) as exc:
                _print(f"FAILED: {client.name}: {exc}")
                failed += 1
            else:
                times = f"installed in {installed - begun:.0f} s, ran {time.monotonic() - installed:.0f} s"
                _print(f"{client.name}: {summary} ({times})")
    _print(f"{'FAILED' if failed else 'passed'} in {time.monotonic() - started:.0f} s")
    return 1 if failed else NOT_RUN if not_run else 0


async def _run(client: Client, environment: Path, speech: bytes, relay: Relay) -> str:
    """One conversation and what the relay recorded of it; returns a summary. Raises ClientFailed."""
    _, before = await asyncio.to_thread(checks.counts, relay.internal_url)
    first_line = len(relay.process.lines)
    with tempfile.TemporaryDirectory(prefix=f"realtime-relay-{client.name}-") as folder:
        outcome = await client.talk(environment, Path(folder), speech, port=relay.port, token=relay.token)
    summary = outcome.check()
    ended = await _ended(relay.process, client.name)
    billed = checks.check_end(ended, client.name)
    metrics, after = await asyncio.to_thread(checks.counts, relay.internal_url)
    checks.check_counts(before, after)
    log = "\n".join(map(json.dumps, relay.process.lines[first_line:]))
    checks.check_secrets({"log": log, "metrics": metrics}, checks.relay_secrets(relay.token))
    checks.check_secrets({"client's output": outcome.output}, (checks.KEY_CANARY,))
    return f"{summary}; {billed}"


async def _ended(process: Process, name: str) -> Any:
    """The end of the next session of a client; a client that failed before may have left another."""
    try:
        while (event := await process.event("session.ended"))["client"] != name:
            pass
    except (TimeoutError, AssertionError) as exc:
        raise ClientFailed(f"the relay logged no session.ended: {exc}") from None
    return event


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command line


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
