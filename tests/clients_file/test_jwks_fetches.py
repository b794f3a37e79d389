"""The key set of a provider is fetched when it is needed, in time, and not more often; an outage takes no key away."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web
from joserfc.jwk import ECKey

from service.access import jwks_source
from tests.clients_file.issuers import answer_to, connect_with, relay_with
from tests.clients_file.relays import notes, table, write
from tests.clients_file.test_jwks import ANSWERS
from tests.support.harness import eventually
from tests.support.jwt_issuer import RSA, Issuer, key_set, running_issuer, sign
from tools.ports import free_port

FETCHES: Final = "realtime_relay_jwks_fetches_total"
NEW: Final = ECKey.generate_key("P-256", {"kid": "new"})


async def unavailable(_request: web.Request) -> web.StreamResponse:
    """An outage."""
    return web.Response(status=503)


async def test_slow_answer_is_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a deadline of its own; a byte at a time does not extend it."""
    monkeypatch.setattr(jwks_source, "FETCH_SECONDS", 0.3)
    sent = asyncio.Event()

    async def drip(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(600):
            await response.write(b" ")
            sent.set()
            await asyncio.sleep(0.05)
        return response

    async with running_issuer() as issuer:
        issuer.answer = drip
        async with relay_with(issuer, path, is_fetched=False) as relay:
            assert (503, "jwks_unavailable") == await answer_to(relay, sign())
            assert sent.is_set()
            assert "did not arrive within" in relay.events("jwks.fetch_failed")[0]["message"]


async def test_many_tokens_wait_for_one_fetch(path: Path) -> None:
    """Those of a start wait for the keys; a flood of unknown kids fetches once."""
    async with running_issuer() as issuer:
        issuer.gate.clear()
        async with relay_with(issuer, path, is_fetched=False) as relay:
            waiting = [asyncio.create_task(answer_to(relay, sign())) for _ in range(20)]
            await eventually(lambda: issuer.fetches == 1)
            issuer.gate.set()
            assert [(101, None)] * 20 == await asyncio.gather(*waiting)
            assert 1 == issuer.fetches
            found = [await answer_to(relay, sign(kid=f"made-up-{number}")) for number in range(40)]

            assert [(401, "token_invalid")] * 40 == found
            assert 1 == issuer.fetches  # within MIN_INTERVAL_SECONDS of the first


async def test_unknown_kid_fetches_the_new_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that signs with a key at the moment when it publishes it: the first token already is accepted."""
    monkeypatch.setattr(jwks_source, "MIN_INTERVAL_SECONDS", 0.0)
    async with running_issuer() as issuer, relay_with(issuer, path) as relay:
        issuer.document = key_set(RSA, NEW)
        assert (101, None) == await answer_to(relay, sign(key=NEW))
        assert 2 == issuer.fetches

        issuer.document = key_set(NEW)  # the old key is withdrawn
        assert (401, "token_invalid") == await answer_to(relay, sign(kid="unknown"))
        assert (401, "token_invalid") == await answer_to(relay, sign())


async def test_outage_keeps_the_last_keys(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known keys stay in use, and that is reported; tokens of newer keys get 503 until the provider answers."""
    monkeypatch.setattr(jwks_source, "MIN_INTERVAL_SECONDS", 0.0)
    async with running_issuer() as issuer, relay_with(issuer, path) as relay:
        issuer.answer = unavailable
        assert (503, "jwks_unavailable") == await answer_to(relay, sign(key=NEW))
        assert (101, None) == await answer_to(relay, sign())
        assert "was answered with HTTP 503. Keys of " in await notes(relay)
        await eventually(lambda: relay.metric("realtime_relay_jwks_failing") == 1)
        issuer.answer, issuer.document = None, key_set(RSA, NEW)
        await eventually(lambda: relay.metric("realtime_relay_jwks_failing") == 0)

        assert (101, None) == await answer_to(relay, sign(key=NEW))
        assert "JWKS" not in await notes(relay)
        assert 1 == len(relay.events("jwks.fetch_failed"))
        assert 2 == len(relay.events("jwks.fetched"))


async def test_keys_are_fetched_again_in_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token, so that a withdrawn key is noticed."""
    monkeypatch.setattr(jwks_source, "REFRESH_SECONDS", 0.0)
    async with running_issuer() as issuer, relay_with(issuer, path) as relay:
        issuer.document = key_set(NEW)
        await eventually(lambda: issuer.fetches >= 3, 15)

        assert (401, "token_invalid") == await answer_to(relay, sign())


async def test_issuer_on_a_closed_port_is_reported(path: Path) -> None:
    """Nothing of the URL, which can name internal hosts, reaches the client."""
    issuer = Issuer()
    issuer.url = f"http://127.0.0.1:{free_port()}/"
    async with relay_with(issuer, path, is_fetched=False) as relay:
        client = await connect_with(relay, sign())
        await client.close()

        assert (503, "jwks_unavailable") == (client.answer.status, client.answer.error["code"])
        assert "127.0.0.1" not in str(client.answer.error)
        assert "the connection failed" in relay.events("jwks.fetch_failed")[0]["message"]


async def test_relay_that_starts_during_an_outage_fetches_by_itself(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a token and without a restart; until then tokens get 503, which clients retry."""
    monkeypatch.setattr(jwks_source, "MIN_INTERVAL_SECONDS", 0.0)
    async with running_issuer() as issuer:
        issuer.answer = unavailable
        async with relay_with(issuer, path, is_fetched=False) as relay:
            assert (503, "jwks_unavailable") == await answer_to(relay, sign())
            issuer.answer = None
            await eventually(lambda: relay.metric(FETCHES, result="fetched") == 1, 15)

            assert (101, None) == await answer_to(relay, sign())


async def test_hostile_answer_takes_no_key_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the provider answers after a good set, also a set without a key, known keys stay in use."""
    monkeypatch.setattr(jwks_source, "MIN_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(jwks_source, "FETCH_SECONDS", 60.0)
    async with running_issuer() as issuer, relay_with(issuer, path) as relay:
        for number, (make, clause) in enumerate(ANSWERS.values(), 1):
            issuer.answer = partial(answered, make)
            assert (503, "jwks_unavailable") == await answer_to(relay, sign(kid=f"unknown-{number}"))
            assert (101, None) == await answer_to(relay, sign())
            assert clause in await notes(relay)


async def answered(make: Callable[[web.Request], web.StreamResponse], request: web.Request) -> web.StreamResponse:
    """An answer as a handler."""
    return make(request)


async def test_issuer_that_is_removed_during_a_fetch_refuses_those_who_wait(path: Path) -> None:
    """The fetch is cancelled, and they get an answer: that of a token without a table."""
    async with running_issuer() as issuer:
        issuer.gate.clear()
        async with relay_with(issuer, path, is_fetched=False) as relay:
            waiting = [asyncio.create_task(answer_to(relay, sign())) for _ in range(3)]
            await eventually(lambda: issuer.fetches == 1)
            write(path, table("kiosk"))
            relay.app._check_files()

            assert [(401, "token_invalid")] * 3 == await asyncio.gather(*waiting)
            assert 0 == relay.metric(FETCHES)


async def test_client_that_leaves_during_a_fetch_leaves_it_to_the_others(path: Path) -> None:
    """Of all tokens that wait for the keys, one may be gone."""
    async with running_issuer() as issuer:
        issuer.gate.clear()
        async with relay_with(issuer, path, is_fetched=False) as relay:
            gone, waiting = [asyncio.create_task(answer_to(relay, sign())) for _ in range(2)]
            await eventually(lambda: issuer.fetches == 1)
            gone.cancel()
            await asyncio.wait([gone])
            issuer.gate.set()

            assert (101, None) == await waiting
            assert 1 == issuer.fetches
