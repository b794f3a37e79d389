"""No request makes admission raise anything but a Failure: header values, Host and query of any content."""

import asyncio
from contextlib import ExitStack, suppress
from typing import Any, cast

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from service.access.tokens import ClientToken
from service.failures import CATALOGUE, Failure
from service.realtime.keys import Secret
from service.realtime.names import host_of, is_loopback
from service.telemetry.metrics import Metrics
from service.web.admission import AdmissionControl
from service.web.attempts import ConnectionAttempt
from service.web.request import parse_handshake, wants_error_event
from tests.support.harness import Relay, simulated_relay, within
from tests.support.memory_relay import POLICY

PATH = "/v1/realtime?model=gpt-realtime"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HOSTS = [
    b"[", b"]", b"[::1", b"::1]", b"[::1]x", b"[]", b"[v1.a]", b"[::1]:99999", b"user@", b"a@b@c", b"u:p@[::1", b"@", b":",
    b"::", b":80", b"localhost:", b"localhost:x", b"localhost:-1", b"localhost:99999999", b"127.0.0.1:8080:80", b"a b",
    b"a/b", b"a?b", b"a#b", b"a\\b", b"%", b"%5b", b"%zz", "\u2100.example".encode(), "\uff03@evil.example".encode(),
    "a\uff0fb".encode(), "\u30d5\u309a\ufe1380".encode(), "\u2488com".encode(), b"\xff\xfe", b"\xed\xa0\x80", b"a" * 5000,
    b"127.0.0.1, evil.example",
]  # fmt: skip
"""Malformed authorities; some normalise into delimiters (python/cpython#13937), some are brackets without a partner
(MozillaSecurity/grizzly#265 and #445)."""


