"""FAILURE_SETUPS: for each reason of the catalogue, a relay whose next connection fails with it, over real sockets."""

import asyncio
import json
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final
from unittest.mock import patch

from service.access.clients import ClientDirectory, digest_of
from service.access.secrets import ClientSecrets, Grant
from service.realtime.secret_request import BoundSession
from service.store.interface import Amounts, Scope, Spending
from tests.support.certificates import untrusted_server_context
from tests.support.doctor_chain import forward_to, tcp_server
from tests.support.harness import Relay, open_raw, running_relay, simulated_relay
from tests.support.jwt_issuer import claims, issuer_table, running_issuer, sign
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
        key = f"sk-sim-{scenario}-CANARY0key123456"
        async with simulated_relay(None, OPENAI_API_KEY=key, RELAY_DIAL_TIMEOUT_SECONDS="0.6", **settings) as relay:
            yield FailingRelay(relay, path)

    return set_up


def provider_at(base_url: str, **settings: Any) -> FailureSetup:
    """The provider's address cannot be reached."""

    @asynccontextmanager
    async def set_up() -> AsyncIterator[FailingRelay]:
        async with running_relay(OPENAI_BASE_URL=base_url, RELAY_DIAL_TIMEOUT_SECONDS="0.6", **settings) as relay:
            yield FailingRelay(relay)

    return set_up


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

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls() if tls else None)
        port = server.sockets[0].getsockname()[1]
        try:
            async with provider_at(f"{scheme}://127.0.0.1:{port}/v1")() as failing:
                yield failing
        finally:
            server.close()

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

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        proxy = f"http://user:CANARY6password@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            async with provider_at("https://relay-test.invalid/v1", RELAY_UPSTREAM_PROXY=proxy)() as failing:
                yield failing
        finally:
            server.close()

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

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            async with provider_at(f"http://127.0.0.1:{port}/v1")() as failing:
                yield failing
        finally:
            server.close()

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


