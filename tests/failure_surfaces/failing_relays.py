"""Relays whose next connection fails: what `FAILURE_SETUPS` is made of."""

import asyncio
import json
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import patch

from service.access.clients import ClientDirectory, digest_of
from service.access.secrets import ClientSecrets, Grant
from service.realtime.secret_request import BoundSession
from service.store.interface import Amounts, Scope, Spending
from tests.support.doctor_chain import forward_to, tcp_server
from tests.support.harness import Relay, open_raw, running_relay, simulated_relay
from tests.support.jwt_issuer import issuer_table, running_issuer
from tools.ports import free_port

PATH: Final = "/v1/realtime?model=gpt-realtime"
TOKEN: Final = "CANARY1token-abcdefghijklmnop"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True)
class FailingRelay:
    """A relay whose next connection with this path and these headers fails."""

    relay: Relay
    path: str = PATH
    headers: Mapping[str, str] = field(default_factory=dict)
    earlier_failures: int = 0  # failed connections of the setup itself
    remedy: str | None = None  # where the evidence gives a better one than the catalogue's
    proxy_port: int | None = None  # where the client connects if it is not the relay's own port

    @property
    def port(self) -> int:
        """Where the client connects."""
        return self.proxy_port or self.relay.app.public_port


DIAL_SECONDS, SHORT_SECONDS = "8", "0.6"
"""How long a dial may take, and one that is to time out: on a busy machine others must not."""

FailureSetup = Callable[[], AbstractAsyncContextManager[FailingRelay]]


def refused_request(
    path: str = PATH, headers: Mapping[str, str] | None = None, remedy: str | None = None, **settings: Any
) -> FailureSetup:
    """The relay refuses the request by itself."""

    @asynccontextmanager
    async def set_up() -> AsyncIterator[FailingRelay]:
        async with simulated_relay(None, **settings) as relay:
            yield FailingRelay(relay, path, headers or {}, remedy=remedy)

    return set_up


def provider_scenario(scenario: str, path: str = PATH, **settings: Any) -> FailureSetup:
    """The provider fails by a scenario of the simulator, which the key selects."""

    @asynccontextmanager
    async def set_up() -> AsyncIterator[FailingRelay]:
        key, seconds = f"sk-sim-{scenario}-CANARY0key123456", SHORT_SECONDS if "hang" in scenario else DIAL_SECONDS
        async with simulated_relay(None, OPENAI_API_KEY=key, RELAY_DIAL_TIMEOUT_SECONDS=seconds, **settings) as relay:
            yield FailingRelay(relay, path)

    return set_up


def provider_at(base_url: str, dial_seconds: str = DIAL_SECONDS, **settings: Any) -> FailureSetup:
    """The provider's address cannot be reached."""

    @asynccontextmanager
    async def set_up() -> AsyncIterator[FailingRelay]:
        async with running_relay(
            OPENAI_BASE_URL=base_url, RELAY_DIAL_TIMEOUT_SECONDS=dial_seconds, **settings
        ) as relay:
            yield FailingRelay(relay)

    return set_up


@asynccontextmanager
async def _serving(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server on loopback; yields its port."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()


def other_server(
    answer: bytes | None, *, scheme: str = "http", tls: Callable[[], ssl.SSLContext] | None = None
) -> FailureSetup:
    """Another server answers at the provider's address; with `answer` None it accepts connections and sends nothing."""

    @asynccontextmanager
    async def set_up() -> AsyncIterator[FailingRelay]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            if answer is not None:
                writer.write(answer)
            await reader.read()
            writer.close()

        async with (
            _serving(serve, tls() if tls else None) as port,
            provider_at(f"{scheme}://127.0.0.1:{port}/v1", DIAL_SECONDS if answer else SHORT_SECONDS)() as failing,
        ):
            yield failing

    return set_up


@asynccontextmanager
async def relay_at_limit(**settings: Any) -> AsyncIterator[FailingRelay]:
    """A relay with one open session; the limit refuses a second one."""
    async with simulated_relay(None, **settings) as relay:
        session = await open_raw(relay.app.public_port)
        assert session.answer.status == 101
        yield FailingRelay(relay)
        await session.close()


@asynccontextmanager
async def client_in_reconnect_loop() -> AsyncIterator[FailingRelay]:
    """A client that has used its one short session of this minute."""
    async with simulated_relay(RELAY_MAX_RECONNECTS_PER_MINUTE="1") as relay:
        client = await open_raw(relay.app.public_port, "/v1/realtime?model=gpt-realtime&model=twice")
        await client.close()
        yield FailingRelay(relay, earlier_failures=1)


@asynccontextmanager
async def draining_relay() -> AsyncIterator[FailingRelay]:
    """A draining relay."""
    async with simulated_relay() as relay:
        relay.app.drainer.is_draining = True
        yield FailingRelay(relay)


@asynccontextmanager
async def closed_port() -> AsyncIterator[FailingRelay]:
    """No process listens at the provider's address."""
    async with provider_at(f"http://127.0.0.1:{free_port()}/v1")() as failing:
        yield failing


def refusing_proxy(status: bytes, headers: bytes = b"") -> FailureSetup:
    """A proxy that refuses CONNECT with this status."""
    head = b"HTTP/1.1 " + status + b"\r\n" + headers + b"Content-Length: 0\r\nConnection: close\r\n\r\n"

    @asynccontextmanager
    async def set_up() -> AsyncIterator[FailingRelay]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            await writer.drain()
            writer.close()

        async with _serving(serve) as port:
            proxy = f"http://user:CANARY6password@127.0.0.1:{port}"
            async with provider_at("https://relay-test.invalid/v1", RELAY_UPSTREAM_PROXY=proxy)() as failing:
                yield failing

    return set_up


def refusal(status: str, body: bytes = b"", **headers: str) -> FailureSetup:
    """The server at the provider's address refuses every request with this response."""
    fields = {"Content-Length": str(len(body)), "Connection": "close"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "\r\n".join([f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items()), "", ""])

    @asynccontextmanager
    async def set_up() -> AsyncIterator[FailingRelay]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(head.encode() + body)
                await writer.drain()
            writer.close()

        async with _serving(serve) as port, provider_at(f"http://127.0.0.1:{port}/v1")() as failing:
            yield failing

    return set_up


def error_body(
    code: str, message: str = "CANARY7 text of the provider", error_type: str = "invalid_request_error"
) -> bytes:
    """An error object of the provider."""
    return json.dumps({"error": {"message": message, "type": error_type, "code": code, "param": None}}).encode()


@asynccontextmanager
async def filtered_name() -> AsyncIterator[FailingRelay]:
    """The resolver answers 0.0.0.0 for the provider's name."""
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("0.0.0.0", 443))]
    with patch.object(socket, "getaddrinfo", lambda *_args, **_options: answer):
        async with provider_at("https://relay-test.invalid/v1")() as failing:
            yield failing


