"""The table of attacks on JWTs, with a real provider and relay on loopback: each token must not open a session."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from joserfc.jwk import ECKey, RSAKey

from tests.clients_file.issuers import answer_to, connect_with, relay_with
from tests.support.harness import Relay, open_raw
from tests.support.jwt_issuer import EC, ISSUER, RSA, Issuer, claims, running_issuer, segment, sign

OTHER: Final = RSAKey.generate_key(2048, {"kid": "r1"})
WEAK: Final = {"kty": "RSA", "n": segment((1 << 1023 | 1).to_bytes(128, "big")), "e": "AQAB", "kid": "weak"}


def hmac_signed(secret: bytes) -> str:
    """A token whose HMAC is made with what everyone knows: the public key."""
    signed = f"{segment({'alg': 'HS256', 'typ': 'JWT', 'kid': 'r1'})}.{segment(claims())}"
    return f"{signed}.{segment(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def changed(index: int, value: str) -> str:
    """A good token with another segment."""
    parts = sign().split(".")
    parts[index] = value
    return ".".join(parts)


def twice(name: str, first: str, second: str) -> bytes:
    """The good claims with a claim that occurs twice."""
    text = json.dumps(claims(**{name: None}))
    return f'{{"{name}": {first}, "{name}": {second}, {text[1:]}'.encode()


def unsigned(algorithm: str) -> str:
    """A token without a signature."""
    return f"{segment({'alg': algorithm, 'kid': 'r1'})}.{segment(claims())}."


def zeros(algorithm: str, size: int) -> str:
    """A token whose signature is zeros: for a wrong check of ECDSA, that of every message."""
    kid = "e1" if algorithm == "ES256" else "r1"
    return f"{segment({'alg': algorithm, 'kid': kid})}.{segment(claims())}.{segment(bytes(size))}"


ATTACKS: dict[str, tuple[Callable[[], str], str, str]] = {
    # name: token, cause in the metric, part of the log field detail
    "alg none": (lambda: unsigned("none"), "algorithm", "alg of the JWT is none"),
    "alg None": (lambda: unsigned("None"), "algorithm", "alg of the JWT is None"),
    "RS256 without a signature": (lambda: unsigned("RS256"), "signature", "by no key"),
    "HMAC with the PEM of the public key": (lambda: hmac_signed(RSA.as_pem(private=False)), "algorithm", "HS256"),
    "HMAC with the DER of the public key": (lambda: hmac_signed(RSA.as_der(private=False)), "algorithm", "HS256"),
    "HMAC with the JWK": (lambda: hmac_signed(json.dumps(RSA.as_dict(private=False)).encode()), "algorithm", "HS256"),
    "algorithm that is not listed": (lambda: sign(alg="RS512"), "algorithm", "RS512, which algorithms of [jwt.app]"),
    "ES256 with the kid of an RSA key": (lambda: sign(key=EC, kid="r1"), "signature", "by no key"),
    "RS256 with the kid of an EC key": (lambda: sign(kid="e1"), "signature", "by no key"),
    "signed by another key": (lambda: sign(key=OTHER), "signature", "by no key"),
    "payload replaced": (lambda: changed(1, segment(claims(sub="admin"))), "signature", "by no key"),
    "signature cut": (lambda: sign()[:-8], "signature", "by no key"),
    "jwk in the header": (
        lambda: sign(key=OTHER, jwk=OTHER.as_dict(private=False)), "signature", "by no key",
    ),
    "jku in the header": (lambda: sign(key=OTHER, jku="http://127.0.0.1:1/jwks.json"), "signature", "by no key"),
    "x5u in the header": (lambda: sign(key=OTHER, x5u="http://127.0.0.1:1/x.pem"), "signature", "by no key"),
    "x5c in the header": (lambda: sign(key=OTHER, x5c=["MIIB"]), "signature", "by no key"),
    "kid of another key, and that key in the header": (
        lambda: sign(key=OTHER, kid="e1", alg="RS256", jwk=OTHER.as_dict(private=False)), "signature", "by no key",
    ),
    "ES256 signature of zeros": (lambda: zeros("ES256", 64), "signature", "by no key"),
    "ES256 signature in another form": (lambda: zeros("ES256", 71), "signature", "by no key"),
    "RS256 signature of zeros": (lambda: zeros("RS256", 256), "signature", "by no key"),
    "kid is a path": (lambda: sign(key=OTHER, kid="../../dev/null"), "unknown_key", "no key with the kid"),
    "kid is a number": (lambda: sign(kid=1), "malformed", "kid of the JWT is no string"),
    "no alg": (lambda: changed(0, segment({"typ": "JWT"})), "malformed", "no alg"),
    "crit": (lambda: sign(crit=["exp"]), "malformed", "crit"),
    "crit is empty": (lambda: sign(crit=[]), "malformed", "crit"),
    "alg twice": (lambda: changed(0, segment(b'{"alg":"none","alg":"RS256","kid":"r1"}')), "malformed", "a key twice"),
    "alg twice, once with an escape": (
        lambda: changed(0, segment(b'{"al\\u0067":"none","alg":"RS256","kid":"r1"}')), "malformed", "a key twice",
    ),
    "alg is an array": (lambda: changed(0, segment({"alg": ["RS256"]})), "malformed", "no alg"),
    "typ is an array": (lambda: changed(0, segment({"alg": "RS256", "typ": ["JWT"]})), "malformed", "another purpose"),
    "header is an array": (lambda: changed(0, segment([{"alg": "RS256"}])), "malformed", "header of the JWT is no JSON"),
    "header with a byte order mark": (lambda: changed(0, segment(b'\xef\xbb\xbf{"alg":"RS256"}')), "malformed", "no JSON"),
    "four segments": (lambda: sign() + ".AA", "malformed", "is encrypted"),
    "b64": (lambda: sign(b64=False), "malformed", "b64"),
    "token for a logout": (lambda: sign(typ="logout+jwt"), "malformed", "another purpose"),
    "nested": (lambda: sign(sign().encode(), cty="JWT"), "malformed", "no JSON object"),
    "encrypted": (lambda: ".".join([segment({"alg": "RSA-OAEP", "enc": "A256GCM"}), "AA", "AA", "AA", "AA"]), "malformed",
                  "is encrypted"),
    "huge": (lambda: sign(claims(scope="x" * 20_000)), "malformed", "more than 16384 characters"),
    "nested deep": (lambda: sign(b"[" * 9_000), "malformed", "no JSON object"),
    "payload is an array": (lambda: sign([claims()]), "malformed", "no JSON object"),
    "payload is UTF-16": (lambda: sign(json.dumps(claims()).encode("utf-16")), "malformed", "no JSON object"),
    "iss twice": (lambda: sign(twice("iss", '"https://evil.example/"', f'"{ISSUER}"')), "malformed", "a key twice"),
    "sub twice": (lambda: sign(twice("sub", '"victim"', '"me"')), "malformed", "a key twice"),
    "exp twice": (lambda: sign(twice("exp", "1", "99999999999")), "malformed", "a key twice"),
    "another issuer": (lambda: sign(claims(iss="https://evil.example/")), "issuer", "iss of the JWT is https://evil.example/"),
    "issuer without its slash": (lambda: sign(claims(iss=ISSUER.rstrip("/"))), "issuer", "no table [jwt.NAME]"),
    "issuer is an array": (lambda: sign(claims(iss=[ISSUER])), "issuer", "missing or no URL"),
    "no issuer": (lambda: sign(claims(iss=None)), "issuer", "missing or no URL"),
    "another audience": (lambda: sign(claims(aud="another-app")), "audience", "names no audience of [jwt.app]"),
    "part of the audience": (lambda: sign(claims(aud="realtime")), "audience", "aud"),
    "audiences of others": (lambda: sign(claims(aud=["a", "b"])), "audience", "aud"),
    "audience is an object": (lambda: sign(claims(aud={"realtime-relay": 1})), "audience", "aud"),
    "no audience": (lambda: sign(claims(aud=None)), "audience", "aud of the JWT is missing"),
    "audience beside a number": (lambda: sign(claims(aud=["realtime-relay", 1])), "audience", "aud"),
    "65 audiences": (lambda: sign(claims(aud=["realtime-relay", *map(str, range(64))])), "audience", "aud"),
    "claim in an object twice": (
        lambda: sign(json.dumps(claims(x=0)).replace('"x": 0', '"x": {"a": 1, "a": 2}').encode()), "malformed", "a key twice",
    ),
    "exp is negative": (lambda: sign(claims(exp=-1)), "expired", "the JWT expired"),
    "exp is a fraction in the past": (lambda: sign(claims(exp=time.time() - 61.5)), "expired", "the JWT expired 6"),
    "exp in milliseconds": (lambda: sign(claims(exp=int(time.time()) * 1000)), "malformed", "exp of the JWT is no time"),
    "exp of 5000 digits": (
        lambda: sign(json.dumps(claims(exp=0)).replace('"exp": 0', f'"exp": {"9" * 5000}').encode()), "malformed", "JSON",
    ),
    "no exp": (lambda: sign(claims(exp=None)), "malformed", "has no exp"),
    "exp is text": (lambda: sign(claims(exp="99999999999")), "malformed", "exp of the JWT is no time"),
    "exp is true": (lambda: sign(claims(exp=True)), "malformed", "exp of the JWT is no time"),
    "exp is infinite": (lambda: sign(json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": 1e999').encode()), "malformed",
                        "exp of the JWT is no time"),
    "exp is NaN": (lambda: sign(json.dumps(claims(exp=0)).replace('"exp": 0', '"exp": NaN').encode()), "malformed", "JSON"),
    "nbf is an object": (lambda: sign(claims(nbf={})), "malformed", "nbf of the JWT is no time"),
    "no sub": (lambda: sign(claims(sub=None)), "user", "sub of the JWT"),
    "sub is a number": (lambda: sign(claims(sub=1)), "user", "sub of the JWT"),
    "sub is empty": (lambda: sign(claims(sub="")), "user", "sub of the JWT"),
    "sub with a line feed": (lambda: sign(claims(sub="a\nb")), "user", "sub of the JWT"),
    "sub is a lone surrogate": (lambda: sign(claims(sub="\ud800")), "user", "sub of the JWT"),
    "sub of 300 characters": (lambda: sign(claims(sub="x" * 300)), "user", "sub of the JWT"),
    "expired": (lambda: sign(claims(exp=int(time.time()) - 61)), "expired", "the JWT expired 6"),
    "not yet valid": (lambda: sign(claims(nbf=int(time.time()) + 90)), "not_yet_valid", "nbf of the JWT is"),
    "issued in the future": (lambda: sign(claims(iat=int(time.time()) + 90)), "not_yet_valid", "iat of the JWT is"),
}  # fmt: skip
REASONS = {"expired": "token_expired", "not_yet_valid": "token_not_yet_valid"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def attacked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Relay, Issuer]]:
    """One relay for all rows, so that they are cheap."""
    async with running_issuer() as issuer:
        path = tmp_path_factory.mktemp("jwt") / "clients.toml"
        async with relay_with(issuer, path, RELAY_TRUSTED_PROXIES="127.0.0.1") as relay:
            yield relay, issuer


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ATTACKS)
async def test_token_is_refused(attacked: tuple[Relay, Issuer], name: str) -> None:
    """With 401, its reason, its cause in the metric, and a detail in the log that holds no part of the token."""
    relay, _ = attacked
    make, cause, detail = ATTACKS[name]
    token = make()
    refusals = len(relay.events("admission.refused"))
    before = relay.metric("realtime_relay_jwt_checks_total", result=cause)
    # An address of its own for each row: 60 wrong tokens a minute are the limit of one.
    number = [*ATTACKS].index(name)
    client = await connect_with_address(relay, token, f"198.51.100.{number}")

    assert (401, REASONS.get(cause, "token_invalid")) == (client.answer.status, client.answer.error["code"])
    assert before + 1 == relay.metric("realtime_relay_jwt_checks_total", result=cause)
    line = relay.events("admission.refused")[refusals]
    assert detail in line["detail"]
    assert line["client"] == "unknown"
    assert not [part for part in token.split(".") if len(part) > 20 and part in str(line) + str(client.answer)]
    assert "CANARYuser" not in str(line) + str(client.answer)


async def connect_with_address(relay: Relay, token: str, address: str) -> Any:
    """Connect as a client behind a trusted proxy."""
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": address}
    client = await open_raw(relay.app.public_port, "/v1/realtime?model=gpt-realtime", headers)
    await client.close()
    return client


@pytest.mark.asyncio(loop_scope="module")
async def test_good_tokens_are_accepted(attacked: tuple[Relay, Issuer]) -> None:
    """Both default algorithms, several audiences, the types of access tokens, no `typ`, clocks that differ a little."""
    relay, _ = attacked
    now = int(time.time())
    for token in (
        sign(),
        sign(key=EC),
        sign(claims(aud=["other", "realtime-relay"])),
        sign(typ="at+JWT"),
        sign(typ=None),
        sign(claims(exp=now - 30)),
        sign(claims(nbf=now + 30, iat=now + 30.5)),
        sign(claims(sub="\u00fc 1")),
        sign(kid=None),
        sign(claims(exp=now + 300.5, nbf=-1)),
        sign(claims(exp=now + 10**9)),
        sign(jku="http://127.0.0.1:1/jwks.json"),
    ):
        assert (101, None) == await answer_to(relay, token)


@pytest.mark.asyncio(loop_scope="module")
async def test_no_attack_fetches_another_address_or_floods_the_provider(attacked: tuple[Relay, Issuer]) -> None:
    """All rows together have caused two fetches at most: at the start, and one for an unknown kid."""
    _, issuer = attacked

    assert issuer.fetches <= 2


@pytest.mark.asyncio(loop_scope="module")
async def test_wrong_audience_has_its_own_remedy(attacked: tuple[Relay, Issuer]) -> None:
    """The provider has signed it, so the app requests the wrong one."""
    relay, _ = attacked
    client = await connect_with(relay, sign(claims(aud="another-app")))
    await client.close()

    assert "Request the token from the identity provider for the audience of this relay" in str(client.answer.error)


async def test_wrong_tokens_of_one_address_are_limited(tmp_path: Path) -> None:
    """Like guesses of the relay's own tokens; a good one is still accepted."""
    async with running_issuer() as issuer, relay_with(issuer, tmp_path / "clients.toml") as relay:
        found = [await answer_to(relay, sign(key=OTHER)) for _ in range(62)]

        assert (401, "token_invalid") == found[0]
        assert (429, "too_many_connects") == found[-1]
        assert (101, None) == await answer_to(relay, sign())


