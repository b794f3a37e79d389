"""Each failure of GPT-Live that the simulator has, through the relay: the reason, and whether the final usage is confirmed.

Simulator and relay share no code, so that this compares two readings of the provider's protocol.
"""

import contextlib

import aiohttp
import pytest

from service.simulator import SimulatorOptions
from service.simulator.scenarios import Scenario
from tests.support.harness import eventually, simulated_relay
from tests.support.live_client import FRAME_BYTES, LiveClient, live, quick_live

FAILED_STARTS = {
    Scenario.KEY_REJECTED: "key_rejected",
    Scenario.KEY_MISSING: "key_missing",
    Scenario.KEY_FORBIDDEN: "key_forbidden",
    Scenario.QUOTA_EXHAUSTED: "quota_exhausted",
    Scenario.MODEL_NOT_FOUND: "model_not_found",
    Scenario.INVALID_MODEL: "model_not_found",
    Scenario.RATE_LIMITED_INBAND: "rate_limited",
    Scenario.OVERLOADED: "upstream_overloaded",
    Scenario.CLOSE_ONLY: "key_rejected",
    Scenario.DROP: "dropped_early",
    Scenario.RESET: "dropped_early",
    Scenario.REDIRECT: "redirect_refused",
    Scenario.HTTP_429: "rate_limited",
    Scenario.HTTP_503: "upstream_overloaded",
}
ENDS = {
    Scenario.GOOD: ("client_closed", True),
    Scenario.SLOW_FIRST_EVENT: ("client_closed", True),
    Scenario.LIVE_CLOSE_SLOW: ("client_closed", True),
    Scenario.LIVE_CLOSE_SILENT: ("upstream_closed", False),
    Scenario.EXPIRE_SOON: ("session_expired", True),
    Scenario.EXPIRE_SILENT: ("upstream_closed", False),
    Scenario.LIVE_CONNECTION_LOST: ("upstream_lost", True),
    Scenario.LIVE_CONTENT: ("content_filtered", True),
    Scenario.LIVE_REMOTE_HANGUP: ("remote_hangup", True),
    Scenario.DROP_MID: ("upstream_lost", False),
    Scenario.RESET_MID: ("upstream_lost", False),
    Scenario.GOING_AWAY_MID: ("upstream_closed", False),
    Scenario.INTERNAL_ERROR_MID: ("upstream_closed", False),
}
CLOSED_BY_CLIENT = {Scenario.GOOD, Scenario.SLOW_FIRST_EVENT, Scenario.LIVE_CLOSE_SLOW, Scenario.LIVE_CLOSE_SILENT}


async def use(client: LiveClient, *, close: bool) -> None:
    """Start, send audio, and read to the end of the connection; with `close`, end the session at the first event."""
    await client.send("session.start", session={"model": "gpt-live-1"})
    for _ in range(2):
        await client.append(bytes(FRAME_BYTES))
    while (message := await client.ws.receive(10)).type is aiohttp.WSMsgType.TEXT:
        if close and message.json()["type"] == "session.started":
            await client.send("session.close")


@pytest.mark.parametrize("scenario", [*FAILED_STARTS, *ENDS], ids=lambda scenario: str(scenario.value))
async def test_scenario_has_its_reason_and_usage(scenario: Scenario) -> None:
    """One line of the log has both."""
    options = SimulatorOptions(
        slow_first_event_seconds=0.05, expire_after_seconds=0.05, live=quick_live(slow_close_seconds=0.05)
    )
    async with simulated_relay(options, OPENAI_API_KEY=f"sk-sim-{scenario.value}") as relay:
        with contextlib.suppress(aiohttp.WSServerHandshakeError):  # a refused upgrade
            async with live(relay.url) as client:
                await use(client, close=scenario in CLOSED_BY_CLIENT)
        event = "upstream.connect_failed" if scenario in FAILED_STARTS else "session.ended"
        await eventually(lambda: relay.events(event))
        (line,) = relay.events(event)

    if scenario in FAILED_STARTS:
        assert FAILED_STARTS[scenario] == line["reason"]
    else:
        assert ENDS[scenario] == (line["reason"], line["usage_confirmed"])