def changed_on_route(change: Callable[[bytes], bytes]) -> FailureSetup:
    """A proxy between client and relay changes the first bytes of each connection."""

    @asynccontextmanager
    async def set_up() -> AsyncIterator[FailingRelay]:
        async with simulated_relay() as relay, tcp_server(forward_to(relay.app.public_port, change)) as port:
            yield FailingRelay(relay, proxy_port=port)

    return set_up


def client_of_file(lines: str, remedy: str | None = None, path: str = PATH) -> FailureSetup:
    """A client with these lines in its table of the clients file."""

    @asynccontextmanager
    async def set_up() -> AsyncIterator[FailingRelay]:
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(f'[clients.kiosk]\ntoken_sha256 = ["{digest_of(TOKEN)}"]\n{lines}\n')
            file.flush()
            async with simulated_relay(None, RELAY_CLIENTS_FILE=file.name) as relay:
                yield FailingRelay(relay, path, BEARER, remedy=remedy)

    return set_up


@asynccontextmanager
async def client_at_budget() -> AsyncIterator[FailingRelay]:
    """A client of the clients file has used what it may use in a month."""
    spent = Spending("CANARY8record", (Scope("kiosk"),), Amounts(tokens=1_000))
    remedy = (
        "Connect again after the end of the month (UTC). Operator: the limit is tokens_per_month of [clients.kiosk] in "
        "RELAY_CLIENTS_FILE."
    )
    async with client_of_file("tokens_per_month = 1000", remedy)() as failing:
        await failing.relay.app.store.spend_and_read(spent)
        yield failing


def user_of_provider(token: Callable[[], str], *, is_down: bool = False) -> FailureSetup:
    """A user with a token of an identity provider, whose key set can be fetched unless it `is_down`."""

    @asynccontextmanager
    async def set_up() -> AsyncIterator[FailingRelay]:
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            async with running_issuer() as issuer:
                url = f"http://127.0.0.1:{free_port()}/" if is_down else issuer.url
                file.write(f"[clients.kiosk]\n{issuer_table(url)}")
                file.flush()
                async with simulated_relay(None, RELAY_CLIENTS_FILE=file.name) as relay:
                    yield FailingRelay(relay, headers={"Authorization": f"Bearer {token()}"})

    return set_up


def client_secret(
    session: Mapping[str, object] | None = None, *, seconds_later: int = 0, is_used: bool = False
) -> FailureSetup:
    """A client with a client secret of this relay, some time after it was created."""

    @asynccontextmanager
    async def set_up() -> AsyncIterator[FailingRelay]:
        async with simulated_relay(RELAY_ACCESS="tokens", RELAY_CLIENT_TOKENS=f"kiosk:{TOKEN}") as relay:
            store = relay.app.store
            bound = BoundSession({"type": "realtime", **(session or {})})
            grant = Grant("kiosk", digest_of(TOKEN), None, None, None, bound)
            secret, _ = await ClientSecrets(store, ClientDirectory()).create(grant, 60)
            if is_used:
                await store.take_secret(secret)
            now = time.time() + seconds_later
            with (
                patch.object(store._backend._state, "_clock", lambda: round(now * 1000)),  # type: ignore[attr-defined]
                patch.object(ClientSecrets, "redeem"),  # both connections present it
            ):
                yield FailingRelay(relay, headers={"Authorization": f"Bearer {secret.reveal()}"})

    return set_up
