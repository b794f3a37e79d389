"""The scenarios of calls that outlive their upstream connection: renewals that fail, and a turn that is lost."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from service.simulator import Behaviour, End, Fault, Moment
from tests.observability.clients import client_load, path, request_response, say_and_commit, until_dropped
from tests.observability.testbed import Testbed
from tests.support.harness import open_raw

_PATH: Final = f"{path()}&continuity=renew"
_REFUSES_ANSWERS: Final = Fault(
    Moment.RECEIVED, End.error("invalid_value"), event="conversation.item.create", contains='"output_text"', every=True
)
_ENDS_SOON: Final = Behaviour(session_seconds=4, faults=(_REFUSES_ANSWERS,))
"""A provider that no longer accepts answers of the model in a conversation that is restored."""


def add_deployments(testbed: Testbed) -> None:
    """Add a deployment for each scenario."""
    testbed.add("renewals")
    testbed.add("turns", settings={"RELAY_CONTINUITY_AUDIO_BYTES": "65536"})


async def renewals(testbed: Testbed) -> None:
    """No call can be renewed; then all are."""
    deployment = testbed.deployments["renewals"]
    await deployment.provider.restart(behaviour=_ENDS_SOON)
    since = time.monotonic()
    async with client_load(deployment.port, _PATH, until_dropped, per_second=2):
        await testbed.expect_firing("RelayRenewalsFailing", "renewals", since)
    await deployment.provider.restart(behaviour=Behaviour(session_seconds=4))
    recovered = time.monotonic()
    async with client_load(deployment.port, _PATH, until_dropped, per_second=2):
        await testbed.expect_resolved("RelayRenewalsFailing", "renewals", recovered)


async def lost_turn(testbed: Testbed) -> None:
    """A user says more than the relay keeps, without transcription, and the connection is lost."""
    deployment = testbed.deployments["turns"]
    client = await open_raw(deployment.port, _PATH)
    await say_and_commit(client)
    since = time.monotonic()
    await deployment.provider.simulator.drop_all(End.RESET)
    await testbed.expect_firing("RelayTurnsLost", "turns", since)
    await request_response(client, is_new=False)
    await client.close()
    await testbed.expect_resolved("RelayTurnsLost", "turns", since)


SCENARIOS: Final[tuple[Callable[[Testbed], Awaitable[None]], ...]] = (renewals, lost_turn)
