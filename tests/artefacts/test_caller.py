"""compose/caller.py: the demo client causes every failure that it lists, and observes the expected outcome."""

import asyncio
import re
from pathlib import Path
from typing import Final

import pytest

import conversations
from caller import client, expected, listing
from calls import RelayClient
from failure_cases import CLIENT_CASES, FAILURE_CASES, NO_FAILURE, PROVIDER_CASES, run_case, wait_until_connectable
from service.failures import CATALOGUE, ENDINGS
from service.simulator import SimulatorOptions
from service.simulator.scenarios import Scenario
from tests.support.harness import Relay, eventually, simulated_relay

ROOT: Final = Path(__file__).resolve().parents[2]
DEMO: Final = dict(
    re.findall(r"^(RELAY_\w+)=(.*)$", (ROOT / "compose/demo.env").read_text(encoding="utf-8"), re.MULTILINE)
)
# Shorter than in the demo.
QUICK: Final = {
    "RELAY_DIAL_TIMEOUT_SECONDS": "1",
    "RELAY_IDLE_TIMEOUT_SECONDS": "2",
    "RELAY_MAX_SESSION_SECONDS": "4.5",
}
QUICK_SIMULATOR: Final = SimulatorOptions(pace=0, slow_first_event_seconds=0.3)
SLOW: Final = {"stall-mid": "silent_seconds", "slow-reader": "slow_seconds"}
"""Cases that the relay detects after 20 or 39 seconds, with the limit; `make e2e-container` runs them."""
REST_ONLY: Final = {Scenario.GOOD, Scenario.MODEL_REST_ONLY_401}


def test_every_scenario_has_a_case() -> None:
    """The provider cases are the scenarios of the simulator, except those of REST requests and of GPT-Live only."""
    scenarios = {scenario for scenario in Scenario if not scenario.is_live_only} - REST_ONLY
    assert {scenario.value for scenario in scenarios} == set(PROVIDER_CASES)
    assert not set(PROVIDER_CASES) & set(CLIENT_CASES)


def test_cases_use_reasons_of_the_catalogue() -> None:
    """Each case has a reason of the catalogue, and the listing shows its expected outcome."""
    assert set() == {case.reason for case in FAILURE_CASES.values()} - CATALOGUE.keys() - {NO_FAILURE}
    for name, case in FAILURE_CASES.items():
        assert f"{name:<20} {expected(case)}" in listing()


@pytest.mark.parametrize("name", sorted(FAILURE_CASES.keys() - SLOW))
async def test_case_has_expected_outcome(name: str) -> None:
    """With the demo's settings, the client receives the expected code, and the relay counts the reason."""
    case = FAILURE_CASES[name]
    async with simulated_relay(QUICK_SIMULATOR, **{**DEMO, **QUICK}) as relay, client() as http:
        relay_client = RelayClient(http, relay.url)
        assert await wait_until_connectable(relay_client)
        outcome = await run_case(relay_client, case)

        assert case.observed_reason == outcome.reason, outcome
        await eventually(lambda: case.reason == NO_FAILURE or counted(relay, case.reason), 5)


async def test_conversations_succeed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of conversation gets responses, one line for each turn, and no error except for the invalid event."""
    monkeypatch.setattr(conversations, "_PAUSE_SECONDS", (0.5, 1.0))
    output: list[str] = []
    answered = 0

    def count_success() -> None:
        nonlocal answered
        answered += 1

    async with simulated_relay(SimulatorOptions(pace=0), **DEMO) as relay, client() as http:
        relay_client = RelayClient(http, relay.url)
        calls = [
            asyncio.create_task(conversations.repeat_conversations(relay_client, number, count_success, output.append))
            for number in range(6)
        ]
        await eventually(lambda: answered >= 12 and missing_types(relay.metrics_text()) == set(), 40)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)

    turns = [line for line in output if re.fullmatch(r"caller \d: turn \d+: .+\n", line)]
    assert set("012345") == {line.split()[1].rstrip(":") for line in turns}
    assert not [line for line in turns if "no response" in line]
    # A busy machine can let the next turn begin before the answer to speech has ended.
    errors = ("nonsense", "conversation_already_has_active_response")
    assert not [line for line in output if line not in turns and not any(error in line for error in errors)]


def missing_types(metrics: str) -> set[str]:
    """The types of events of the conversations that have not been counted yet."""
    types = {"input_audio_buffer.speech_started", "response.output_audio.delta", "response.output_text.delta"}
    return {name for name in types if not re.search(rf'events_total{{.*type="{name}"}} [1-9]', metrics)}


def counted(relay: Relay, reason: str) -> bool:
    """Whether the relay has counted a failure or an ending with this reason."""
    if reason in ENDINGS and relay.metric("realtime_relay_sessions_ended_total", reason=reason):
        return True
    family = next(iter(relay.app.metrics.connection_failures.collect()))
    return any(sample.value for sample in family.samples if sample.labels.get("reason") == reason)
