"""The demo's caller makes every failure that it promises, and sees what the relay says of it."""

import asyncio
import re
from pathlib import Path
from typing import Final

import pytest

from caller import client, expected, listing
from calls import RelayClient
from conversations import repeat_conversations
from failure_cases import CLIENT_CASES, FAILURE_CASES, NO_FAILURE, PROVIDER_CASES, run_case, wait_until_connectable
from service.failures import CATALOGUE, ENDINGS
from service.simulator import SimulatorOptions
from service.simulator.scenarios import Scenario
from tests.support.harness import Relay, eventually, simulated_relay

ROOT: Final = Path(__file__).resolve().parents[2]
DEMO: Final = dict(
    re.findall(r"^(RELAY_\w+)=(.*)$", (ROOT / "compose/demo.env").read_text(encoding="utf-8"), re.MULTILINE)
)
# Made faster than in the demo: the test waits for the clock, not for what happens.
QUICK: Final = {
    "RELAY_DIAL_TIMEOUT_SECONDS": "1",
    "RELAY_IDLE_TIMEOUT_SECONDS": "2",
    "RELAY_MAX_SESSION_SECONDS": "4.5",
}
QUICK_SIMULATOR: Final = SimulatorOptions(pace=0, slow_first_event_seconds=0.3)
SLOW: Final = {"stall-mid": "silent_seconds", "slow-reader": "slow_seconds"}
"""What the relay notices after 20 or 39 seconds, by the limit that says so: shown by `make e2e-container`."""
REST_ONLY: Final = {Scenario.GOOD, Scenario.MODEL_REST_ONLY_401}


def test_every_scenario_can_be_asked_for() -> None:
    """A scenario that the simulator learns is one that the caller can ask for, and the other way round."""
    assert {scenario.value for scenario in Scenario if scenario not in REST_ONLY} == set(PROVIDER_CASES)
    assert not set(PROVIDER_CASES) & set(CLIENT_CASES)


def test_every_failure_is_one_of_the_catalogue() -> None:
    """The caller speaks of failures in the relay's words."""
    assert set() == {case.reason for case in FAILURE_CASES.values()} - CATALOGUE.keys() - {NO_FAILURE}
    for name, case in FAILURE_CASES.items():
        assert f"{name:<20} {expected(case)}" in listing()


@pytest.mark.parametrize("name", sorted(FAILURE_CASES.keys() - SLOW))
async def test_a_failure_is_seen_as_promised(name: str) -> None:
    """The caller is told the reason, with the demo's own settings, and the relay counts the same one."""
    case = FAILURE_CASES[name]
    async with simulated_relay(QUICK_SIMULATOR, **{**DEMO, **QUICK}) as relay, client() as http:
        line = RelayClient(http, relay.url)
        assert await wait_until_connectable(line)
        outcome = await run_case(line, case)

        assert case.observed_reason == outcome.reason, outcome
        await eventually(lambda: case.reason == NO_FAILURE or counted(relay, case.reason), 5)


async def test_conversations_are_well() -> None:
    """Every kind of conversation is answered, and none is told of an error but for its own nonsense."""
    said: list[str] = []
    answered = 0

    def well() -> None:
        nonlocal answered
        answered += 1

    async with simulated_relay(SimulatorOptions(pace=0), **DEMO) as relay, client() as http:
        line = RelayClient(http, relay.url)
        talkers = [asyncio.create_task(repeat_conversations(line, number, well, said.append)) for number in range(6)]
        await asyncio.sleep(4)
        for talker in talkers:
            talker.cancel()
        await asyncio.wait(talkers)
        types = relay.metrics_text()

    assert answered >= 6
    assert not [line for line in said if "nonsense" not in line]
    for kind in ("input_audio_buffer.speech_started", "response.output_audio.delta", "response.output_text.delta"):
        assert re.search(rf'events_total{{.*type="{kind}"}} [1-9]', types), kind


def counted(relay: Relay, reason: str) -> bool:
    """Whether a failure or an end has been counted under its reason."""
    if reason in ENDINGS and relay.metric("realtime_relay_sessions_ended_total", reason=reason):
        return True
    family = next(iter(relay.app.metrics.connection_failures.collect()))
    return any(sample.value for sample in family.samples if sample.labels.get("reason") == reason)
