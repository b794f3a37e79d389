"""The key set of a provider: what of it is not accepted, and what log, health and doctor say of it."""

import json
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web
from joserfc.jwk import OctKey

from service.access import jwks_source
from service.access.jwks import MAX_KEYS, InvalidKeySet, parse_key_set
from tests.clients_file.issuers import connect_with, relay_with
from tests.clients_file.relays import notes, table, write
from tests.support.doctor_chain import run_provider_chain
from tests.support.harness import environment, eventually
from tests.support.jwt_issuer import EC, RSA, issuer_table, key_set, running_issuer, segment, sign


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
    "key is for encryption by key_ops": (
        public(RSA.as_dict(private=False) | {"use": None, "key_ops": "verify"}),
        "not for",
    ),
    "empty": (b"", "is not JSON"),
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
    "redirect": (redirect, "is redirected (HTTP 302), which is not followed"),
    "10 MB": (large, "is larger than 262144 bytes"),
    "compressed": (compressed, "is compressed"),
    "HTTP 500": (lambda _: web.Response(status=500, text="CANARYbody"), "was answered with HTTP 500"),
    "a web page": (lambda _: web.Response(text="<html>CANARYbody"), "is not JSON"),
    "nothing": (lambda _: web.Response(), "is not JSON"),
    "no key": (lambda _: web.json_response({"keys": []}), "has no key"),
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
            assert [True] * 3 == [clause in text for text in texts]
            assert "Its tokens are refused." in texts[1]
        variables = environment(RELAY_UPSTREAM="simulator", RELAY_CLIENTS_FILE=str(path))
        report = await run_provider_chain(variables, path.parent)

        assert "jwks" == report.failed_step
        assert "jwks_unavailable" == report["jwks"].reason
        assert clause in report.text("jwks")
        assert "CANARYbody" not in f"{relay.logs} {texts} {report.document}"


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
