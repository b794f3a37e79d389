"""Fixtures of the tests of the HTTP surface."""

from typing import Any

import pytest
from aiohttp import web

from tests.support.request_flood import PATIENCE_SECONDS


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """The servers wait half a second instead of their fifteen for a request; tells what they were made with."""
    made: dict[str, object] = {}
    real = web.AppRunner

    def runner(app: web.Application, **kwargs: Any) -> web.AppRunner:
        made.update(kwargs)
        return real(app, **kwargs | {"keepalive_timeout": PATIENCE_SECONDS, "lingering_time": PATIENCE_SECONDS})

    monkeypatch.setattr(web, "AppRunner", runner)
    return made
