"""Requests for client secrets over real sockets: who gets one, for what, and how a refusal names its cause."""

import asyncio
import gzip
import json
import re
import time
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from service.access import secrets
from service.realtime.secret_request import MAX_BODY_BYTES
from service.web import client_secrets
from service.web.unserved import CLIENT_SECRET_PATHS
from tests.clients_file.relays import TIMEOUT, TOKENS, table
from tests.clients_file.secret_requests import PATH, SESSION, created, outcome, post, relay_of, upstream_of, use
from tests.support.harness import DEFAULT_PATH, eventually, open_raw, simulated_relay, within
from tests.support.jwt_issuer import claims, issuer_table, running_issuer, sign


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b"{", None),
        (b'{"session": {}, "session": {}}', None),
        (b'{"model": "gpt-realtime"}', "model"),
        (b'{"expires_after": 60}', "expires_after"),
        (b'{"expires_after": {"anchor": "now"}}', "expires_after.anchor"),
        (b'{"expires_after": {"minutes": 1}}', "expires_after.minutes"),
        *((b'{"expires_after": {"seconds": %s}}' % value, "expires_after.seconds")
          for value in (b"9", b"601", b"7200", b'"60"', b"60.0", b"true", b"null")),
        (b'{"locked": "tools"}', "locked"),
        (b'{"locked": ["tools", "speed"]}', "locked"),
        (b'{"locked": [["tools"]]}', "locked"),
        (b'{"locked": ["tools"], "session": {"type": "transcription"}}', "locked"),
        (b'{"session": []}', "session"),
        (b'{"session": {"Model": "x"}}', "session"),
        (b'{"session": {"speed": 1e999}}', "session"),
        (b'{"session": {"type": "live"}}', "session.type"),
        (b'{"session": {"type": ["realtime"]}}', "session.type"),
        (b'{"session": {"model": ""}}', "session.model"),
        (b'{"session": {"model": 5}}', "session.model"),
        (b'{"session": {"type": "transcription", "model": "whisper-1"}}', "session.model"),
        (b'{"session": {"model": "gpt-realtime-mini"}}', None),
        (b'{"session": {"x": ' + b"[" * 64 + b"]" * 64 + b"}}", "session"),
        (b'{"session": {"x": ' + b'{"a":' * 500 + b"1" + b"}" * 500 + b"}}", "session"),
        (b'{"session": {"x": [' + b"1e15," * 8_000 + b"1]}}", "session"),
    ],
)  # fmt: skip
async def test_bad_body_is_named(body: bytes, param: str | None, path: Path) -> None:
    """In the shape of OpenAI's errors, with a remedy; nothing is created."""
    async with relay_of(path, table("kiosk", 'models = ["gpt-realtime"]')) as relay:
        status, answer = await post(relay, data=body)
        assert 400 == status
        expected = "model_refused" if b"mini" in body else "bad_request"
        assert (expected, param) == (answer["error"]["code"], answer["error"]["param"])
        assert {"type", "code", "message", "param", "remedy", "retry"} <= answer["error"].keys()
        assert 0 == relay.metric("realtime_relay_client_secrets_total")


async def test_body_as_deep_as_the_interpreter_goes_is_refused(path: Path) -> None:
    """By the limit on depth, or because it cannot be read: which of them depends on how deep the caller's stack is."""
    async with relay_of(path, table("kiosk")) as relay:
        for depth in range(800, 1010, 10):
            status, answer = await post(relay, data=b'{"session": {"x": ' + b"[" * depth + b"]" * depth + b"}}")
            assert (400, "bad_request") == (status, answer["error"]["code"])


async def test_length_of_a_body_is_bounded_and_known(path: Path) -> None:
    """The largest body is accepted; a larger or chunked one, or one that does not arrive, is refused with the remedy."""
    async with relay_of(path, table("kiosk")) as relay:
        filler = MAX_BODY_BYTES - len(json.dumps({"session": {"instructions": ""}}))
        assert await created(relay, {"session": {"instructions": "x" * filler}})
        status, answer = await post(relay, {"session": {"instructions": "x" * (filler + 1)}})
        assert (400, "Send a body of at most 48 KiB.") == (status, answer["error"]["remedy"])
        status, answer = await post(relay, data=b"", headers={"Content-Length": "100000000"})
        assert (400, "Send a body of at most 48 KiB.") == (status, answer["error"]["remedy"])

        async def chunks() -> AsyncIterator[bytes]:
            yield b"{}"

        status, answer = await post(relay, data=chunks())
        assert (400, True) == (status, "Content-Length" in answer["error"]["remedy"])


