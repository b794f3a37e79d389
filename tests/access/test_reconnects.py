"""Clients that connect again and again: noticed, logged once, counted, told; and in the end refused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.reconnects import MOST_CLIENTS, NOTICED_AT, SHORT_SECONDS, WINDOW_SECONDS, ReconnectLimiter
from service.failures import CATALOGUE, Failure
from service.web.admission import WRONG_TOKENS_A_MINUTE
from tests.support.harness import Answer, Relay, eventually, open_raw, simulated_relay

CLIENT = ("web", "192.0.2.1")
TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": "web:CANARY1token-abcdefghij,app:CANARY2token-abcdefghij"}
WEB = {"Authorization": "Bearer CANARY1token-abcdefghij"}
APP = {"Authorization": "Bearer CANARY2token-abcdefghij"}


class Clock:
    """Time that passes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


def test_a_loop_is_noticed_once_and_refused_in_the_end(clock: Clock) -> None:
    """Told at the tenth short session, refused at the limit until the oldest is a minute old, told anew after a pause."""
    reconnects = ReconnectLimiter(20, clock)
    told = []
    for number in range(20):
        assert (number >= NOTICED_AT) is reconnects.admit(CLIENT)
        told.append(reconnects.left(CLIENT, 0.1))
        clock.now += 1
    assert [None] * 9 + [NOTICED_AT] + [None] * 10 == told
    with pytest.raises(Failure) as caught:
        reconnects.admit(CLIENT)
    assert ("too_many_connects", WINDOW_SECONDS - 20) == (caught.value.reason, caught.value.retry_after_seconds)

    clock.now = WINDOW_SECONDS
    assert reconnects.admit(CLIENT)
    clock.now += WINDOW_SECONDS
    assert not reconnects.admit(CLIENT)
    assert [None] * 9 + [NOTICED_AT] == [reconnects.left(CLIENT, 0.1) for _ in range(10)]


def test_sessions_of_some_length_do_not_count(clock: Clock) -> None:
    """A call centre that opens a thousand calls at once is no loop."""
    reconnects = ReconnectLimiter(20, clock)
    for _ in range(1000):
        assert not reconnects.admit(CLIENT)
        assert reconnects.left(CLIENT, SHORT_SECONDS) is None


def test_clients_do_not_hinder_each_other(clock: Clock) -> None:
    """Another token, or the same one at another address, is another client; with 0 nobody is refused."""
    reconnects, endless = ReconnectLimiter(10, clock), ReconnectLimiter(0, clock)
    for _ in range(10):
        reconnects.left(CLIENT, 0)
    for _ in range(5000):
        endless.left(CLIENT, 0)

    assert not reconnects.admit(("app", CLIENT[1]))
    assert not reconnects.admit((CLIENT[0], "192.0.2.2"))
    assert endless.admit(CLIENT)


def test_memory_is_bounded(clock: Clock) -> None:
    """However many clients come, the least recent are forgotten; however often one comes, little is kept of it."""
    reconnects = ReconnectLimiter(50, clock)
    for number in range(MOST_CLIENTS + 500):
        reconnects.left(("x", str(number)), 0)
    for _ in range(1000):
        reconnects.left(CLIENT, 0)

    assert MOST_CLIENTS == len(reconnects._clients)
    assert 50 == len(reconnects._clients[CLIENT].ends)


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 10)), max_size=80), st.integers(1, 15))
def test_never_more_than_the_limit_within_a_minute(visits: list[tuple[float, float]], most: int) -> None:
    """Whatever the rhythm, no more short sessions are let in within any minute, and who waits as told is let in."""
    clock = Clock()
    reconnects = ReconnectLimiter(most, clock)
    ends: list[float] = []
    for pause, lasted in visits:
        clock.now += pause
        try:
            reconnects.admit(CLIENT)
        except Failure as failure:
            clock.now += failure.retry_after_seconds or 0
            reconnects.admit(CLIENT)
        reconnects.left(CLIENT, lasted)
        if lasted < SHORT_SECONDS:
            ends.append(clock.now)
    assert all(later - first > WINDOW_SECONDS - 1e-5 for first, later in zip(ends, ends[most:], strict=False))


# -- on sockets -------------------------------------------------------------------------------------------------------


