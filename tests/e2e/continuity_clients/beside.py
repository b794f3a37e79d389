"""The same faults with and without the relay: an SDK's own reconnection beside continuity.

    python -m tests.e2e.continuity_clients --beside

LiveKit and strands are the two SDKs that restore a conversation themselves. Each runs directly on the simulator, and beside
it a plain client and LiveKit through the relay. The upstream is a round trip of 100 ms away from each that dials it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from service.simulator import Behaviour, End
from tests.e2e.continuity_clients import accounting
from tests.e2e.continuity_clients.call import RATE, Call, call
from tests.e2e.continuity_clients.clients import CLIENTS, STRANDS, Client
from tests.e2e.continuity_clients.rows import answered, completed, options
from tests.e2e.live_clients.outcome import ClientFailed

ROUND_TRIP_MS: Final = 100.0
_CAP_SECONDS: Final = 16.0
_ANSWER_SECONDS: Final = 4.0
_WAIT_SECONDS: Final = 25.0
_STARTED: Final = "input_audio_buffer.speech_started"
_AUDIO: Final = "response.output_audio.delta"


@dataclass(frozen=True, slots=True)
class Contender:
    """A client, and what restores its conversation. `renew_seconds`: of its own renewal, in the proportion of its default."""

    name: str
    client: Client
    through_relay: bool
    renew_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fault. `script` returns the gap in milliseconds, or None if the conversation did not go on."""

    name: str
    script: Callable[[Call], Awaitable[float | None]]
    behaviour: dict[str, Any]
    renews: bool = False


_BY_NAME: Final = {client.name: client for client in CLIENTS}
CONTENDERS: Final = (
    Contender("LiveKit's reconnection", _BY_NAME["livekit"], through_relay=False, renew_seconds=_CAP_SECONDS / 3),
    Contender("strands' restart", STRANDS, through_relay=False, renew_seconds=_CAP_SECONDS * 0.75),
    Contender("openai-python alone", _BY_NAME["openai-python"], through_relay=False),
    Contender("openai-python, relay", _BY_NAME["openai-python"], through_relay=True),
    Contender("LiveKit, relay", _BY_NAME["livekit"], through_relay=True),
)


async def measure(contender: Contender, environment: Path, scenario: Scenario) -> str:
    """One call; returns a row of a table."""
    variables = {}
    if scenario.renews and contender.renew_seconds:
        variables["CALL_RENEW_SECONDS"] = str(round(contender.renew_seconds))
    chosen = options(pace=2.0, default=Behaviour(round_trip_ms=ROUND_TRIP_MS, **scenario.behaviour))
    gap: float | None = None
    async with call(
        contender.client, environment, chosen, through_relay=contender.through_relay, variables=variables
    ) as running:
        with suppress(TimeoutError, ClientFailed, AssertionError):
            gap = await scenario.script(running)
        with suppress(TimeoutError, ClientFailed):
            async with asyncio.timeout(_WAIT_SECONDS):
                await _say_and_hear(running, 15)
    return _row(contender, scenario, running, gap)


def _row(contender: Contender, scenario: Scenario, running: Call, gap: float | None) -> str:
    spoken = accounting.spoken(running.said, running.upstreams, accounting.known_items(running.tap.seen))
    known = accounting.remembered(running.said, running.last)
    received = accounting.received(running.tap.seen)
    answers = accounting.account(accounting.answered(running.upstreams, running.tap.seen), received)
    unanswered = max(0, len(running.said) - len(completed(running)))
    cells = [
        scenario.name,
        contender.name,
        "no more" if gap is None else f"{gap:.0f}",
        f"{spoken.lost / RATE:.2f}",
        f"{spoken.doubled / RATE:.2f}",
        f"{known.lost} of {known.expected}",
        str(known.doubled),
        f"{unanswered} of {len(running.said)}",
        f"{answers.lost / RATE:.2f}",
        str(running.tap.connections),
    ]
    return f"| {' | '.join(cells)} |"


HEAD: Final = (
    "| fault | client | gap (ms) | speech lost (s) | speech twice (s) | words unknown at the end | words known twice | "
    "turns without an answer | answers lost (s) | sockets of the client |\n|---|---|---|---|---|---|---|---|---|---|"
)


async def _say_and_hear(running: Call, tenths: int) -> float:
    """Say something and hear the whole answer; returns the milliseconds until `speech_started`."""
    known, done = len(running.tap.received(_STARTED)), len(completed(running))
    began = time.monotonic()
    async with asyncio.timeout(_WAIT_SECONDS):
        await running.say(tenths)
        started = await running.tap.wait_received(_STARTED, known + 1)
        await answered(running, done + 1)
    return (started.at - began) * 1000


async def _idle(running: Call) -> float | None:
    """The connection is reset 100 ms before the user begins to speak."""
    await _say_and_hear(running, 10)
    await running.simulator.drop_all(End.RESET)
    await asyncio.sleep(0.1)
    return await _say_and_hear(running, 25)


async def _in_speech(running: Call) -> float | None:
    """It is reset in the middle of a sentence of 4 s."""
    await _say_and_hear(running, 10)
    known, done = len(running.tap.received(_STARTED)), len(completed(running))
    async with asyncio.timeout(_WAIT_SECONDS):
        running.begin(40)
        await running.tap.wait_received(_STARTED, known + 1)
        await asyncio.sleep(1.5)
        lost_at = time.monotonic()
        await running.simulator.drop_all(End.RESET)
        again = await running.tap.wait_received(_STARTED, known + 2)
        await answered(running, done + 1)
    return (again.at - lost_at) * 1000


async def _in_answer(running: Call) -> float | None:
    """It is reset in the middle of an answer; the gap is that of its audio."""
    await running.say(10)
    async with asyncio.timeout(_WAIT_SECONDS):
        last = await running.tap.wait_received(_AUDIO, 5)
        await running.simulator.drop_all(End.RESET)
        known = len(running.tap.received(_AUDIO))
        last = running.tap.received(_AUDIO)[-1]
        following = await running.tap.wait_received(_AUDIO, known + 1)
        await answered(running, len(completed(running)) + 1)
    return (following.at - last.at) * 1000


async def _expiry(running: Call) -> float | None:
    """The user says a sentence every three seconds, past the end of the session; the gap is the latest `speech_started`."""
    gaps = list[float]()
    ends_at = time.monotonic() + _CAP_SECONDS * 1.5
    while time.monotonic() < ends_at:
        gaps.append(await _say_and_hear(running, 12))
    return max(gaps)


SCENARIOS: Final = (
    Scenario("reset while idle", _idle, {}),
    Scenario("reset in mid-speech", _in_speech, {}),
    Scenario("reset in mid-answer", _in_answer, {"answer_seconds": _ANSWER_SECONDS}),
    Scenario("session expires", _expiry, {"session_seconds": _CAP_SECONDS}, renews=True),
)