@pytest.mark.parametrize("sent", [b"", b'{"session"'])
async def test_body_that_ends_early_is_refused_at_once(
    sent: bytes, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client has closed its sending side: the rest of the body cannot arrive."""
    monkeypatch.setattr(client_secrets, "BODY_SECONDS", 3600)
    async with relay_of(path, table("kiosk")) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20\r\n"
        writer.write(f"{head}Authorization: Bearer {TOKENS['kiosk']}\r\n\r\n".encode() + sent)
        writer.write_eof()
        status, _, body = (await within(reader.read(), 10)).partition(b"\r\n")
        writer.close()
        assert b"HTTP/1.1 400 Bad Request" == status
        assert "Content-Length" in json.loads(body.partition(b"\r\n\r\n")[2])["error"]["remedy"]
        assert f"{len(sent)} of 20 bytes" in relay.events("admission.refused")[0]["detail"]


async def test_body_that_waits_for_100_continue_gets_it(path: Path) -> None:
    """As curl does for a long body. A caller without a token gets its refusal instead."""
    async with relay_of(path, table("kiosk")) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        head = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"
        writer.write(f"{head}Authorization: Bearer {TOKENS['kiosk']}\r\n\r\n".encode())
        assert b"HTTP/1.1 100 Continue\r\n\r\n" == await reader.readuntil(b"\r\n\r\n")
        writer.write(b"{}")
        assert b"HTTP/1.1 200 OK" == (await reader.readuntil(b"\r\n")).strip()
        writer.close()
        await writer.wait_closed()
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(f"{head}\r\n".encode())
        assert b"HTTP/1.1 401 Unauthorized" == (await reader.readuntil(b"\r\n")).strip()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compressed_body_is_not_read(coding: str, path: Path) -> None:
    """30 kB of it can be 30 MB."""
    compress = gzip.compress if coding == "gzip" else zlib.compress
    async with relay_of(path, table("kiosk")) as relay:
        for size in (1, 30_000_000):
            data = compress(json.dumps({"session": {"instructions": "x" * size}}).encode())
            status, answer = await post(relay, data=data, headers={"Content-Encoding": coding})
            assert (400, "Send the body without Content-Encoding, not compressed.") == (
                status,
                answer["error"]["remedy"],
            )


async def test_deepest_session_is_opened(path: Path) -> None:
    """What a secret is bound to can be written and read wherever it is used."""
    tool = json.loads('{"a":' * 61 + "1" + "}" * 61)
    tools = [{"type": "function", "name": "find", "parameters": tool}]
    async with relay_of(path, table("kiosk")) as relay:
        secret = await created(relay, {"session": {**SESSION, "tools": tools}})
        assert "session.created" == await outcome(await use(relay, secret))


async def test_only_a_client_token_creates_secrets(path: Path) -> None:
    """No client secret does, no unknown token, and no page of a foreign origin under open access."""
    async with relay_of(path, table("kiosk")) as relay:
        secret = await created(relay)
        for token, reason in ((None, "token_missing"), ("wrong", "token_invalid"), (secret, "token_invalid")):
            status, answer = await post(relay, {"session": SESSION}, token=token)
            assert (401, reason) == (status, answer["error"]["code"])
        assert "creates no other" in answer["error"]["remedy"]
        assert "session.created" == await outcome(await use(relay, secret))  # the attempt used nothing up
        status, answer = await post(relay, {}, headers={"Origin": "https://evil.example"})
        assert 200 == status  # a header with a token is no page's
    async with simulated_relay() as relay:
        status, answer = await post(relay, {}, token=None, headers={"Origin": "https://evil.example"})
        assert (403, "origin_refused") == (status, answer["error"]["code"])
        assert "session.created" == await outcome(await use(relay, await created(relay, token=None)))
        status, answer = await post(relay, {}, token=await created(relay, token=None))
        assert 401 == status


@pytest.mark.parametrize("path_of", CLIENT_SECRET_PATHS)
async def test_aliases_create_secrets_and_other_methods_are_explained(path_of: str, path: Path) -> None:
    """POST only; a preflight and a GET get the remedy."""
    async with relay_of(path, table("kiosk")) as relay:
        assert await created(relay, path=path_of)
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            for method, words in (("GET", "Send POST"), ("OPTIONS", "CORS")):
                async with session.request(method, relay.url + path_of) as reply:
                    assert (405, "POST") == (reply.status, reply.headers["Allow"])
                    assert words in (await reply.json())["error"]["remedy"]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("/v1/realtime/client_secret", "/v1/realtime/client_secrets"),
        ("/v1/realtime/translations/client_secrets", "for /v1/realtime only"),
        ("/v1/live/client_secrets", "for /v1/realtime only"),
        ("/v1/realtime/sessions", "for /v1/realtime only"),
    ],
)
async def test_other_places_are_explained(place: str, words: str, path: Path) -> None:
    """GPT-Live has no client secrets; the beta's paths are not served."""
    async with relay_of(path, table("kiosk")) as relay:
        status, answer = await post(relay, {}, path=place)
        assert (404, "path_not_found") == (status, answer["error"]["code"])
        assert words in answer["error"]["remedy"]


async def test_secret_does_not_outlive_the_token_that_created_it(path: Path) -> None:
    """A JWT limits when a session can start; its secret expires with it."""
    async with running_issuer() as issuer:
        text = "[clients.kiosk]\n" + issuer_table(issuer.url, "clock_skew_seconds = 0")
        async with relay_of(path, text) as relay:
            end = int(time.time()) + 30
            status, answer = await post(relay, {}, token=sign(claims(exp=end)))
            assert (200, True) == (status, answer["expires_at"] <= end)


async def test_rate_and_memory_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each client: 429 with Retry-After, and other clients go on."""
    monkeypatch.setattr(secrets, "MAX_CREATED_PER_MINUTE", 3)
    monkeypatch.setattr(secrets, "MAX_BOUND_BYTES", 4_000)
    async with relay_of(path, table("kiosk") + table("web")) as relay:
        for _ in range(3):
            await created(relay)
        status, answer = await post(relay, {})
        assert (429, "too_many_secrets", "later") == (status, answer["error"]["code"], answer["error"]["retry"])
        assert await created(relay, token=TOKENS["web"])
        status, answer = await post(relay, {"session": {"instructions": "x" * 2_000}}, token=TOKENS["web"])
        assert (429, "too_many_secrets") == (status, answer["error"]["code"])
    details = [event["detail"] for event in relay.events("admission.refused")]
    assert ["3 client secrets in 60 s", "the sessions of unexpired client secrets take too much memory"] == details


async def test_user_with_a_jwt_does_not_keep_out_the_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its share of the client's secrets, and of the memory for their sessions, is its own limit."""
    monkeypatch.setattr(secrets, "MAX_CREATED_PER_MINUTE_BY_USER", 2)
    async with running_issuer() as issuer, relay_of(path, "[clients.kiosk]\n" + issuer_table(issuer.url)) as relay:
        alice, bob, carol = (sign(claims(sub=name)) for name in ("alice", "bob", "carol"))
        for _ in range(2):
            await created(relay, token=alice)
        status, answer = await post(relay, {}, token=alice)
        assert (429, "too_many_secrets") == (status, answer["error"]["code"])
        monkeypatch.setattr(secrets, "MAX_BOUND_BYTES", 64 * 4_000)
        large = {"session": {"instructions": "x" * 3_000}}
        await created(relay, large, token=bob)
        status, answer = await post(relay, large, token=bob)
        assert (429, "too_many_secrets") == (status, answer["error"]["code"])
        assert await created(relay, large, token=carol)


async def test_jwt_creates_secrets_of_its_user(path: Path) -> None:
    """`sub` is the user, and names it to the provider, whatever a header says; with end_at_expiry the secret ends with it."""
    async with running_issuer() as issuer:
        text = "[clients.kiosk]\n" + issuer_table(issuer.url, "end_at_expiry = true\nclock_skew_seconds = 0")
        async with relay_of(path, text) as relay:
            token = sign(claims(sub="alice"))
            unnamed = await created(relay, token=token)
            names = []
            for headers in ({}, {"OpenAI-Safety-Identifier": "another"}):
                client = await use(
                    relay, unnamed if not headers else await created(relay, token=token), headers=headers
                )
                names.append(upstream_of(relay).headers["OpenAI-Safety-Identifier"])
                await client.close()
            another = {"OpenAI-Safety-Identifier": "hash-of-bob"}
            for headers in ({}, another):
                direct = await open_raw(
                    relay.app.public_port, DEFAULT_PATH, {"Authorization": f"Bearer {token}", **headers}
                )
                names.append(upstream_of(relay).headers["OpenAI-Safety-Identifier"])
                await direct.close()
            client = await use(relay, await created(relay, token=token, headers=another))
            names.append(upstream_of(relay).headers["OpenAI-Safety-Identifier"])
            assert "session.created" == await outcome(client)
            assert re.fullmatch(r"user-[0-9a-f]{32}", names[0])
            assert names == [names[0]] * 5
            bob = await open_raw(
                relay.app.public_port, DEFAULT_PATH, {"Authorization": f"Bearer {sign(claims(sub='bob'))}"}
            )
            assert names[0] != upstream_of(relay).headers["OpenAI-Safety-Identifier"]
            await bob.close()
            await eventually(lambda: 6 == len(relay.events("session.ended")))
            assert {"alice"} == {event["user"] for event in relay.events("secret.created")}


async def test_user_has_limits_records_and_a_name_at_the_provider(path: Path, tmp_path: Path) -> None:
    """The app's server names the user by OpenAI-Safety-Identifier; a holder of the secret cannot name another."""
    records = tmp_path / "records.jsonl"
    text = table("kiosk", "") + "[clients.kiosk.per_user]\nmax_sessions = 1\n"
    async with relay_of(path, text, RELAY_RECORDS=str(records)) as relay:
        alice = {"OpenAI-Safety-Identifier": "user-alice"}
        first, second = [await created(relay, headers=alice) for _ in range(2)]
        bob = await created(relay, headers={"OpenAI-Safety-Identifier": "user-bob"})
        client = await use(relay, first, headers={"OpenAI-Safety-Identifier": "another"})
        assert "user-alice" == upstream_of(relay).headers["OpenAI-Safety-Identifier"]
        assert "429 too_many_sessions" == await outcome(await use(relay, second))
        assert "session.created" == await outcome(await use(relay, bob))
        await client.close()
        await eventually(lambda: 2 == len(records.read_text().splitlines()) if records.exists() else False)
        assert {"user-alice", "user-bob"} == {json.loads(line)["user"] for line in records.read_text().splitlines()}
        for bad in ("two words", "ü", "x" * 513):
            status, answer = await post(relay, {}, headers={"OpenAI-Safety-Identifier": bad})
            assert (400, "OpenAI-Safety-Identifier") == (status, answer["error"]["param"])


async def test_name_of_a_user_depends_on_the_key(path: Path) -> None:
    """RELAY_SAFETY_KEY, or the provider's key: with the same one all instances name a user alike."""
    found = []
    async with running_issuer() as issuer:
        for settings in (
            {"RELAY_SAFETY_KEY": "k" * 16},
            {"RELAY_SAFETY_KEY": "k" * 16},
            {"RELAY_SAFETY_KEY": "l" * 16},
            {},
        ):
            async with relay_of(path, "[clients.kiosk]\n" + issuer_table(issuer.url), **settings) as relay:
                headers = {"Authorization": f"Bearer {sign(claims(sub='alice'))}"}
                client = await open_raw(relay.app.public_port, DEFAULT_PATH, headers)
                found.append(upstream_of(relay).headers["OpenAI-Safety-Identifier"])
                await client.close()
    assert (3, found[0]) == (len(set(found)), found[1])
