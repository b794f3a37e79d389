"""RELAY_UPSTREAM_PROXY with a real CONNECT proxy, Debian's tinyproxy, and with proxies that refuse or do not answer."""

import asyncio
import dataclasses
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.realtime.keys import Secret
from service.settings import Settings, load_settings
from service.upstream.proxy import HttpProxy, InvalidProxy, choose_proxy, parse_proxy
from tests.support import tcp_server
from tests.support.certificates import Authority
from tests.support.harness import Relay, eventually, open_raw, payload_of, running_relay, taking_less_than
from tests.support.raw_http_relay import connect_once
from tests.support.raw_http_server import PATH, Exchange, RawHttp, raw_http
from tests.support.raw_websocket_server import CREATED
from tools.debian import PackageUnavailable, unpack

PASSWORD = "CANARY6password"


@pytest.fixture(scope="session")
def tinyproxy() -> Path:
    """The path of the program. If it cannot be installed the test is skipped, or fails if TEST_REQUIRE_VOICE is set."""
    try:
        return unpack("tinyproxy-bin", "usr/bin/tinyproxy")
    except PackageUnavailable as exc:
        if os.environ.get("TEST_REQUIRE_VOICE"):
            raise
        pytest.skip(str(exc))


@asynccontextmanager
async def proxy(program: Path, folder: Path, *rules: str) -> AsyncIterator[int]:
    """Run tinyproxy on loopback; yields its port."""
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
        async with taking_less_than(5):
            await wait_until(lambda: accepts(port))
        yield port
    finally:
        process.kill()
        await process.wait()


async def wait_until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll an asynchronous condition; the caller limits the time."""
    while not await condition():  # noqa: ASYNC110 - another process cannot set an event
        await asyncio.sleep(0.02)


async def accepts(port: int) -> bool:
    """Whether the port accepts connections."""
    with suppress(ConnectionRefusedError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()
        return True
    return False


def through(port: int, user: str | None = None, password: str = PASSWORD) -> Callable[[Settings], Settings]:
    """Use this proxy although the upstream is on loopback, for which no setting would use one."""
    proxy = HttpProxy(f"http://127.0.0.1:{port}", "RELAY_UPSTREAM_PROXY", user, Secret(password) if user else None)
    return lambda settings: dataclasses.replace(settings, proxy=proxy)


async def echo(exchange: Exchange) -> None:
    """Open a session, read one message, and send one."""
    exchange.upgrade(CREATED)
    head = await exchange.reader.readexactly(2)
    await exchange.reader.readexactly((head[1] & 0x7F) + 4)
    exchange.writer.write(b"\x81\x0f" + b'{"type":"echo"}')
    await exchange.wait_closed()


@asynccontextmanager
async def relay_through(
    adjust: Callable[[Settings], Settings], authority: Authority
) -> AsyncIterator[tuple[Relay, RawHttp]]:
    """Run a relay that connects to a TLS upstream through a proxy. At the end no secret has been logged."""
    async with (
        raw_http(echo, tls=authority.server_context()) as upstream,
        running_relay(
            OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe", RELAY_DIAL_TIMEOUT_SECONDS="1.5", adjust=adjust
        ) as relay,
    ):
        await relay.app.monitor.wait_for_first_refresh(30)
        yield relay, upstream
        assert "CANARY" not in str(relay.logs) + relay.used_series()


def proxy_failure_detail(relay: Relay, status: str) -> str:
    """The detail of the one failure in the log, which is counted with this status."""
    (line,) = relay.events("upstream.connect_failed")
    assert "proxy_failed" == line["reason"]
    name = "realtime_relay_connection_failures_total"
    labels = {"upstream": "compatible", "phase": "connect", "status": status, "reason": "proxy_failed"}
    assert 1 == relay.metric(name, **labels)
    return str(line["detail"])


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("user", [None, "web"])
async def test_session_through_a_proxy(user: str | None, tinyproxy: Path, tmp_path: Path, authority: Authority) -> None:
    """TLS ends at the provider; the checks pass, frames pass in both directions, and the end closes the tunnel."""
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
        assert "proxy-authorization" not in upstream.heads[0].lower()  # it is sent to the proxy only
        await client.close()
        await eventually(lambda: upstream.open == 0)


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize(
    ("rule", "user", "expected", "detail"),
    [
        (f"BasicAuth web {PASSWORD}x", None, (424, "proxy_auth_failed"), "requires valid credentials (407)"),
        (f"BasicAuth web {PASSWORD}x", "web", (424, "proxy_auth_failed"), "requires valid credentials (401)"),
        ("ConnectPort 1", None, (502, "proxy_failed"), "does not allow"),
    ],
)
async def test_refusal_of_the_proxy_distinguishes_credentials(  # noqa: PLR0917 - a table and its fixtures
    rule: str,
    user: str | None,
    expected: tuple[int, str],
    detail: str,
    tinyproxy: Path,
    tmp_path: Path,
    authority: Authority,
) -> None:
    """Wrong credentials and a forbidden port; the provider gets no connection."""
    async with (
        proxy(tinyproxy, tmp_path, rule) as port,
        relay_through(through(port, user), authority) as (relay, upstream),
    ):
        answer = await connect_once(relay)

        assert expected == (answer.status, answer.error["code"])
        assert 0 == upstream.connections
        assert detail in relay.events("upstream.connect_failed")[0]["detail"]


async def test_proxy_that_cannot_reach_the_provider_is_proxy_failed(tinyproxy: Path, tmp_path: Path) -> None:
    """The detail has the status of the proxy's answer to CONNECT."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"https://127.0.0.1:{taken.getsockname()[1]}/v1"
        async with (
            proxy(tinyproxy, tmp_path) as port,
            running_relay(OPENAI_BASE_URL=url, adjust=through(port)) as relay,
        ):
            answer = await connect_once(relay)

            assert (502, "proxy_failed") == (answer.status, answer.error["code"])
            assert "cannot reach the provider (500)" in relay.events("upstream.connect_failed")[0]["detail"]


