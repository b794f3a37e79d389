"""Fixtures of the simulator's tests."""

from collections.abc import AsyncIterator

import pytest

from service.simulator import Simulator, SimulatorOptions


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    """A simulator without faults and without pacing."""
    async with Simulator(SimulatorOptions(pace=0, call_ids=frozenset({"rtc_known"}))) as simulator:
        yield simulator
