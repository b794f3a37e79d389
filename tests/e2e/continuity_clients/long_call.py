"""A call of two hours at a limit of ten minutes, twenty times as fast: six minutes at 30 s. Both voices count aloud.

The turns are as long as people's, so that a boundary is twenty times as rare as in the real call.
"""

import asyncio
import random
import time
from typing import Final

from service.simulator import Behaviour
from tests.e2e.continuity_clients import accounting
from tests.e2e.continuity_clients.call import Call
from tests.e2e.continuity_clients.rows import Row, answered, options

SECONDS: Final = 360.0
CAP_SECONDS: Final = 30.0
_LONGEST_PAUSE: Final = 1.5
_TENTHS: Final = (5, 30)


async def _talk(running: Call) -> str:
    ends_at, turns = time.monotonic() + SECONDS, 0
    while time.monotonic() < ends_at:
        await running.say(random.randint(*_TENTHS))
        turns += 1
        await answered(running, turns)
        await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE))
    forced = sum(line.get("cause") == "forced" for line in running.log if line["event"] == "session.renewed")
    spoken = accounting.spoken(running.said, running.upstreams, accounting.known_items(running.tap.seen))
    heard = accounting.account(
        accounting.answered(running.upstreams, running.tap.seen), accounting.received(running.tap.seen)
    )
    swaps = len(running.upstreams) - 1
    return f"{turns} turns over {swaps} renewals, {forced} of them forced; samples said {spoken}, answered {heard}"


LONG: Final = Row(
    "long",
    _talk,
    options=options(default=Behaviour(session_seconds=CAP_SECONDS)),
    connections=None,
    seconds=SECONDS * 1.5,
)
