"""Clients that reconnect in a loop: logged once, counted, sent a header, and refused at the limit."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.reconnects import (
    LOOP_THRESHOLD,
    MAX_CLIENTS,
    SHORT_ATTEMPT_SECONDS,
    WINDOW_SECONDS,
    ReconnectLimiter,
)
from service.failures import CATALOGUE, Failure
from service.web.admission import INVALID_TOKENS_PER_MINUTE
from tests.support.harness import Answer, Relay, eventually, open_raw, simulated_relay

CLIENT = ("web", "192.0.2.1")
TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": "web:CANARY1token-abcdefghij,app:CANARY2token-abcdefghij"}
WEB = {"Authorization": "Bearer CANARY1token-abcdefghij"}
APP = {"Authorization": "Bearer CANARY2token-abcdefghij"}


class Clock:
    """A clock that is advanced by hand."""

    now = 0.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return a clock at 0."""
    return Clock()


def test_loop_is_reported_once_and_refused_at_the_limit(clock: Clock) -> None:
    """Reported at the tenth short session, refused at the limit until the oldest is a minute old, reported again later."""
    reconnects = ReconnectLimiter(20, clock)
    reports = []
    for number in range(20):
        assert (number >= LOOP_THRESHOLD) is reconnects.admit(CLIENT)
        reports.append(reconnects.record_end(CLIENT, 0.1))
        clock.now += 1
    assert [None] * 9 + [LOOP_THRESHOLD] + [None] * 10 == reports
    with pytest.raises(Failure) as caught:
        reconnects.admit(CLIENT)
    assert ("too_many_connects", WINDOW_SECONDS - 20) == (caught.value.reason, caught.value.retry_after_seconds)

    clock.now = WINDOW_SECONDS
    assert reconnects.admit(CLIENT)
    clock.now += WINDOW_SECONDS
    assert not reconnects.admit(CLIENT)
    assert [None] * 9 + [LOOP_THRESHOLD] == [reconnects.record_end(CLIENT, 0.1) for _ in range(10)]


def test_long_sessions_do_not_count(clock: Clock) -> None:
    """A call centre that opens a thousand calls concurrently is no loop."""
    reconnects = ReconnectLimiter(20, clock)
    for _ in range(1000):
        assert not reconnects.admit(CLIENT)
        assert reconnects.record_end(CLIENT, SHORT_ATTEMPT_SECONDS) is None


def test_clients_are_limited_independently(clock: Clock) -> None:
    """Another token, or the same token at another address, is another client. A limit of 0 refuses no client."""
    reconnects, unlimited = ReconnectLimiter(10, clock), ReconnectLimiter(0, clock)
    for _ in range(10):
        reconnects.record_end(CLIENT, 0)
    for _ in range(5000):
        unlimited.record_end(CLIENT, 0)

    assert not reconnects.admit(("app", CLIENT[1]))
    assert not reconnects.admit((CLIENT[0], "192.0.2.2"))
    assert unlimited.admit(CLIENT)


def test_memory_is_bounded(clock: Clock) -> None:
    """In the number of clients, of which the least recent is forgotten, and in the attempts of each."""
    reconnects = ReconnectLimiter(50, clock)
    for number in range(MAX_CLIENTS + 500):
        reconnects.record_end(("x", str(number)), 0)
    for _ in range(1000):
        reconnects.record_end(CLIENT, 0)

    assert MAX_CLIENTS == len(reconnects._clients)
    assert 50 == len(reconnects._clients[CLIENT].ends)


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 10)), max_size=80), st.integers(1, 15))
def test_short_sessions_within_any_minute_stay_within_the_limit(
    attempts: list[tuple[float, float]], limit: int
) -> None:
    """A client that waits for Retry-After is admitted."""
    clock = Clock()
    reconnects = ReconnectLimiter(limit, clock)
    ends: list[float] = []
    for pause, duration in attempts:
        clock.now += pause
        try:
            reconnects.admit(CLIENT)
        except Failure as failure:
            clock.now += failure.retry_after_seconds or 0
            reconnects.admit(CLIENT)
        reconnects.record_end(CLIENT, duration)
        if duration < SHORT_ATTEMPT_SECONDS:
            ends.append(clock.now)
    assert all(later - first > WINDOW_SECONDS - 1e-5 for first, later in zip(ends, ends[limit:], strict=False))


# -- on sockets -------------------------------------------------------------------------------------------------------


