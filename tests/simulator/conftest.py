"""Simulators for tests: as fast as possible, unless a test is about time."""

from collections.abc import AsyncIterator

import pytest

from service.simulator import Simulator, SimulatorOptions


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    """A simulator in which nothing is wrong."""
    async with Simulator(SimulatorOptions(pace=0, call_ids=frozenset({"rtc_known"}))) as simulator:
        yield simulator
