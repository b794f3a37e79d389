"""The dials that clients wait for."""

import asyncio
from typing import cast

import pytest

from service.failures import Failure
from service.upstream.dial import UpstreamConnection
from service.upstream.dials import DialsInFlight
from tests.support.harness import within

CONNECTED = cast("UpstreamConnection", object())


async def dial(seconds: float, *, fails: Exception | None = None) -> UpstreamConnection:
    """Connect or fail after a while."""
    await asyncio.sleep(seconds)
    if fails is not None:
        raise fails
    return CONNECTED


async def test_dials_are_counted_until_their_block_ends() -> None:
    """wait_empty returns with the last of them."""
    dials = DialsInFlight()
    with dials.track():
        with dials.track():
            assert 2 == len(dials)
        waiting = asyncio.create_task(dials.wait_empty())
        await asyncio.sleep(0)
        assert not waiting.done()

    await within(waiting, 1)
    assert 0 == len(dials)


@pytest.mark.parametrize("expires", ["before", "during"])
async def test_expire_ends_dials_with_relay_draining(expires: str) -> None:
    """Those that run and those that start later."""
    dials = DialsInFlight()
    if expires == "before":
        dials.expire()
    running = asyncio.create_task(dials.run(dial(60)))
    await asyncio.sleep(0)
    dials.expire()

    with pytest.raises(Failure) as raised:
        await within(running, 1)
    assert "relay_draining" == raised.value.reason


async def test_run_returns_or_raises_what_the_dial_does() -> None:
    """A TimeoutError of the dial is not mistaken for the end of the drain."""
    dials = DialsInFlight()

    assert CONNECTED is await dials.run(dial(0))
    with pytest.raises(TimeoutError):
        await dials.run(dial(0, fails=TimeoutError()))
