"""Refusals of admission as a browser can read them: with `on_failure=event` they are 101, an error event and a close code."""

import asyncio
from contextlib import ExitStack

import pytest

from service.access.limits import MAX_REFUSAL_EVENTS, MAX_REFUSAL_EVENTS_PER_ADDRESS, RefusalEventLimit
from service.failures import CATALOGUE
from tests.support.harness import TOKEN_CANARY, Relay, eventually, open_raw, running_relay, simulated_relay

MODEL = "/v1/realtime?model=gpt-realtime"
LIVE = "/v1/live/sessions?x=1"
ATTACH = "/v1/live/sessions/abc/attach?x=1"
EVENT = "&on_failure=event"
PAGE = {"Origin": "http://localhost:3000"}
TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": TOKEN_CANARY}
IN_SUBPROTOCOL = {"Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{TOKEN_CANARY}"}
ANSWERS = [
    pytest.param(MODEL, PAGE, TOKENS, "token_missing", 3000, id="no-token"),
    pytest.param(f"{MODEL}&token={TOKEN_CANARY}", PAGE, TOKENS, "token_missing", 3000, id="token-in-url"),
    pytest.param(MODEL, {"api-key": "wrong"}, TOKENS, "token_invalid", 3000, id="wrong-token"),
    pytest.param(MODEL, {"Origin": "null"} | IN_SUBPROTOCOL, TOKENS, "origin_refused", 3003, id="opaque-origin"),
    pytest.param(MODEL, {"Origin": "https://evil.example"}, {}, "origin_refused", 3003, id="origin"),
    pytest.param("/v1/realtime?x=1", PAGE, {}, "model_missing", 4000, id="no-model"),
    pytest.param(f"{MODEL}&model=twice", {}, {}, "bad_request", 4000, id="two-models"),
    pytest.param(MODEL, {}, {"RELAY_ALLOWED_MODELS": "another"}, "model_refused", 4000, id="model"),
    pytest.param(LIVE, PAGE, TOKENS, "token_missing", 3000, id="live-no-token"),
    pytest.param(LIVE, {"api-key": "wrong"}, TOKENS, "token_invalid", 3000, id="live-wrong-token"),
    pytest.param(LIVE, {"Origin": "https://evil.example"}, {}, "origin_refused", 3003, id="live-origin"),
    pytest.param(f"{LIVE}&draining_event=maybe", PAGE, {}, "bad_request", 4000, id="live-query"),
    pytest.param(LIVE, PAGE, {"RELAY_LIVE": "off"}, "live_disabled", 4004, id="live-disabled"),
    pytest.param(ATTACH, PAGE, TOKENS, "token_missing", 3000, id="attach-no-token"),
    pytest.param(ATTACH, {"Origin": "https://evil.example"}, {}, "origin_refused", 3003, id="attach-origin"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "headers", "settings", "reason", "code"), ANSWERS)
async def test_refusal_is_an_event_on_request(
    path: str, headers: dict[str, str], settings: dict[str, str], reason: str, code: int
) -> None:
    """The event has the error of the HTTP body; no session starts, nothing is dialled, and it is counted as before."""
    async with simulated_relay(None, **settings) as relay:
        client = await open_raw(relay.app.public_port, path + EVENT, headers)
        event = await client.next_event()
        close = await client.until_close()
        await client.close()
        plain = await open_raw(relay.app.public_port, path + "&on_failure=http", headers)
        await plain.close()

        assert (101, "error", (code, CATALOGUE[reason].close_text)) == (client.answer.status, event["type"], close)
        assert without_id(event["error"]) == without_id(plain.answer.error)
        assert CATALOGUE[reason].http_status == plain.answer.status
        assert [reason, reason] == [line["reason"] for line in relay.events("admission.refused")]
        assert 2 == relay.metric("realtime_relay_admissions_total", result=reason)
        check_nothing_was_opened(relay)


def without_id(error: dict[str, object]) -> dict[str, object]:
    """The error without the identifier of the attempt."""
    return {name: value for name, value in error.items() if name != "session_id"}


def check_nothing_was_opened(relay: Relay) -> None:
    """No session, no dial for a client; the health check has a connection of its own."""
    assert [] == relay.events("session.started")
    assert 0 == relay.metric("realtime_relay_upstream_connects_total", upstream="compatible", result="ok")


