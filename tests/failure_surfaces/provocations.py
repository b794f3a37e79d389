"""How each failure of the catalogue is provoked over real sockets: one entry a reason, and none without."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from tests.support.certificates import untrusted_server_context
from tests.support.harness import Relay, open_raw, running_relay, simulated_relay

PATH: Final = "/v1/realtime?model=gpt-realtime"
TOKEN: Final = "CANARY1token-abcdefghijklmnop"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True)
class Scene:
    """A relay in which the next attempt with this path and these headers fails."""

    relay: Relay
    path: str = PATH
    headers: Mapping[str, str] = field(default_factory=dict)
    before: int = 0  # attempts that the provocation itself made


Provocation = Callable[[], AbstractAsyncContextManager[Scene]]


def by_request(path: str = PATH, headers: Mapping[str, str] | None = None, **settings: Any) -> Provocation:
    """A request that the relay refuses by itself."""

    @asynccontextmanager
    async def provoke() -> AsyncIterator[Scene]:
        async with simulated_relay(None, **settings) as relay:
            yield Scene(relay, path, headers or {})

    return provoke


def by_key(scenario: str, path: str = PATH, **settings: Any) -> Provocation:
    """A provider that refuses in this way; the key says which."""

    @asynccontextmanager
    async def provoke() -> AsyncIterator[Scene]:
        key = f"sk-sim-{scenario}-CANARY0key123456"
        async with simulated_relay(None, OPENAI_API_KEY=key, RELAY_DIAL_TIMEOUT_SECONDS="0.6", **settings) as relay:
            yield Scene(relay, path)

    return provoke


def by_address(base_url: str, **settings: Any) -> Provocation:
    """A provider's address that leads nowhere."""

    @asynccontextmanager
    async def provoke() -> AsyncIterator[Scene]:
        async with running_relay(OPENAI_BASE_URL=base_url, RELAY_DIAL_TIMEOUT_SECONDS="0.6", **settings) as relay:
            yield Scene(relay)

    return provoke


def by_server(
    answer: bytes | None, *, scheme: str = "http", tls: Callable[[], ssl.SSLContext] | None = None
) -> Provocation:
    """A provider's address at which something else answers, or takes the connection and says nothing (None)."""

    @asynccontextmanager
    async def provoke() -> AsyncIterator[Scene]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            if answer is not None:
                writer.write(answer)
            await reader.read()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls() if tls else None)
        port = server.sockets[0].getsockname()[1]
        try:
            async with by_address(f"{scheme}://127.0.0.1:{port}/v1")() as scene:
                yield scene
        finally:
            server.close()

    return provoke


@asynccontextmanager
async def a_held_session(**settings: Any) -> AsyncIterator[Scene]:
    """A relay with a session open, so that one more is one too many."""
    async with simulated_relay(None, **settings) as relay:
        held = await open_raw(relay.app.public_port)
        assert held.answer.status == 101
        yield Scene(relay)
        await held.close()


@asynccontextmanager
async def a_client_in_a_loop() -> AsyncIterator[Scene]:
    """A client that has had its one short session of this minute."""
    async with simulated_relay(RELAY_MAX_RECONNECTS_PER_MINUTE="1") as relay:
        client = await open_raw(relay.app.public_port, "/v1/realtime?model=gpt-realtime&model=twice")
        await client.close()
        yield Scene(relay, before=1)


@asynccontextmanager
async def a_draining_relay() -> AsyncIterator[Scene]:
    """A relay that takes nobody new."""
    async with simulated_relay() as relay:
        relay.app.drainer.is_draining = True
        yield Scene(relay)


@asynccontextmanager
async def a_port_without_a_listener() -> AsyncIterator[Scene]:
    """Nobody listens at the provider's address."""
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with by_address(f"http://127.0.0.1:{port}/v1")() as scene:
        yield scene


@asynccontextmanager
async def a_proxy_that_refuses() -> AsyncIterator[Scene]:
    """A proxy that wants other credentials."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy = f"http://user:CANARY6password@127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        async with by_address("https://relay-test.invalid/v1", RELAY_UPSTREAM_PROXY=proxy)() as scene:
            yield scene
    finally:
        server.close()


SSH: Final = b"SSH-2.0-OpenSSH_9.2\r\n"
PROVOCATIONS: Final[Mapping[str, Provocation]] = {
    "token_missing": by_request(RELAY_ACCESS="tokens", RELAY_CLIENT_TOKENS=TOKEN),
    "token_invalid": by_request(PATH, {"api-key": "wrong"}, RELAY_ACCESS="tokens", RELAY_CLIENT_TOKENS=TOKEN),
    "origin_refused": by_request(PATH, {"Origin": "https://evil.example"}),
    "bad_request": by_request(PATH + "&model=twice"),
    "model_refused": by_request(RELAY_ALLOWED_MODELS="another"),
    "model_missing": by_request("/v1/realtime"),
    "not_a_websocket": by_request(PATH, {"Upgrade": ""}),
    "too_many_sessions": lambda: a_held_session(RELAY_MAX_SESSIONS_PER_CLIENT="1"),
    "too_many_connects": a_client_in_a_loop,
    "relay_full": lambda: a_held_session(RELAY_MAX_SESSIONS="1"),
    "relay_draining": a_draining_relay,
    "key_missing": by_request(OPENAI_API_KEY=""),
    "key_malformed": by_request(OPENAI_API_KEY='"sk-sim-good-CANARY0key123456"'),
    "key_rejected": by_key("key-rejected"),
    "key_forbidden": by_key("key-forbidden"),
    "region_blocked": by_key("http-403-geo"),
    "quota_exhausted": by_key("quota-exhausted"),
    "beta_shape": by_key("beta-shape"),
    "model_not_found": by_key("model-not-found"),
    "call_not_found": by_key("http-404", "/v1/realtime?call_id=rtc_1"),
    "rate_limited": by_key("http-429"),
    "upstream_overloaded": by_key("http-503"),
    "upstream_error": by_key("http-500"),
    "dns_failed": by_address("https://relay-test.invalid/v1"),
    "connect_refused": a_port_without_a_listener,
    # The broadcast address is none that TCP can be spoken to: the kernel says at once that there is no route.
    "network_unreachable": by_address("https://255.255.255.255/v1"),
    "proxy_failed": a_proxy_that_refuses,
    "bad_reply": by_server(SSH),
    "redirect_refused": by_key("redirect"),
    "dropped_early": by_key("drop"),
    "tls_failed": by_server(SSH, scheme="https"),
    "tls_untrusted": by_server(SSH, scheme="https", tls=untrusted_server_context),
    "connect_timeout": by_server(None, scheme="https"),
    "reply_timeout": by_key("hang-before-101"),
    "first_event_timeout": by_key("hang"),
}
"""`client_left` and the endings are provoked by what a client does: see `test_walk.py`."""
