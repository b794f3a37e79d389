"""RELAY_UPSTREAM_PROXY through a real CONNECT proxy: Debian's tinyproxy. And what proxies do that refuse or hang."""

import asyncio
import dataclasses
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.keys import Secret
from service.settings import Settings
from service.upstream.proxy import InvalidProxy, Proxy, choose_proxy, parse_proxy
from tests.support.certificates import Authority
from tests.support.harness import Answer, Relay, eventually, open_raw, payload_of, running_relay
from tests.support.raw_http_server import PATH, Exchange, RawHttp, raw_http
from tests.support.raw_websocket_server import CREATED
from tools.debian import NotToBeHad, unpacked

PASSWORD = "CANARY6password"


@pytest.fixture(scope="session")
def tinyproxy() -> Path:
    """The program; where it cannot be had the tests skip loudly, but not where the recorded voice has to be there, too."""
    try:
        return unpacked("tinyproxy-bin", "usr/bin/tinyproxy")
    except NotToBeHad as exc:
        if os.environ.get("TEST_REQUIRE_VOICE"):
            raise
        pytest.skip(str(exc))


@asynccontextmanager
async def proxy(program: Path, folder: Path, *rules: str) -> AsyncIterator[int]:
    """A running tinyproxy on loopback; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    lines = [f"Port {port}", "Listen 127.0.0.1", "Timeout 30", "Allow 127.0.0.1", "LogLevel Critical", *rules]
    config = folder / "tinyproxy.conf"
    await asyncio.to_thread(config.write_text, "\n".join(lines) + "\n")
    process = await asyncio.create_subprocess_exec(
        str(program), "-d", "-c", str(config), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(5):
            await eventually_async(lambda: answers(port))
        yield port
    finally:
        process.kill()
        await process.wait()


async def eventually_async(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a program that does not say when it listens."""
    while not await condition():  # noqa: ASYNC110 - another process has no event of ours
        await asyncio.sleep(0.02)