async def status_of(relay: Relay, head: bytes) -> int:
    """The status with which the relay answers a request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
    writer.write(head)
    try:
        return int((await within(reader.readuntil(b"\r\n"), 10)).split()[1])
    finally:
        writer.close()


def upgrade(*lines: bytes, target: bytes = PATH.encode()) -> bytes:
    """An upgrade request with these additional header lines."""
    head = [
        b"GET " + target + b" HTTP/1.1",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Version: 13",
    ]
    return b"\r\n".join([*head, b"Sec-WebSocket-Key: " + KEY.encode(), *lines, b"", b""])


@pytest.mark.parametrize(("proxies", "status"), [("", 421), ("192.0.2.1", 101)])
async def test_malformed_host_is_no_internal_error(proxies: str, status: int) -> None:
    """It is refused where Host is checked, and decides nothing elsewhere; aiohttp refuses some with 400."""
    async with simulated_relay(RELAY_TRUSTED_PROXIES=proxies) as relay:
        for host in HOSTS:
            expected = {101, 421} if host in {b"localhost:", b"[::1]:99999"} else {status}
            assert await status_of(relay, upgrade(b"Host: " + host)) in {*expected, 400}, host

        assert [] == relay.events("request.failed")
        if not proxies:
            return
        (line,) = relay.events("access.open_behind_proxy")
        assert "RELAY_ACCESS=tokens" in line["remedy"]


@pytest.mark.parametrize(
    ("authority", "host", "loopback"),
    [
        ("localhost", "localhost", True),
        ("LOCALHOST.:8080", "LOCALHOST.", True),
        ("127.0.0.1:8080", "127.0.0.1", True),
        ("[::1]:8080", "::1", True),
        ("[::1]", "::1", True),
        ("relay_1.example.com:443", "relay_1.example.com", False),
        ("user@localhost", None, False),
        ("localhost@evil.example", None, False),
        ("[::1", None, False),
        ("localhost:http", None, False),
        ("localhost\uff0f", None, False),
        ("", None, False),
    ],
)
def test_host_is_read_from_an_authority(authority: str, host: str | None, *, loopback: bool) -> None:
    """A malformed authority has no host, so it is never taken for loopback."""
    assert host == host_of(authority)
    assert loopback is is_loopback(host_of(authority) or "")


BYTES = [
    b"\xff", b"\xed\xa0\x80", b"\xc3\x28", b"\xf0\x9f", b"\x7f", b'"', b"\\", b",", b",,", b";", b"=", b"%", b"%00",
    b"%ED%A0%80", b"%zz", b"[", b"]", b"Bearer", b"Bearer  ", b"bearer \xff", b"Basic Og==", b"openai-insecure-api-key.",
    b"openai-insecure-api-key.\xff", b"null", b"file://", b"http://[", b"http://a:b:c", b"http://a:99999", b"://",
    b"x" * 3000, "\u2100".encode(), "\u202e".encode(),
]  # fmt: skip
HEADERS = [
    b"Host", b"Origin", b"Authorization", b"api-key", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version",
    b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions", b"X-Forwarded-For", b"Forwarded", b"OpenAI-Safety-Identifier",
    b"Connection", b"Upgrade", b"Expect",
]  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
async def test_malformed_header_is_no_internal_error(name: bytes) -> None:
    """On a real socket, alone and twice, with a trusted proxy and with tokens."""
    access = {
        "RELAY_ACCESS": "tokens",
        "RELAY_CLIENT_TOKENS": "web:token-0123456789abcdef",
        "RELAY_TRUSTED_PROXIES": "127.0.0.1",
    }
    async with simulated_relay(None, **access) as relay:
        for value in BYTES:
            line = name + b": " + value
            for lines in ([line], [line, line]):
                assert 500 != await status_of(relay, upgrade(b"Host: localhost", *lines)), lines
        assert [] == relay.events("request.failed")


@pytest.mark.parametrize("name", [b"model", b"intent", b"call_id", b"on_failure", b"draining_event", b"token", b"x"])
async def test_malformed_query_is_no_internal_error(name: bytes) -> None:
    """Broken percent-encodings, encoded surrogates, bytes that are not UTF-8, empty names, targets with a host."""
    async with simulated_relay() as relay:
        for value in BYTES:
            if b" " in value:
                continue
            for target in (
                PATH.encode() + b"&" + name + b"=" + value,
                b"/v1/realtime?" + value + b"=" + name + b"&&=;",
            ):
                assert 500 != await status_of(relay, upgrade(b"Host: localhost", target=target)), target
        for target in (
            b"http://[::1/v1/realtime?model=m",
            b"http://u:p@h:x/v1/realtime",
            b"//[/v1/realtime",
            b"*",
            b"/v1/realtime#?",
        ):
            assert 500 != await status_of(relay, upgrade(b"Host: localhost", target=target)), target
        assert [] == relay.events("request.failed")


TEXT = st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
PAIRS = st.lists(st.tuples(st.sampled_from([name.decode() for name in HEADERS]), TEXT), max_size=8)
NAMES = (
    st.sampled_from(["model", "intent", "call_id", "deployment", "on_failure", "draining_event", "token", "x"]) | TEXT
)


def admit(request: Any, mode: Any) -> str:
    """The reason of the refusal, or `admitted`."""

    async def run() -> str:
        tokens = (ClientToken("web", Secret("token-0123456789abcdef")),)
        policy = type(POLICY)(
            **{name: getattr(POLICY, name) for name in POLICY.__slots__} | {"mode": mode, "client_tokens": tokens}
        )
        control = AdmissionControl(
            policy, policy.directory(), Metrics("simulator"), refusal=lambda: None, probe_client=lambda _: None
        )
        with ExitStack() as slot:
            with suppress(Failure):
                parse_handshake(request)
            try:
                wants_error_event(request)
                control.admit(request, ConnectionAttempt("s", "192.0.2.1"), slot, "realtime")
            except Failure as failure:
                return failure.reason
            return "admitted"

    return asyncio.run(run())


@settings(deadline=None)
@given(PAIRS, st.lists(st.tuples(NAMES, TEXT), max_size=6), st.sampled_from(["open", "tokens"]))
def test_admission_raises_only_failures(
    headers: list[tuple[str, str]], query: list[tuple[str, str]], mode: str
) -> None:
    """For any headers, lone surrogates included, and any query; without the token no request is admitted."""
    clean = [(name, value.encode("utf-8", "surrogatepass").decode("utf-8", "replace")) for name, value in query]
    target = str(URL("/v1/realtime").with_query(clean))
    request = make_mocked_request("GET", target)
    # make_mocked_request encodes headers strictly; aiohttp's parser decodes bytes that are not UTF-8 to lone surrogates.
    cast("Any", request)._headers = CIMultiDictProxy(CIMultiDict(headers))

    reason = admit(request, mode)

    assert reason == "admitted" or reason in CATALOGUE
    assert not (mode == "tokens" and reason == "admitted")
