"""Untrusted input: wrong tokens, forged headers, injections. None of it becomes a label, an upstream URL or a log line."""

import asyncio
import json
import statistics
import time

import aiohttp
import pytest

from service.access.clients import Client, ClientDirectory, digest_of
from service.failures import Failure
from tests.support.harness import (
    KEY_CANARY,
    Relay,
    eventually,
    open_raw,
    running_relay,
    simulated_relay,
    taking_less_than,
)
from tests.support.raw_http_server import PATH, Exchange, raw_http
from tests.support.raw_websocket_server import CREATED

TOKEN = "CANARY1token-abcdefghijklmnop"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": f"web:{TOKEN}"}


async def open_session(exchange: Exchange) -> None:
    """Script of an upstream that opens sessions."""
    exchange.upgrade(CREATED)
    await exchange.wait_closed()


async def raw_request(relay: Relay, request: bytes) -> bytes:
    """Send bytes that no client library would send; return the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
    writer.write(request)
    try:
        async with taking_less_than(5):
            return await reader.read(4096)
    finally:
        writer.close()
        await writer.wait_closed()


def upgrade(target: str, *headers: str) -> bytes:
    """Build a valid upgrade with this request target and these additional headers."""
    lines = [
        f"GET {target} HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", *headers, "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode("latin-1")


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"Authorization": "Bearer"}, id="empty"),
        pytest.param({"Authorization": "Bearer " + "x" * 6000}, id="long"),
        pytest.param({"Authorization": "Bearer \xff\xfe"}, id="not-ascii"),
        pytest.param({"Cookie": f"token={TOKEN}; session={TOKEN}"}, id="cookie"),
    ],
)
async def test_missing_or_malformed_token_is_refused_with_401(headers: dict[str, str]) -> None:
    """With WWW-Authenticate and without a dial. Neither the log nor the body repeats a token in the wrong place."""
    async with raw_http(open_session) as upstream, running_relay(
        simulator=None, intervals=None, adjust=None, **{"OPENAI_BASE_URL": upstream.url, "RELAY_MODEL": "probe"} | TOKENS
    ) as relay:  # fmt: skip
        client = await open_raw(relay.app.public_port, PATH, headers)
        await client.close()

        assert 401 == client.answer.status
        assert "Bearer" in client.answer.headers["WWW-Authenticate"]
        assert 0 == upstream.requests
        assert TOKEN not in str(relay.logs) + client.answer.body.decode()


def test_token_comparison_takes_constant_time() -> None:
    """A token that differs in its last character takes as long to refuse as one that differs in all.

    The directory hashes the token, and finds the digest in a table. The bound is wide for the sake of busy machines.
    """
    directory = ClientDirectory(
        Client(name=f"t{n}", credentials=frozenset({digest_of(f"{TOKEN}{n:04}")})) for n in range(50)
    )

    def seconds(token: str) -> float:
        started = time.process_time()
        for _ in range(50):
            with pytest.raises(Failure):
                directory.authenticate(token)
        return time.process_time() - started

    near, far = f"{TOKEN}004x", "y" * len(f"{TOKEN}0049")
    pairs = [(seconds(near), seconds(far)) for _ in range(15)]
    assert 0.5 < statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs) < 2


async def test_client_headers_are_not_sent_upstream() -> None:
    """Neither credentials, cookies, forwarding nor proxy headers. The relay sends its own key."""
    headers = {
        "Authorization": "Bearer sk-CANARY3clients-own", "api-key": "CANARY3", "Cookie": "CANARY3=1",
        "OpenAI-Organization": "CANARY3", "OpenAI-Project": "CANARY3", "X-Forwarded-For": "192.0.2.3",
        "X-Forwarded-Host": "CANARY3", "Forwarded": "for=CANARY3", "Proxy-Authorization": "CANARY3",
        "Proxy-Connection": "CANARY3", "User-Agent": "CANARY3", "X-Anything": "CANARY3", "Referer": "http://CANARY3/",
    }  # fmt: skip
    async with (
        raw_http(open_session) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        client = await open_raw(relay.app.public_port, PATH, headers)
        await client.close()

        assert 101 == client.answer.status
        assert "CANARY3" not in upstream.heads[0]
        assert "192.0.2.3" not in upstream.heads[0]
        assert f"Authorization: Bearer {KEY_CANARY}" in upstream.heads[0]


@pytest.mark.parametrize(
    ("origins", "status"),
    [
        (["https://app.example.com"], 101),
        (["https://APP.example.com"], 101),  # RFC 6454 section 4: origins are compared in lower case
        (["https://app.example.com:443"], 101),  # React Native sends the default port
        (["https://app.example.com/"], 101),
        (["https://app.example.com", "https://app.example.com"], 403),
        (["https://app.example.com", "https://evil.example"], 403),
        (["null"], 403),
        (["https://app.example.com.evil"], 403),
        (["https://app.example.com:444"], 403),
        ([], 101),
    ],
)
async def test_origin_is_checked_beside_a_valid_token(origins: list[str], status: int) -> None:
    """No Origin header is allowed, one must match, and two are refused. A page sends its token as a subprotocol."""
    async with simulated_relay(None, RELAY_ALLOWED_ORIGINS="https://app.example.com", **TOKENS) as relay:
        token = f"Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.{TOKEN}"
        headers = ["Host: localhost", token, *(f"Origin: {origin}" for origin in origins)]
        answer = await raw_request(relay, upgrade("/v1/realtime?model=gpt-realtime", *headers))

        assert str(status).encode() == answer.split()[1]


@pytest.mark.parametrize(
    ("trusted", "forwarded", "address"),
    [
        ("", "192.0.2.7", "127.0.0.1"),
        ("127.0.0.0/8", "192.0.2.7", "192.0.2.7"),
        ("127.0.0.0/8", "198.51.100.1, 192.0.2.7", "192.0.2.7"),
        ("127.0.0.0/8,192.0.2.0/24", "198.51.100.1, 192.0.2.7", "198.51.100.1"),
        ("127.0.0.0/8", "CANARY", "127.0.0.1"),
    ],
)
async def test_forwarded_address_is_used_only_from_trusted_proxies(trusted: str, forwarded: str, address: str) -> None:
    """The client's address is the last hop of X-Forwarded-For that is no trusted proxy."""
    async with simulated_relay(None, RELAY_TRUSTED_PROXIES=trusted, **TOKENS) as relay:
        client = await open_raw(relay.app.public_port, headers=BEARER | {"X-Forwarded-For": forwarded})
        await client.close()
        await eventually(lambda: bool(relay.events("session.started")))

        assert address == relay.events("session.started")[0]["address"]