async def connect_once(relay: Relay, headers: dict[str, str]) -> Answer:
    """Open a session and disconnect immediately."""
    client = await open_raw(relay.app.public_port, headers=headers)
    await client.close()
    await eventually(lambda: len(relay.app.sessions) == 0)
    return client.answer


@asynccontextmanager
async def relay_with_tokens(**settings: Any) -> AsyncIterator[Relay]:
    """Run a relay with two client tokens."""
    async with simulated_relay(None, **TOKENS | settings) as relay:
        yield relay


async def test_client_in_a_loop_is_logged_and_refused_with_429() -> None:
    """One log line, one count, a header from then on, and Retry-After at the limit. The other token is not affected."""
    async with relay_with_tokens(RELAY_MAX_RECONNECTS_PER_MINUTE="12") as relay:
        answers = [await connect_once(relay, WEB) for _ in range(14)]
        other = await connect_once(relay, APP)

        assert [101] * 12 + [429] * 2 == [answer.status for answer in answers]
        assert [None] * 10 + ["too_many_connects"] * 2 == [
            answer.headers.get("Relay-Notice") for answer in answers[:12]
        ]
        assert "too_many_connects" == answers[-1].error["code"]
        assert 50 <= int(answers[-1].headers["Retry-After"]) <= 60
        assert 101 == other.status
        lines = relay.events("client.reconnects_noticed")
        action = CATALOGUE["too_many_connects"].operator_action
        assert [("web", action)] == [(line["client"], line["remedy"]) for line in lines]
        assert 1 == relay.metric("realtime_relay_reconnect_loops_total")
        assert 2 == relay.metric("realtime_relay_admissions_total", result="too_many_connects")
        assert 2 == relay.metric(
            "realtime_relay_connection_failures_total",
            upstream="compatible", phase="access", status="429", reason="too_many_connects",
        )  # fmt: skip


async def test_browser_in_a_loop_is_refused_by_status() -> None:
    """Not by an error event: a WebSocket for each refusal would make the flood more expensive."""
    async with relay_with_tokens(RELAY_MAX_RECONNECTS_PER_MINUTE="1") as relay:
        await connect_once(relay, WEB | {"Origin": "http://localhost"})

        assert 429 == (await connect_once(relay, WEB | {"Origin": "http://localhost"})).status


async def test_only_failures_blamed_on_the_client_count() -> None:
    """A cause that only the operator can remove is reported at every attempt; the client's own mistakes are limited."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected", RELAY_MAX_RECONNECTS_PER_MINUTE="3") as relay:
        assert [424] * 5 == [(await connect_once(relay, {})).status for _ in range(5)]
        for _ in range(3):
            client = await open_raw(relay.app.public_port, "/v1/realtime")
            await client.close()
        assert 429 == (await connect_once(relay, {})).status


async def test_invalid_tokens_are_limited_per_address() -> None:
    """At the limit 429 replaces 401. A valid token from the same address is accepted, a missing one is still 401."""
    async with relay_with_tokens() as relay:
        wrong = {"Authorization": "Bearer CANARY1token-wrong"}
        statuses = [(await connect_once(relay, wrong)).status for _ in range(INVALID_TOKENS_PER_MINUTE + 1)]

        assert [401] * INVALID_TOKENS_PER_MINUTE + [429] == statuses
        assert 101 == (await connect_once(relay, WEB)).status
        assert 401 == (await connect_once(relay, {})).status
        assert "CANARY" not in str(relay.logs)


async def test_sessions_of_a_client_are_limited() -> None:
    """One over the limit of its token is refused; another token is not affected. A session that ends frees its slot."""
    async with relay_with_tokens(RELAY_MAX_SESSIONS_PER_CLIENT="2") as relay:
        held = [await open_raw(relay.app.public_port, headers=WEB) for _ in range(2)]
        refused, other = await connect_beside_others(relay, WEB), await connect_beside_others(relay, APP)

        assert (429, "too_many_sessions") == (refused.status, refused.error["code"])
        assert "12" == refused.headers["Retry-After"]  # neither connection has answered a ping yet
        assert 101 == other.status

        await held.pop().close()
        await eventually(lambda: len(relay.app.sessions) == 1)
        assert 101 == (await connect_beside_others(relay, WEB)).status
        await held.pop().close()


async def connect_beside_others(relay: Relay, headers: dict[str, str]) -> Answer:
    """Open a session and disconnect while other sessions stay open."""
    before = len(relay.app.sessions)
    client = await open_raw(relay.app.public_port, headers=headers)
    await client.close()
    await eventually(lambda: len(relay.app.sessions) == before)
    return client.answer