@pytest.mark.parametrize("query", ["", "&on_failure=http", "&on_failure=Event", "&on_failure="])
@pytest.mark.parametrize("headers", [PAGE, {}])
async def test_refusal_is_an_http_status_without_the_request(query: str, headers: dict[str, str]) -> None:
    """As before, for pages too."""
    async with simulated_relay(None, **TOKENS) as relay:
        client = await open_raw(relay.app.public_port, MODEL + query, headers)
        await client.close()

    assert (401, "token_missing") == (client.answer.status, client.answer.error["code"])


@pytest.mark.parametrize("path", [MODEL, LIVE])
async def test_limits_of_clients_are_events_on_request(path: str) -> None:
    """Sessions, and short sessions per minute: close code 1013, which clients retry later."""
    limits = {"RELAY_MAX_SESSIONS_PER_CLIENT": "1", "RELAY_MAX_RECONNECTS_PER_MINUTE": "1"}
    async with simulated_relay(None, **limits) as relay:
        session = await open_raw(relay.app.public_port)
        second = await open_raw(relay.app.public_port, path + EVENT, PAGE)
        third = await open_raw(relay.app.public_port, path + EVENT, PAGE)
        closes = [await second.until_close(), await third.until_close()]
        for client in (session, second, third):
            await client.close()

    assert [(1013, CATALOGUE[reason].close_text) for reason in ("too_many_sessions", "too_many_connects")] == closes


async def test_token_guessing_is_limited_by_event_too() -> None:
    """More than 60 wrong tokens in a minute are answered with too_many_connects, by event as by HTTP."""
    async with simulated_relay(None, **TOKENS) as relay:
        for _ in range(60):
            client = await open_raw(relay.app.public_port, MODEL, {"api-key": "wrong"})
            await client.close()
        client = await open_raw(relay.app.public_port, MODEL + EVENT, {"api-key": "wrong"})
        close = await client.until_close()
        await client.close()

    assert (1013, CATALOGUE["too_many_connects"].close_text) == close


async def test_refused_clients_that_keep_their_sockets_get_http() -> None:
    """A client that never answers the close frame holds a slot for 2 s; beyond its slots it is refused by HTTP at once."""
    async with simulated_relay(None, **TOKENS) as relay:
        attempts = [open_raw(relay.app.public_port, MODEL + EVENT) for _ in range(MAX_REFUSAL_EVENTS_PER_ADDRESS + 5)]
        clients = await asyncio.gather(*attempts)
        statuses = sorted(client.answer.status for client in clients)
        for client in clients:
            client.reset()
        await eventually(lambda: len(relay.app.sessions) == 0)
        again = await open_raw(relay.app.public_port, MODEL + EVENT)
        await again.close()
        check_nothing_was_opened(relay)

    assert [101] * MAX_REFUSAL_EVENTS_PER_ADDRESS + [401] * 5 == statuses
    assert 101 == again.answer.status


def test_refusal_events_are_limited_together_and_per_second() -> None:
    """Whatever their addresses. Closed ones free their slot, and the next second allows more."""
    now = 0.5
    limit = RefusalEventLimit(lambda: now)
    with ExitStack() as held:
        assert all(held.enter_context(limit.slot(f"192.0.2.{n}")) for n in range(MAX_REFUSAL_EVENTS))
        now = 1.5
        with limit.slot("198.51.100.1") as is_free:
            assert not is_free
    for _ in range(MAX_REFUSAL_EVENTS):
        with limit.slot("198.51.100.1") as is_free:
            assert is_free
    with limit.slot("198.51.100.1") as is_free:
        assert not is_free
    now = 2.5
    with limit.slot("198.51.100.1") as is_free:
        assert is_free


async def test_malformed_handshake_is_an_http_status_even_on_request() -> None:
    """Without a valid Sec-WebSocket-Key no 101 is possible."""
    async with running_relay() as relay:
        client = await open_raw(relay.app.public_port, MODEL + EVENT, {"Sec-WebSocket-Key": "short"})
        await client.close()

    assert (400, "bad_request") == (client.answer.status, client.answer.error["code"])


@pytest.mark.parametrize("headers", [PAGE, {}])
async def test_refused_client_holds_no_session_slot_while_it_closes(headers: dict[str, str]) -> None:
    """A page that does not answer the close frame of a failed dial does not fill the relay for 2 s."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected", RELAY_MAX_SESSIONS="1") as relay:
        silent = await open_raw(relay.app.public_port, MODEL + EVENT, headers)
        error = await silent.next_event()
        second = await open_raw(relay.app.public_port, MODEL + "&on_failure=http", headers)
        for client in (silent, second):
            await client.close()

    assert ["key_rejected", "key_rejected"] == [error["error"]["code"], second.answer.error["code"]]
