"""A resolver of the system that does not answer: lookups for dials and for listening end by themselves."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from service.app import App, CannotListen
from service.settings import load_settings
from service.upstream import resolver
from service.upstream.resolver import CachingResolver
from service.web import listener
from tests.support.harness import environment


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While the event is not set, every lookup of a name hangs."""
    answers = threading.Event()
    original = socket.getaddrinfo

    def getaddrinfo(host: str, *arguments: Any, **options: Any) -> Any:
        if host == "relay-test.invalid" and not answers.is_set():
            answers.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "hung")
        return original("127.0.0.1" if host == "relay-test.invalid" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield answers
    answers.set()


async def test_dial_does_not_join_a_lookup_that_never_ends(
    hung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After LOOKUP_SECONDS it is abandoned, and the next one asks the resolver again."""
    monkeypatch.setattr(resolver, "LOOKUP_SECONDS", 0.05)
    caching = CachingResolver()
    with pytest.raises(OSError, match="does not answer"):
        await caching.resolve("relay-test.invalid", 443)
    hung.set()

    assert ["127.0.0.1"] == [result["host"] for result in await caching.resolve("relay-test.invalid", 443)]


async def test_start_names_a_host_that_is_not_resolved_in_time(
    hung: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waited for as long as the resolver, without a word."""
    monkeypatch.setattr(listener, "RESOLVE_SECONDS", 0.05)
    settings = load_settings(environment(RELAY_INTERNAL_HOST="relay-test.invalid", RELAY_UPSTREAM="simulator"))
    with pytest.raises(CannotListen, match=r"RELAY_INTERNAL_PORT: .* cannot be resolved in time") as caught:
        await App(settings).start()

    assert "Set RELAY_INTERNAL_HOST to an address" in str(caught.value)
    assert not hung.is_set()
