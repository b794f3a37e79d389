"""Fixtures of the tests of service/web."""

from typing import Any

import pytest
from aiohttp import web

from tests.support.request_flood import REQUEST_TIMEOUT_SECONDS


@pytest.fixture
def short_request_timeout(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Shorten the listeners' timeout for an incomplete request from 15 s; the value is what they were configured with."""
    configured: dict[str, object] = {}
    original = web.AppRunner
    short = {"keepalive_timeout": REQUEST_TIMEOUT_SECONDS, "lingering_time": REQUEST_TIMEOUT_SECONDS}

    def runner(app: web.Application, **kwargs: Any) -> web.AppRunner:
        configured.update(kwargs)
        return original(app, **kwargs | short)

    monkeypatch.setattr(web, "AppRunner", runner)
    return configured