async def test_other_algorithms_are_accepted_where_the_table_lists_them(tmp_path: Path) -> None:
    """Each with its own type of key, and no other algorithm then."""
    keys: dict[str, RSAKey | ECKey] = {
        "PS384": RSAKey.generate_key(2048, {"kid": "p"}),
        "ES384": ECKey.generate_key("P-384", {"kid": "c"}),
    }
    async with running_issuer() as issuer:
        issuer.document = {"keys": [key.as_dict(private=False) for key in (*keys.values(), RSA)]}
        lines = f"algorithms = {json.dumps([*keys, 'EdDSA'])}"
        async with relay_with(issuer, tmp_path / "clients.toml", lines) as relay:
            for algorithm, key in keys.items():
                assert (101, None) == await answer_to(relay, sign(key=key, alg=algorithm))
            assert (401, "token_invalid") == await answer_to(relay, sign())


async def test_key_signs_only_with_its_own_algorithm_and_for_signatures(tmp_path: Path) -> None:
    """`alg`, `use` and `key_ops` of the key bind it, although the table lists the algorithm of the token."""
    ours = RSAKey.generate_key(2048)
    public = ours.as_dict(private=False)
    keys = [
        public | {"kid": "alg", "alg": "PS256"},
        public | {"kid": "ops", "key_ops": ["encrypt"]},
        public | {"kid": "use", "use": "enc"},
        public | {"kid": "good", "alg": "RS256", "use": "sig", "key_ops": ["verify"]},
    ]
    async with running_issuer() as issuer:
        issuer.document = {"keys": keys}
        lines = 'algorithms = ["RS256", "PS256", "ES256"]'
        async with relay_with(issuer, tmp_path / "clients.toml", lines) as relay:
            found = {key["kid"]: await answer_to(relay, sign(key=ours, kid=key["kid"])) for key in keys}
            refused = (401, "token_invalid")

            assert {"alg": refused, "ops": refused, "use": refused, "good": (101, None)} == found
            assert (101, None) == await answer_to(relay, sign(key=ours, kid="alg", alg="PS256"))


def test_segments_are_base64url() -> None:
    """What the tests make is what providers make."""
    header = sign().split(".")[0]
    assert {"alg": "RS256", "kid": "r1", "typ": "JWT"} == json.loads(base64.urlsafe_b64decode(header + "=="))