SSH: Final = b"SSH-2.0-OpenSSH_9.2\r\n"
FAILURE_SETUPS: Final[Mapping[str, FailureSetup]] = {
    "token_missing": refused_request(RELAY_ACCESS="tokens", RELAY_CLIENT_TOKENS=TOKEN),
    "token_invalid": refused_request(PATH, {"api-key": "wrong"}, RELAY_ACCESS="tokens", RELAY_CLIENT_TOKENS=TOKEN),
    "token_expired": user_of_provider(lambda: sign(claims(exp=1))),
    "token_not_yet_valid": user_of_provider(lambda: sign(claims(nbf=time.time() + 3600))),
    "secret_used": client_secret(is_used=True),
    "secret_expired": client_secret(seconds_later=60),
    "session_rejected": client_secret({"audio": {"output": {"speed": 9}}}),
    "jwks_unavailable": user_of_provider(sign, is_down=True),
    "client_disabled": client_of_file("enabled = false"),
    "api_refused": client_of_file(
        'apis = ["live"]',
        "Use an API that the operator allows for this client: live. Operator: to allow this one, add realtime to apis of "
        "[clients.kiosk] in RELAY_CLIENTS_FILE.",
    ),
    "policy_unsupported": client_of_file(
        'policy = "p"\n[policies.p]',
        "Connect to /v1/realtime with ?model=<name>. A client with a policy has no transcription session, no translation, no "
        "sideband of a call, and no GPT-Live. Operator: the policy is policy of [clients.kiosk] in RELAY_CLIENTS_FILE.",
        "/v1/realtime?intent=transcription",
    ),
    "policy_rejected": client_of_file(
        'policy = "p"\n[policies.p]\nturn_detection = { type = "server_vad", threshold = 7 }'
    ),
    "origin_refused": refused_request(
        PATH,
        {"Origin": "https://evil.example"},
        "Add https://evil.example to RELAY_ALLOWED_ORIGINS and restart the relay. The list replaces the default, which "
        "allows pages served from loopback. An app that is not a web page can send its client token in the header "
        "'Authorization' or 'api-key': with RELAY_ACCESS=tokens the relay then does not check the origin.",
    ),
    "host_refused": refused_request(PATH, {"Host": "rebinding.example"}),
    "bad_request": refused_request(
        PATH + "&model=twice", None, "Send each of model, intent, call_id and deployment at most once."
    ),
    "model_refused": refused_request(RELAY_ALLOWED_MODELS="another"),
    "model_missing": refused_request("/v1/realtime"),
    "live_disabled": refused_request("/v1/live/sessions", RELAY_LIVE="off"),
    "not_a_websocket": refused_request(PATH, {"Upgrade": ""}),
    "path_not_found": refused_request("/nowhere"),
    "method_not_allowed": changed_on_route(lambda first: first.replace(b"GET", b"PUT")),
    "headers_too_large": refused_request(PATH, {"Cookie": "c=" + "x" * 70_000}),
    "proxy_protocol": changed_on_route(lambda first: b"PROXY TCP4 192.0.2.1 192.0.2.2 5 80\r\n" + first),
    "http_version_refused": changed_on_route(lambda first: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + first),
    "tls_refused": changed_on_route(lambda first: b"\x16\x03\x01\x02\x00\x01" + first),
    "too_many_sessions": lambda: relay_at_limit(RELAY_MAX_SESSIONS_PER_CLIENT="1"),
    "too_many_connects": client_in_reconnect_loop,
    "budget_exhausted": client_at_budget,
    "relay_full": lambda: relay_at_limit(RELAY_MAX_SESSIONS="1"),
    "store_unavailable": refused_request(
        RELAY_STORE_URL=f"redis://:CANARY2store@127.0.0.1:{free_port()}", RELAY_STORE_FAILURE="closed"
    ),
    "relay_draining": draining_relay,
    "key_missing": refused_request(OPENAI_API_KEY=""),
    "key_malformed": refused_request(OPENAI_API_KEY='"sk-sim-good-CANARY0key123456"'),
    "key_rejected": provider_scenario("key-rejected"),
    "key_forbidden": provider_scenario("key-forbidden"),
    "region_blocked": provider_scenario("http-403-geo"),
    "quota_exhausted": provider_scenario("quota-exhausted"),
    "beta_shape": provider_scenario("beta-shape"),
    "model_not_found": provider_scenario("model-not-found"),
    "call_not_found": provider_scenario("http-404", "/v1/realtime?call_id=rtc_1"),
    "rate_limited": provider_scenario("http-429"),
    "upstream_overloaded": provider_scenario("http-503"),
    "upstream_error": provider_scenario("http-500"),
    "dns_failed": provider_at("https://relay-test.invalid/v1"),
    "connect_refused": closed_port,
    # The broadcast address is not valid for TCP: the kernel reports immediately that the network is unreachable.
    "network_unreachable": provider_at("https://255.255.255.255/v1"),
    "dns_filtered": filtered_name,
    "proxy_failed": refusing_proxy(b"403 Forbidden"),
    "proxy_auth_failed": refusing_proxy(
        b"407 Proxy Authentication Required", b"Proxy-Authenticate: Negotiate\r\nProxy-Authenticate: NTLM\r\n"
    ),
    "account_refused": refusal("401 Unauthorized", error_body("no_organization")),
    "wrong_host": refusal("401 Unauthorized", error_body("incorrect_hostname", "Use us.api.openai.com")),
    "network_not_allowed": refusal("403 Forbidden", b'{"code":"403","message":"A Virtual Network is configured"}'),
    "request_rejected": refusal("400 Bad Request", error_body("BadRequest", "API version not supported")),
    "blocked_before_api": refusal(
        "403 Forbidden", b"<title>Attention Required! | Cloudflare</title>", Server="cloudflare", CF_RAY="0-X"
    ),
    "limited_before_api": refusal("429 Too Many Requests", b"<html>slow down</html>", Server="nginx"),
    "wrong_base_url": refusal("404 Not Found", b"404 page not found", Content_Type="text/plain"),
    "bad_reply": other_server(SSH),
    "redirect_refused": provider_scenario("redirect"),
    "dropped_early": provider_scenario("drop"),
    "tls_failed": other_server(SSH, scheme="https"),
    "tls_untrusted": other_server(SSH, scheme="https", tls=untrusted_server_context),
    "connect_timeout": other_server(None, scheme="https"),
    "reply_timeout": provider_scenario("hang-before-101"),
    "first_event_timeout": provider_scenario("hang"),
}
"""`client_left` and the endings depend on the client: see test_surfaces.py and tests/relay."""
