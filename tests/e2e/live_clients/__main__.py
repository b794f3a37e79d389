"""`make e2e-live`: unmodified clients hold a spoken conversation with GPT-Live through the relay, on the built-in simulator.

    python -m tests.e2e.live_clients [--only NAME ...]

The programs are the examples of docs/clients.md. Each says a recorded sentence; the simulator repeats it, and every sample
must come back. Each is also refused once, for lack of credit, and must show why. Each but the browser is also killed in
mid-speech, and speaks while the relay stops: its session must be closed upstream, with confirmed usage. Exit codes: 0 passed,
1 failed, 3 some clients did not run, since this machine or its registries lack what they need.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.e2e.live_clients import checks
from tests.e2e.live_clients import ends as ends_of
from tests.e2e.live_clients.clients import CLIENTS, Client
from tests.e2e.live_clients.environments import EnvironmentUnavailable, WrongPackage
from tests.e2e.live_clients.outcome import ClientFailed
from tests.e2e.live_clients.relay import check_secrets, logged, relay_for, talk
from tests.support.command_line import NOT_RUN, print_line, run_program
from tools.voice import VoiceUnavailable, load_phrase

PHRASE: Final = "Front_Center"


def main() -> int:
    """Install the clients, run them, print the results; returns the exit code."""
    options = _options()
    chosen = [client for client in CLIENTS if not options.only or client.name in options.only]
    try:
        speech = load_phrase(PHRASE)
    except VoiceUnavailable as exc:
        print_line(f"NOT RUN: the clients of GPT-Live, since no recorded speech is available: {exc}")
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
            ends = (ends_of.be_killed, ends_of.be_drained) if client.is_program else ()
            summary = [await run(client, environment, speech) for run in (_converse, _be_refused, *ends)]
        except EnvironmentUnavailable as exc:
            print_line(f"NOT RUN: {client.name}: {exc}")
            not_run += 1
        except (ClientFailed, LookupError, WrongPackage) as exc:
            print_line(f"FAILED: {client.name}: {exc}")
            failed += 1
        else:
            times = f"installed in {installed - begun:.0f} s, ran {time.monotonic() - installed:.0f} s"
            print_line(f"{client.name}: {'; '.join(summary)} ({times})")
    counts = f"{len(clients) - failed - not_run} passed, {failed} failed, {not_run} not run"
    print_line(f"{counts}, in {time.monotonic() - started:.0f} s")
    return 1 if failed else NOT_RUN if not_run else 0


async def _converse(client: Client, environment: Path, speech: bytes) -> str:
    """One conversation and what the relay recorded of it; returns a summary. Raises ClientFailed."""
    async with relay_for(client.name, client.key) as relay:
        outcome = await talk(client, environment, speech, relay)
        summary = outcome.without_tone().check()
        billed = checks.check_end(await logged(relay.process, "session.ended"), client.name)
        checks.check_counts(await check_secrets(relay, outcome), events=client.events)
    return f"{summary}; {billed}"


async def _be_refused(client: Client, environment: Path, speech: bytes) -> str:
    """A start that the provider refuses, and what client and relay show of it; returns a summary. Raises ClientFailed."""
    async with relay_for(client.name, checks.REFUSED_KEY) as relay:
        outcome = await talk(client, environment, speech, relay)
        event = await logged(relay.process, "upstream.connect_failed")
        checks.check_refusal(event, client.name, await check_secrets(relay, outcome))
    return outcome.check_refusal(*client.shows)


if __name__ == "__main__":
    run_program(main)
