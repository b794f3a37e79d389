"""The key set of a provider: when it is fetched, what is not accepted, and what holds while it is missing."""

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from joserfc.jwk import ECKey, OctKey

from service.access import jwks_source
from service.access.jwks import MAX_KEYS, InvalidKeySet, parse_key_set
from tests.clients_file.issuers import answer_to, connect_with, relay_with
from tests.clients_file.relays import connect, notes, relay_of, table, write
from tests.support.doctor_chain import run_provider_chain
from tests.support.harness import Relay, environment, eventually
from tests.support.jwt_issuer import EC, RSA, Issuer, claims, issuer_table, key_set, running_issuer, segment, sign

FETCHES: Final = "realtime_relay_jwks_fetches_total"
NEW: Final = ECKey.generate_key("P-256", {"kid": "new"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the clients file is."""
    return tmp_path / "clients.toml"


def public(*keys: Any) -> bytes:
    """A document of keys."""
    return json.dumps({"keys": list(keys)}).encode()


WEAK: Final = {"kty": "RSA", "n": segment(((1 << 1023) | 1).to_bytes(128, "big")), "e": "AQAB", "kid": "weak"}
HUGE: Final = {"kty": "RSA", "n": segment(((1 << 16383) | 1).to_bytes(2048, "big")), "e": "AQAB"}
SLOW: Final = RSA.as_dict(private=False) | {"e": segment(((1 << 1024) | 1).to_bytes(129, "big"))}
HOSTILE: Final = {
    "not JSON": (b"<html>", "is not JSON"),
    "not UTF-8": (b"\xff\xfe", "is not JSON"),
    "nested deep": (b"[" * 100_000, "is not JSON"),
    "an array": (b"[]", "has no array keys"),
    "keys is an object": (b'{"keys": {}}', "has no array keys"),
    "no key": (b'{"keys": []}', "has no key"),
    "too many keys": (public(*[{}] * (MAX_KEYS + 1)), "has more than 64 keys"),
    "symmetric": (public(OctKey.generate_key(256).as_dict(private=True)), "key 1 is symmetric"),
    "private RSA key": (public(RSA.as_dict(private=True)), "key 1 is published with its private part"),
    "private EC key": (public(EC.as_dict(private=True)), "key 1 is published with its private part"),
    "weak RSA key": (public(WEAK), "key 1 is RSA of 1024 bits"),
    "RSA key of 16384 bits": (public(HUGE), "is not complete"),
    "slow exponent": (public(SLOW), "with an exponent"),
    "exponent 1": (public(RSA.as_dict(private=False) | {"e": "AQ"}), "with an exponent"),
    "point that is on no curve": (public(EC.as_dict(private=False) | {"y": segment(b"\x01" * 32)}), "is malformed"),
    "curve of Bitcoin": (public(EC.as_dict(private=False) | {"crv": "secp256k1"}), "curve that the relay does not use"),
    "for encryption": (public(RSA.as_dict(private=False) | {"use": "enc"}), "is not for signatures"),
    "kid is a number": (public(RSA.as_dict(private=False) | {"kid": 1}), "is malformed"),
    "kty is an array": (public({"kty": ["RSA"]}), "another type"),
    "modulus is a number": (public({"kty": "RSA", "n": 5, "e": "AQAB"}), "is not complete"),
    "key is text": (public("RSA"), "is no object"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_key_set_is_not_accepted(name: str) -> None:
    """With a clause that names the key and what is wrong, and holds nothing of the document."""
    body, clause = HOSTILE[name]
    with pytest.raises(InvalidKeySet, match=clause):
        parse_key_set(body)


def test_bad_key_beside_a_good_one_is_ignored_and_named() -> None:
    """One key of a new type must not make the others unusable."""
    found = parse_key_set(public(WEAK, RSA.as_dict(private=False), {"kty": "AKP"}))

    assert ["r1"] == [key.key_id for key in found.keys]
    assert [
        "key 1 is RSA of 1024 bits: less than 2048, or more than 8192",
        "key 3 is of another type than RSA, EC and OKP",
    ] == [*found.ignored]


def redirect(request: web.Request) -> web.StreamResponse:
    """To a good set, at another path."""
    if request.path == "/other":
        return web.json_response(key_set())
    return web.Response(status=302, headers={"Location": "/other"})


def large(_request: web.Request) -> web.StreamResponse:
    """10 MB of white space before a good set."""
    return web.Response(body=b" " * 10_000_000 + json.dumps(key_set()).encode(), content_type="application/json")


def compressed(_request: web.Request) -> web.StreamResponse:
    """A bomb."""
    return web.Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})


ANSWERS: Final = {
    "redirect": (redirect, "is redirected \\(HTTP 302\\), which is not followed"),
    "10 MB": (large, "is larger than 262144 bytes"),
    "compressed": (compressed, "is compressed"),
    "HTTP 500": (lambda _: web.Response(status=500, text="CANARYbody"), "was answered with HTTP 500"),
    "a web page": (lambda _: web.Response(text="<html>CANARYbody"), "is not JSON"),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_hostile_answer_gives_no_keys(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is refused with jwks_unavailable. Log, health and doctor say why, and repeat nothing of the answer."""
    monkeypatch.setattr(jwks_source, "FETCH_SECONDS", 60.0)  # a busy machine is not what is tested
    make, clause = ANSWERS[name]
    async with running_issuer() as issuer:

        async def answer(request: web.Request) -> web.StreamResponse:
            return make(request)

        issuer.answer = answer
        async with relay_with(issuer, path, is_fetched=False) as relay:
            client = await connect_with(relay, sign())
            await client.close()
            assert (503, "jwks_unavailable", "10") == (
                client.answer.status, client.answer.error["code"], client.answer.headers["Retry-After"]
            )  # fmt: skip
            await eventually(lambda: relay.metric("realtime_relay_jwks_failing") == 1)
            (line,) = relay.events("jwks.fetch_failed")
            texts = (line["message"], await notes(relay), relay.events("admission.refused")[0]["detail"])
            assert [True] * 3 == [clause.replace("\\", "") in text for text in texts]
            assert "Its tokens are refused." in texts[1]
        variables = environment(RELAY_UPSTREAM="simulator", RELAY_CLIENTS_FILE=str(path))
        report = await run_provider_chain(variables, path.parent)

        assert "jwks" == report.failed_step
        assert "jwks_unavailable" == report["jwks"].reason
        assert clause.replace("\\", "") in report.text("jwks")
        assert "CANARYbody" not in f"{relay.logs} {texts} {report.document}"


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

        async def unavailable(_request: web.Request) -> web.StreamResponse:
            return web.Response(status=503)

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


async def test_reload_takes_issuers_with_their_sessions(path: Path) -> None:
    """An issuer that is removed ends its sessions with `end_sessions`, and its keys are forgotten."""
    async with running_issuer() as issuer:
        lines = "end_sessions = true"
        async with relay_with(issuer, path, client=lines) as relay:
            client, own = await connect_with(relay, sign()), await connect(relay)
            write(path, table("kiosk", lines))
            relay.app._check_files()
            assert 1008 == (await client.until_close() or (None,))[0]
            assert (401, "token_invalid") == await answer_to(relay, sign())
            await eventually(lambda: not relay.app._jwt._sources)  # type: ignore[union-attr]  # a clients file is set
            write(path, table("kiosk") + issuer_table(issuer.url))
            relay.app._check_files()
            await eventually(lambda: issuer.fetches == 2)
            await eventually(lambda: relay.metric(FETCHES, result="fetched") == 2)

            assert (101, None) == await answer_to(relay, sign())
            assert own.answer.status == 101
            await own.close()
            await client.close()


async def test_disabled_client_has_no_users(path: Path) -> None:
    """As with its own tokens."""
    async with running_issuer() as issuer, relay_with(issuer, path, client="enabled = false") as relay:
        assert (401, "client_disabled") == await answer_to(relay, sign())


async def sessions(relay: Relay) -> list[dict[str, Any]]:
    """What the operator's page shows."""
    views = [session.view() for session in relay.app.sessions]
    return [view.as_object() for view in views if view is not None]


async def test_user_is_in_logs_and_sessions_only(path: Path) -> None:
    """`sub` is no metric label. A token of the relay's own has no user."""
    async with running_issuer() as issuer, relay_with(issuer, path) as relay:
        client, own = await connect_with(relay, sign()), await connect(relay)
        assert {"auth0|CANARYuser", None} == {session["user"] for session in await sessions(relay)}
        assert ["kiosk", "kiosk"] == [session["client"] for session in await sessions(relay)]
        await client.close()
        await own.close()
        await eventually(lambda: len(relay.events("session.ended")) == 2)

        assert {"auth0|CANARYuser", None} == {line["user"] for line in relay.events("session.ended")}
        assert "CANARYuser" not in relay.metrics_text()


@pytest.mark.parametrize("ends", [True, False])
async def test_session_ends_with_its_token_only_if_the_table_says_so(path: Path, *, ends: bool) -> None:
    """With token_expired, close code 3000, after the clock skew."""
    lines = f"clock_skew_seconds = 0\nend_at_expiry = {'true' if ends else 'false'}"
    async with running_issuer() as issuer, relay_with(issuer, path, lines) as relay:
        client = await connect_with(relay, sign(claims(exp=time.time() + 1.5, iat=time.time() - 5)))
        assert 101 == client.answer.status
        if ends:
            assert (3000, "token_expired: The client token has expired.") == await client.until_close()
            await client.answer_close()
            await eventually(lambda: relay.events("session.ended"))
            assert "token_expired" == relay.events("session.ended")[0]["reason"]
        else:
            await asyncio.sleep(2.5)
            assert [] == relay.events("session.ended")
        await client.close()


async def test_one_set_serves_several_tables(path: Path) -> None:
    """Two audiences of one provider, each with its client."""
    async with running_issuer() as issuer:
        text = table("kiosk") + table("web") + issuer_table(issuer.url)
        other = issuer_table(issuer.url, name="web", audience="other").replace('client = "kiosk"', 'client = "web"')
        async with relay_of(path, text + other) as relay:
            tokens = [sign(), sign(claims(aud="other"))]
            clients = [await connect_with(relay, token) for token in tokens]
            assert ["kiosk", "web"] == sorted(session["client"] for session in await sessions(relay))
            for client in clients:
                await client.close()
        assert 1 == issuer.fetches


async def test_token_is_in_no_log_line(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Accepted or refused, as a header or as a subprotocol, at the level debug of aiohttp too."""
    caplog.set_level(logging.DEBUG)
    async with running_issuer() as issuer, relay_with(issuer, path, RELAY_LOG_LEVEL="debug") as relay:
        tokens = [sign(), sign(key=NEW), sign(kid="x"), sign()[:-4], sign().replace(".", "..", 1)]
        for token in tokens:
            await answer_to(relay, token)
            client = await connect_with(relay, token, f"/v1/realtime?model=gpt-realtime&token={token}")
            await client.close()
        parts = {part for token in tokens for part in token.split(".") if len(part) > 20}
        text = f"{relay.logs} {caplog.text} {relay.metrics_text()} {await notes(relay)}"

        assert [] == [part for part in parts if part in text]


async def test_doctor_shows_keys_of_each_table(path: Path) -> None:
    """And warns of keys that are not used."""
    async with running_issuer() as issuer:
        issuer.document = {"keys": [*key_set()["keys"], {"kty": "oct", "k": "AA"}]}
        write(path, table("kiosk") + issuer_table(issuer.url))
        variables = environment(RELAY_UPSTREAM="simulator", RELAY_CLIENTS_FILE=str(path))
        report = await run_provider_chain(variables, path.parent)

        assert ("warn", "keys of the identity providers: [jwt.app] 2") == (
            report["jwks"].status,
            report["jwks"].finding,
        )
        assert "[jwt.app]: key 3 is symmetric" in report["jwks"].notes[0]


async def test_file_without_issuers_loads_no_library_and_fetches_nothing(path: Path) -> None:
    """A JWT is then any other wrong token."""
    async with relay_of(path, table("kiosk")) as relay:
        assert (401, "token_invalid") == await answer_to(relay, sign())
        assert 0 == relay.metric("realtime_relay_jwt_checks_total")
        assert relay.app._jwt is not None
        assert relay.app._jwt._session is None


async def test_issuer_on_a_closed_port_is_reported(path: Path) -> None:
    """Nothing of the URL, which can name internal hosts, reaches the client."""
    async with running_issuer() as stopped:
        url = stopped.url
    issuer = Issuer()
    issuer.url = url
    async with relay_with(issuer, path, is_fetched=False) as relay:
        client = await connect_with(relay, sign())
        await client.close()

        assert (503, "jwks_unavailable") == (client.answer.status, client.answer.error["code"])
        assert "127.0.0.1" not in str(client.answer.error)
        assert "the connection failed" in relay.events("jwks.fetch_failed")[0]["message"]