@pytest.mark.parametrize(
    ("query", "sent"),
    [
        ("model=scripted&x=%26intent%3Dtranscription", "model=scripted&x=%26intent%3Dtranscription"),
        ("model=scripted%26intent%3Dtranscription", None),
        ("model=scripted%23y", None),
        ("model=scripted%00", None),
        ("model=%D0%B0-homoglyph", None),
        ("model=http://evil.example/", None),
        ("model=scripted&base_url=http://evil.example", "model=scripted&base_url=http://evil.example"),
        ("model=scripted&x=a%0d%0aHost:%20evil", None),
    ],
)
async def test_query_is_re_encoded_or_refused(query: str, sent: str | None) -> None:
    """The upstream URL is the configured one plus re-encoded pairs. A value that could inject is refused without a dial."""
    async with (
        raw_http(open_session) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        client = await open_raw(relay.app.public_port, f"/v1/realtime?{query}")
        await client.close()

        if sent is None:
            assert (400, 0) == (client.answer.status, upstream.requests)
        else:
            assert 101 == client.answer.status
            assert [f"GET /v1/realtime?{sent} HTTP/1.1"] == [head.split("\r\n")[0] for head in upstream.heads]


async def foreign_server() -> tuple[asyncio.Server, list[bytes]]:
    """Start a server that no request may reach; return it and what it has received."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read(100))
        writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0), received


async def test_client_cannot_choose_the_upstream() -> None:
    """Neither by Host, by an absolute-form request target, nor by X-Forwarded-Host."""
    foreign, received = await foreign_server()
    elsewhere = f"127.0.0.1:{foreign.sockets[0].getsockname()[1]}"
    try:
        async with (
            raw_http(open_session) as upstream,
            running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
        ):
            for target, host in ((PATH, elsewhere), (f"http://{elsewhere}{PATH}", elsewhere)):
                answer = await raw_request(relay, upgrade(target, f"Host: {host}", f"X-Forwarded-Host: {elsewhere}"))
                assert answer.split()[1] in {b"101", b"400", b"404"}
            assert all(f"Host: 127.0.0.1:{upstream.port}" in head for head in upstream.heads)
    finally:
        foreign.close()
    assert [] == received


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(upgrade(PATH, "Host: localhost", "X-A: b\x00c"), id="nul"),
        pytest.param(upgrade(PATH, "Host: localhost", "X-A: b\rc"), id="cr"),
        pytest.param(upgrade(PATH.replace("?", "?a=\x01&"), "Host: localhost"), id="control-in-target"),
        pytest.param(
            upgrade(PATH, "Host: localhost", "Sec-WebSocket-Protocol: realtime\x0b"), id="control-in-protocol"
        ),
        pytest.param(
            upgrade(PATH, "Host: localhost", "Content-Length: 3", "Transfer-Encoding: chunked"), id="both-lengths"
        ),
        pytest.param(upgrade(PATH, "Host: localhost").replace(b"\r\n", b"\n"), id="bare-lf"),
        pytest.param(b"\x00" * 500, id="not-http"),
    ],
)
async def test_control_characters_are_not_sent_upstream(request_bytes: bytes) -> None:
    """Requests with control characters or ambiguous lengths are refused, or dialled without them."""
    async with (
        raw_http(open_session) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        answer = await raw_request(relay, request_bytes)

        assert answer.split()[1:2] in ([b"400"], [b"101"], [b"426"], [])
        assert not any(set("\x00\x01\x0b") & set(head) for head in upstream.heads)


HOSTILE = ["\x1b[31mred\x1b[0m", "a" * 10_000, "%s%n{0}{x}", "\u202eexe.txt", '{"event":"forged"}', "\ttab"]


@pytest.mark.parametrize("text", HOSTILE)
async def test_log_line_cannot_be_forged(text: str) -> None:
    """With any model, intent and User-Agent, a log line stays one line of JSON of bounded length."""
    async with simulated_relay() as relay:
        quoted = "".join(f"%{byte:02X}" for byte in text.encode())
        for path in (f"/v1/realtime?model={quoted}", f"/v1/realtime?model=gpt-realtime&intent={quoted}"):
            answer = await raw_request(relay, upgrade(path, "Host: localhost", f"User-Agent: {quoted}"))
            assert answer
    for event in relay.logs:
        line = json.dumps(event, default=str)
        assert "\n" not in line
        assert len(line) < 4000
        assert "\x1b" not in line
        assert "forged" not in event["event"]


async def series(relay: Relay) -> set[str]:
    """Return the names and labels of all series."""
    async with aiohttp.ClientSession() as session, session.get(f"{relay.internal_url}/metrics") as response:
        text = await response.text()
    assert len(text) < 200_000
    return {line.rsplit(" ", 1)[0] for line in text.splitlines() if not line.startswith("#")}


async def test_client_input_creates_no_series() -> None:
    """Neither models, paths, user agents, intents, tokens nor event types. A scrape stays below 200 kB."""
    async with simulated_relay() as relay:
        first = await open_raw(relay.app.public_port)
        await first.close()
        before = await series(relay)
        for number in range(60):
            path = ("/v1/realtime?model=m{0}", "/nowhere/{0}", "/v1/realtime?model=gpt-realtime&intent=i{0}")[
                number % 3
            ]
            await raw_request(
                relay, upgrade(path.format(number), "Host: localhost", f"User-Agent: u{number}", f"api-key: t{number}")
            )
        client = await open_raw(relay.app.public_port)
        for number in range(30):
            client.send_event(type=f"unknown.event.{number}")
        await client.next_event()
        await client.close()
        await eventually(lambda: len(relay.app.sessions) == 0)

        assert before == await series(relay)


@pytest.mark.parametrize("path", ["/metrics", "/version", "/", "/v1/models", "/healthz/../metrics", "/.env"])
async def test_internal_path_is_not_served_publicly(path: str) -> None:
    """404, without a hint of what answers."""
    async with simulated_relay(RELAY_CONSOLE="off") as relay:
        answer = await raw_request(
            relay, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )

        assert answer.split()[1] == b"404"
        assert b"realtime_relay" not in answer


async def test_public_healthz_ignores_verbose() -> None:
    """The body holds the status only, not its cause."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected") as relay:
        await relay.app.monitor.wait_for_first_refresh(30)
        answer = await raw_request(
            relay, b"GET /healthz?verbose HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )

        assert answer.endswith(b'{"status": "fail"}')
