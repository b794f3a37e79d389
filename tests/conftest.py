"""Rules for all tests."""

import asyncio
import gc
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from aiohttp import web_app
from hypothesis import HealthCheck, settings

from service import loop
from tests.support.command import Command

# On a fresh checkout the first examples of text cost seconds (Hypothesis builds its table of Unicode), and a busy machine is
# slow: neither says anything about the code.
settings.register_profile("relay", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A hundred thousand examples took 25 minutes of CPU in a single test.
settings.register_profile(
    "deep", settings.get_profile("relay"), max_examples=int(os.environ.get("TEST_EXAMPLES", "10000"))
)
settings.load_profile("deep" if {"TEST_PROFILE", "TEST_EXAMPLES"} & os.environ.keys() else "relay")

# They need root and a network of their own: `make test-faults` makes one and says so.
collect_ignore = [] if os.environ.get("TEST_FAULTS") else ["namespaces"]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that a relay runs on; TEST_LOOP=asyncio takes the one where there is no uvloop."""
    if os.environ.get("TEST_LOOP") == "asyncio":
        return {"asyncio": asyncio.new_event_loop}
    return {loop.NAME: loop.new_event_loop}


gc.disable()  # while modules and test items are made, which live to the end


def pytest_collection_finish() -> None:
    """Tests that look for leaks collect garbage first, without a search of modules and test items.

    The garbage of the collection is kept with them: to find it among them takes a second, in each process of the tests.
    """
    gc.freeze()
    gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Free the relay and the servers of the test, which aiohttp's cache of handlers keeps: they slow down each collection.

    So does what a file of tests leaves in caches, or imports: it is not searched any more.
    """
    web_app._cached_build_middleware.cache_clear()
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Commands of the program in this process, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return Command(monkeypatch, capsys)