async def visit(relay: Relay, headers: dict[str, str]) -> Answer:
    """Open a session and drop it at once."""
    client = await open_raw(relay.app.public_port, headers=headers)
    await client.close()
    await eventually(lambda: len(relay.app.sessions) == 0)
    return client.answer


@asynccontextmanager
async def guarded_relay(**settings: Any) -> AsyncIterator[Relay]:
    """A relay with two tokens."""
    async with simulated_relay(None, **TOKENS | settings) as relay:
        yield relay


async def test_a_client_in_a_loop_is_told() -> None:
    """Log once, count once, a header from then on, and at the limit 429 with Retry-After; the other token is free."""
    async with guarded_relay(RELAY_MAX_RECONNECTS_PER_MINUTE="12") as relay:
        answers = [await visit(relay, WEB) for _ in range(14)]
        other = await visit(relay, APP)

        assert [101] * 12 + [429] * 2 == [answer.status for answer in answers]
        assert [None] * 10 + ["too_many_connects"] * 2 == [
            answer.headers.get("Relay-Notice") for answer in answers[:12]
        ]
        assert "too_many_connects" == answers[-1].error["code"]
        assert 50 <= int(answers[-1].headers["Retry-After"]) <= 60
        assert 101 == other.status
        noticed = relay.events("client.reconnects_noticed")
        assert [("web", CATALOGUE["too_many_connects"].remedy)] == [
            (line["client"], line["remedy"]) for line in noticed
        ]
        assert 1 == relay.metric("realtime_relay_reconnect_loops_total")
        assert 2 == relay.metric("realtime_relay_admissions_total", result="too_many_connects")
        assert 2 == relay.metric(
            "realtime_relay_connection_failures_total",
            upstream="compatible", phase="access", status="429", reason="too_many_connects",
        )  # fmt: skip


async def test_a_browser_in_a_loop_gets_a_status() -> None:
    """A flood is refused by status for browsers, too: an upgrade for each would be the flood's purpose."""
    async with guarded_relay(RELAY_MAX_RECONNECTS_PER_MINUTE="1") as relay:
        await visit(relay, WEB | {"Origin": "http://localhost"})

        assert 429 == (await visit(relay, WEB | {"Origin": "http://localhost"})).status


async def test_what_is_not_the_clients_doing_does_not_count() -> None:
    """A cause that only the operator can mend goes on to arrive, however often a client asks; its own mistakes count."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected", RELAY_MAX_RECONNECTS_PER_MINUTE="3") as relay:
        assert [424] * 5 == [(await visit(relay, {})).status for _ in range(5)]
        for _ in range(3):
            client = await open_raw(relay.app.public_port, "/v1/realtime")
            await client.close()
        assert 429 == (await visit(relay, {})).status


async def test_guessing_tokens_is_slowed_down() -> None:
    """So many wrong tokens from one address are answered 401, more 429; right tokens from there come in even so."""
    async with guarded_relay() as relay:
        wrong = {"Authorization": "Bearer CANARY1token-wrong"}
        statuses = [(await visit(relay, wrong)).status for _ in range(WRONG_TOKENS_A_MINUTE + 1)]

        assert [401] * WRONG_TOKENS_A_MINUTE + [429] == statuses
        assert 101 == (await visit(relay, WEB)).status
        assert 401 == (await visit(relay, {})).status
        assert "CANARY" not in str(relay.logs)


async def test_sessions_are_bounded_for_each_client() -> None:
    """One over the cap of its token is refused; another token is not; when one ends there is room again."""
    async with guarded_relay(RELAY_MAX_SESSIONS_PER_CLIENT="2") as relay:
        held = [await open_raw(relay.app.public_port, headers=WEB) for _ in range(2)]
        refused, other = await visit_beside(relay, WEB), await visit_beside(relay, APP)

        assert (429, "too_many_sessions") == (refused.status, refused.error["code"])
        assert 1 <= int(refused.headers["Retry-After"]) <= 5
        assert 101 == other.status

        await held.pop().close()
        await eventually(lambda: len(relay.app.sessions) == 1)
        assert 101 == (await visit_beside(relay, WEB)).status
        await held.pop().close()


async def visit_beside(relay: Relay, headers: dict[str, str]) -> Answer:
    """Open a session and drop it, others staying open."""
    before = len(relay.app.sessions)
    client = await open_raw(relay.app.public_port, headers=headers)
    await client.close()
    await eventually(lambda: len(relay.app.sessions) == before)
    return client.answer