async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept the connection and send nothing."""
    await reader.read()
    writer.close()


async def test_silent_proxy_times_out_and_missing_proxy_is_proxy_failed(authority: Authority) -> None:
    """Silence is connect_timeout within the timeout of the dial."""
    server = await asyncio.start_server(stay_silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with relay_through(through(port, "web"), authority) as (relay, _):
        answer = await connect_once(relay)
        assert (504, "connect_timeout") == (answer.status, answer.error["code"])
    server.close()
    await server.wait_closed()
    async with relay_through(through(port, "web"), authority) as (relay, _):
        answer = await connect_once(relay)
        assert (502, "proxy_failed") == (answer.status, answer.error["code"])
        assert "cannot be reached" in proxy_failure_detail(relay, "none")


@pytest.mark.parametrize(
    ("data", "is_reset", "detail"),
    [
        (b"", False, "closed the connection without an answer"),
        (b"", True, "closed the connection without an answer"),
        (b"HTTP/1.1 2", False, "closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", False, "is not an HTTP proxy"),
    ],
    ids=["fin", "rst", "half", "ssh"],
)
async def test_proxy_that_does_not_answer_connect_is_proxy_failed(
    data: bytes, is_reset: bool, detail: str, authority: Authority
) -> None:
    """It disconnects, or does not speak HTTP; the provider is not reached."""

    async def misbehave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # a connection without a request
            await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        if is_reset:
            tcp_server.reset(writer)
        writer.close()

    server = await asyncio.start_server(misbehave, "127.0.0.1", 0)
    async with server, relay_through(through(server.sockets[0].getsockname()[1]), authority) as (relay, upstream):
        answer = await connect_once(relay)

        assert (502, "proxy_failed") == (answer.status, answer.error["code"])
        assert detail in proxy_failure_detail(relay, "none")
        assert 0 == upstream.connections


@pytest.mark.parametrize("variable", ["RELAY_UPSTREAM_PROXY", "HTTPS_PROXY"])
async def test_unknown_proxy_host_is_proxy_failed(variable: str) -> None:
    """The relay resolves the name of the proxy only; the proxy resolves the provider's. The remedy names the variable."""
    unknown = {"RELAY_UPSTREAM_PROXY": "auto", "OPENAI_BASE_URL": "https://provider.invalid/v1"}
    unknown[variable] = "http://proxy.invalid:3128"
    async with running_relay(simulator=None, intervals=None, adjust=None, **unknown) as relay:
        answer = await connect_once(relay)

        assert (502, "proxy_failed") == (answer.status, answer.error["code"])
        line = relay.events("upstream.connect_failed")[0]
        assert "name of the proxy" in line["detail"]
        assert f"host, port and credentials of {variable}," in line["remedy"]
        assert line["remedy"] == answer.error["remedy"]


# -- choice of the proxy ---------------------------------------------------------------------------------------------------


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
def test_choice_of_the_proxy(setting: str | None, environ: dict[str, str], expected: tuple[str, str] | None) -> None:
    """Off by default; `auto` chooses as curl does, NO_PROXY included."""
    chosen = choose_proxy(setting, "api.openai.com", environ)

    assert expected == (None if chosen is None else (chosen.url, chosen.origin))


def test_loopback_upstream_uses_no_proxy() -> None:
    """For other hosts, credentials are split from the URL and hidden."""
    loopback = load_settings({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "RELAY_UPSTREAM_PROXY": "http://p:1"})
    remote = load_settings({"RELAY_UPSTREAM_PROXY": f"http://web:{PASSWORD}%40@p:1"})

    assert loopback.proxy is None
    assert remote.proxy is not None
    assert ("http://p:1", "web") == (remote.proxy.url, remote.proxy.user)
    assert Secret(f"{PASSWORD}@") == remote.proxy.password
    assert "CANARY" not in repr(remote)


@given(st.text(max_size=40) | st.from_regex(r"https?://[^\s/]{1,30}", fullmatch=True))
def test_parse_proxy_returns_a_url_without_credentials_or_raises_invalid_proxy(text: str) -> None:
    """For any text."""
    try:
        parsed = parse_proxy(text, "x")
    except InvalidProxy:
        return
    assert parsed.url.startswith(("http://", "https://"))
    assert "@" not in parsed.url