async def answers(port: int) -> bool:
    """Whether somebody listens."""
    with suppress(ConnectionRefusedError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()
        return True
    return False


def through(port: int, user: str | None = None, password: str = PASSWORD) -> Callable[[Settings], Settings]:
    """Use this proxy although the upstream is on this machine, which no setting would do."""
    chosen = Proxy(f"http://127.0.0.1:{port}", "RELAY_UPSTREAM_PROXY", user, Secret(password) if user else None)
    return lambda settings: dataclasses.replace(settings, proxy=chosen)


async def echo(exchange: Exchange) -> None:
    """An upstream that opens a session and says one message back."""
    exchange.upgrade(CREATED)
    head = await exchange.reader.readexactly(2)
    await exchange.reader.readexactly((head[1] & 0x7F) + 4)
    exchange.writer.write(b"\x81\x0f" + b'{"type":"echo"}')
    await exchange.gone()


@asynccontextmanager
async def relay_through(
    adjust: Callable[[Settings], Settings], authority: Authority
) -> AsyncIterator[tuple[Relay, RawHttp]]:
    """A relay that reaches a TLS upstream by a proxy; afterwards no secret has been seen."""
    async with (
        raw_http(echo, tls=authority.server_context()) as upstream,
        running_relay(
            OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe", RELAY_DIAL_TIMEOUT_SECONDS="1.5", adjust=adjust
        ) as relay,
    ):
        await relay.app.monitor.wait_for_first_refresh(5)
        yield relay, upstream
        assert "CANARY" not in str(relay.logs) + relay.metrics_text()


async def attempt(relay: Relay) -> Answer:
    """One client that is refused."""
    client = await open_raw(relay.app.public_port, PATH)
    await client.close()
    return client.answer


def told(relay: Relay, status: str) -> str:
    """What the log says of the proxy; it is counted under this status."""
    (line,) = relay.events("upstream.connect_failed")
    assert "proxy_failed" == line["reason"]
    name = "realtime_relay_connection_failures_total"
    labels = {"upstream": "compatible", "phase": "connect", "status": status, "reason": "proxy_failed"}
    assert 1 == relay.metric(name, **labels)
    return str(line["detail"])


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("user", [None, "web"])
async def test_a_session_through_a_proxy(
    user: str | None, tinyproxy: Path, tmp_path: Path, authority: Authority
) -> None:
    """TLS goes through the tunnel to the provider itself; frames pass both ways; health passes; the end closes both."""
    rules = [f"BasicAuth {user} {PASSWORD}"] if user else []
    async with (
        proxy(tinyproxy, tmp_path, *rules) as port,
        relay_through(through(port, user), authority) as (relay, upstream),
    ):
        assert relay.app.monitor.ready
        client = await open_raw(relay.app.public_port, PATH)
        assert (await client.next_event())["type"] == "session.created"
        client.send_event(type="x")
        assert b'{"type":"echo"}' == payload_of(await client.next_item())
        assert "proxy-authorization" not in upstream.heads[0].lower()  # it is for the proxy alone
        await client.close()
        await eventually(lambda: upstream.open == 0)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize(
    ("rule", "user", "words"),
    [
        (f"BasicAuth web {PASSWORD}x", None, "requires valid credentials (407)"),
        (f"BasicAuth web {PASSWORD}x", "web", "requires valid credentials (401)"),
        ("ConnectPort 1", None, "does not allow"),
    ],
)
async def test_a_proxy_that_refuses(  # noqa: PLR0917 - a table and its fixtures
    rule: str, user: str | None, words: str, tinyproxy: Path, tmp_path: Path, authority: Authority
) -> None:
    """Wrong credentials and forbidden ports are the proxy's doing, and told so; the provider is not asked."""
    async with (
        proxy(tinyproxy, tmp_path, rule) as port,
        relay_through(through(port, user), authority) as (relay, upstream),
    ):
        answer = await attempt(relay)

        assert (502, "proxy_failed") == (answer.status, answer.error["code"])
        assert 0 == upstream.connections
        assert words in relay.events("upstream.connect_failed")[0]["detail"]


async def test_a_proxy_that_cannot_reach_the_provider(tinyproxy: Path, tmp_path: Path) -> None:
    """The tunnel does not come about: told as the proxy's, with its answer."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{taken.getsockname()[1]}/v1"
        async with (
            proxy(tinyproxy, tmp_path) as port,
            running_relay(OPENAI_BASE_URL=url, adjust=through(port)) as relay,
        ):
            answer = await attempt(relay)

            assert (502, "proxy_failed") == (answer.status, answer.error["code"])
            assert "cannot reach the provider (500)" in relay.events("upstream.connect_failed")[0]["detail"]


async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A proxy that takes the connection and says nothing."""
    await reader.read()
    writer.close()


async def test_a_proxy_that_hangs_and_one_that_is_not_there(authority: Authority) -> None:
    """Silence is a connect timeout within the budget; nobody at the proxy's address is proxy_failed at once."""
    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with relay_through(through(port, "web"), authority) as (relay, _):
        answer = await attempt(relay)
        assert (504, "connect_timeout") == (answer.status, answer.error["code"])
    server.close()
    await server.wait_closed()
    async with relay_through(through(port, "web"), authority) as (relay, _):
        answer = await attempt(relay)
        assert (502, "proxy_failed") == (answer.status, answer.error["code"])
        assert "cannot be reached" in told(relay, "none")


@pytest.mark.parametrize(
    ("data", "is_reset", "words"),
    [
        (b"", False, "closed the connection without an answer"),
        (b"", True, "closed the connection without an answer"),
        (b"HTTP/1.1 2", False, "closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False, "is not an HTTP proxy"),
    ],
    ids=["fin", "rst", "half", "ssh"],
)
async def test_a_proxy_that_does_not_answer_connect(
    data: bytes, is_reset: bool, words: str, authority: Authority
) -> None:
    """It hung up on CONNECT, or speaks no HTTP: the proxy failed. The provider was not reached, so it is not to blame."""

    async def opening(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # whoever only looks whether somebody listens
            await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        if is_reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()

    server = await asyncio.start_server(opening, "127.0.0.1", 0)
    async with server, relay_through(through(server.sockets[0].getsockname()[1]), authority) as (relay, upstream):
        answer = await attempt(relay)

        assert (502, "proxy_failed") == (answer.status, answer.error["code"])
        assert words in told(relay, "none")
        assert 0 == upstream.connections


async def test_a_proxy_without_an_address() -> None:
    """A name that does not exist is the proxy's own; the provider's name is for the proxy to look up."""
    unknown = {"RELAY_UPSTREAM_PROXY": "http://proxy.invalid:3128", "OPENAI_BASE_URL": "https://provider.invalid/v1"}
    async with running_relay(simulator=None, intervals=None, adjust=None, **unknown) as relay:
        answer = await attempt(relay)

        assert (502, "proxy_failed") == (answer.status, answer.error["code"])
        assert "name of the proxy" in relay.events("upstream.connect_failed")[0]["detail"]


# -- which proxy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "environ", "expected"),
    [
        (None, {"HTTPS_PROXY": "http://p:1"}, None),
        ("http://p:1", {"HTTPS_PROXY": "http://q:2"}, ("http://p:1", "RELAY_UPSTREAM_PROXY")),
        ("auto", {}, None),
        ("auto", {"HTTPS_PROXY": "http://p:1"}, ("http://p:1", "HTTPS_PROXY")),
        ("auto", {"https_proxy": "p:1", "HTTPS_PROXY": "http://q:2"}, ("http://p:1", "https_proxy")),
        ("auto", {"ALL_PROXY": "https://p"}, ("https://p", "ALL_PROXY")),
        ("auto", {"HTTP_PROXY": "http://p:1"}, None),
        ("auto", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "openai.com"}, None),
        ("auto", {"HTTPS_PROXY": "http://p:1", "no_proxy": "*"}, None),
        ("auto", {"HTTPS_PROXY": "http://p:1", "NO_PROXY": "example.com, .local"}, ("http://p:1", "HTTPS_PROXY")),
    ],
)
def test_which_proxy(setting: str | None, environ: dict[str, str], expected: tuple[str, str] | None) -> None:
    """Off unless set; `auto` takes what curl would, and heeds NO_PROXY."""
    found = choose_proxy(setting, "api.openai.com", environ)

    assert expected == (None if found is None else (found.url, found.origin))


def test_an_upstream_here_needs_no_proxy() -> None:
    """Loopback is reached directly, whatever is set; credentials are taken apart and hidden."""
    here = Settings.load({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "RELAY_UPSTREAM_PROXY": "http://p:1"})
    there = Settings.load({"RELAY_UPSTREAM_PROXY": f"http://web:{PASSWORD}%40@p:1"})

    assert here.proxy is None
    assert there.proxy is not None
    assert ("http://p:1", "web") == (there.proxy.url, there.proxy.user)
    assert Secret(f"{PASSWORD}@") == there.proxy.password
    assert "CANARY" not in repr(there)


@given(st.text(max_size=40) | st.from_regex(r"https?://[^\s/]{1,30}", fullmatch=True))
def test_any_text_is_a_proxy_or_is_not(text: str) -> None:
    """Whatever is set, a proxy comes out whose URL has no credentials, or NotAProxy."""
    try:
        found = parse_proxy(text, "x")
    except InvalidProxy:
        return
    assert found.url.startswith(("http://", "https://"))
    assert "@" not in found.url
