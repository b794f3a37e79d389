"""Which requests are admitted, which are refused before a dial, and what of a request is sent upstream."""

import asyncio
from collections.abc import Mapping
from typing import Final

import pytest

from service.access.clients import ClientDirectory
from service.failures import CATALOGUE
from service.simulator import SimulatorOptions
from tests.support.harness import KEY_CANARY, TOKEN_CANARY, Relay, eventually, open_raw, simulated_relay

PATH = "/v1/realtime?model=gpt-realtime"
TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": f"web:{TOKEN_CANARY},other-token-0123456789"}
BEARER = {"Authorization": f"Bearer {TOKEN_CANARY}"}


async def answer(relay: Relay, path: str = PATH, headers: Mapping[str, str] | None = None) -> tuple[int, str | None]:
    """Return the status of a response, and the reason of a refusal."""
    client = await open_raw(relay.app.public_port, path, headers)
    await client.close()
    return client.answer.status, None if client.answer.status == 101 else client.answer.error["code"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, (401, "token_missing")),
        ({"Authorization": "Basic abc"}, (401, "token_missing")),
        ({"Authorization": "Bearer wrong"}, (401, "token_invalid")),
        ({"Authorization": f"Bearer {KEY_CANARY}"}, (401, "token_invalid")),
        ({"api-key": "wrong"}, (401, "token_invalid")),
        (BEARER, (101, None)),
        ({"api-key": TOKEN_CANARY}, (101, None)),
        ({"Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{TOKEN_CANARY}"}, (101, None)),
        ({"Sec-WebSocket-Protocol": "realtime, openai-insecure-api-key.nope"}, (401, "token_invalid")),
    ],
)
async def test_token_is_read_from_each_header(headers: dict[str, str], expected: tuple[int, str | None]) -> None:
    """`Authorization`, `api-key` and the subprotocol. A refused request dials no upstream."""
    async with simulated_relay(None, **TOKENS) as relay:
        assert expected == await answer(relay, headers=headers)
        dialled = relay.metric("realtime_relay_upstream_connects_total", upstream="compatible", result="ok")
        assert float(expected[0] == 101) == dialled


CREDENTIAL_NAMES: Final = (
    "api-key", "api_key", "apiKey", "token", "Token", "ACCESS_TOKEN", "key", "client_secret", "clientSecret", "ephemeral_key",
    "Ephemeral-Token", "authorization", "Proxy-Authorization", "bearer", "x-api-key", "openai_api_key", "subscription-key",
    "Ocp-Apim-Subscription-Key", "openai-insecure-api-key", "auth_token", "session_token", "secret", "jwt",
)  # fmt: skip


@pytest.mark.parametrize("name", CREDENTIAL_NAMES)
async def test_token_in_the_url_is_refused(name: str) -> None:
    """Also a valid one, because URLs are logged. The remedy names the headers to use instead."""
    async with simulated_relay(None, **TOKENS) as relay:
        client = await open_raw(relay.app.public_port, f"{PATH}&{name}={TOKEN_CANARY}")
        await client.close()

    assert (401, "token_missing") == (client.answer.status, client.answer.error["code"])
    assert client.answer.error["remedy"].startswith(f"Remove '{name.lower()}' from the URL.")
    assert TOKEN_CANARY not in str(relay.logs)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (f"openai-insecure-api-key.{TOKEN_CANARY}", "openai-insecure-api-key"),
        ("api%0d%0akey", "apikey"),
        ("%20token%20", "token"),
        ("to%e2%84%aaen", "token"),  # the sign of the unit kelvin, whose lower case is k
    ],
)
async def test_unusual_name_of_a_token_in_the_url_is_not_repeated(name: str, shown: str) -> None:
    """It may hold the token, or what no message may."""
    async with simulated_relay(None, **TOKENS) as relay:
        client = await open_raw(relay.app.public_port, f"{PATH}&{name}={TOKEN_CANARY}")
        await client.close()

    assert client.answer.error["remedy"].startswith(f"Remove '{shown}' from the URL.")
    assert TOKEN_CANARY not in str(relay.logs) + client.answer.body.decode()


@pytest.mark.parametrize("name", ["keyboard", "max_tokens", "tokens", "author", "api-version", "monkey", "cache_key"])
async def test_parameter_that_names_no_credential_passes(name: str) -> None:
    """To upstream, as any other."""
    async with simulated_relay(None, **TOKENS) as relay:
        assert (101, None) == await answer(
            relay, f"{PATH}&{name}=x", headers={"Authorization": f"Bearer {TOKEN_CANARY}"}
        )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", TOKEN_CANARY),
        ("Authorization", f"Token {TOKEN_CANARY}"),
        ("X-Api-Key", TOKEN_CANARY),
    ],
)
async def test_header_that_holds_no_token_is_named(name: str, value: str) -> None:
    """To client and operator, without its value."""
    async with simulated_relay(None, **TOKENS) as relay:
        client = await open_raw(relay.app.public_port, PATH, headers={name: value})
        await client.close()
        (line,) = relay.events("admission.refused")

    assert (401, "token_missing") == (client.answer.status, client.answer.error["code"])
    assert client.answer.error["remedy"].startswith(f"{line['detail']}. Send one of the relay's client tokens")
    assert f"header {name} " in f"{line['detail']} "
    assert TOKEN_CANARY not in str(relay.logs) + client.answer.error["remedy"]


async def test_response_selects_only_the_subprotocol_realtime() -> None:
    """At any position of the offer; without `realtime` in it, no subprotocol is selected. No extension is accepted."""
    token = f"openai-insecure-api-key.{TOKEN_CANARY}"
    async with simulated_relay(None, **TOKENS) as relay:
        offered = await open_raw(relay.app.public_port, headers={"Sec-WebSocket-Protocol": f"{token}, realtime"})
        alone = await open_raw(relay.app.public_port, headers={"Sec-WebSocket-Protocol": token})
        await offered.close()
        await alone.close()

    assert offered.answer.headers["Sec-WebSocket-Protocol"] == "realtime"
    assert "Sec-WebSocket-Protocol" not in alone.answer.headers
    assert "Sec-WebSocket-Extensions" not in offered.answer.headers


@pytest.mark.parametrize(
    ("allowed", "origin", "status"),
    [
        ("", "http://localhost:3000", 101),
        ("", "http://127.0.0.1", 101),
        ("", "https://evil.example", 403),
        ("", "null", 403),
        ("https://app.example.com", "https://app.example.com", 101),
        ("https://app.example.com", "https://app.example.com.evil", 403),
        ("https://app.example.com", "http://app.example.com", 403),
        ("https://app.example.com", "https://app.example.com:8443", 403),
        ("https://app.example.com", "http://localhost:3000", 403),
        ("*", "https://anything.example", 101),
    ],
)
async def test_origin_must_match_exactly(allowed: str, origin: str, status: int) -> None:
    """Without a list only origins on loopback are allowed. The refusal is an HTTP status."""
    async with simulated_relay(RELAY_ALLOWED_ORIGINS=allowed) as relay:
        assert (status, None if status == 101 else "origin_refused") == await answer(relay, headers={"Origin": origin})


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/realtime", (400, "model_missing")),
        ("/v1/realtime?model=", (400, "model_missing")),
        ("/v1/realtime?intent=realtime", (400, "model_missing")),
        (f"{PATH}&model=b", (400, "bad_request")),
        ("/v1/realtime?intent=transcription&intent=x", (400, "bad_request")),
        ("/v1/realtime?call_id=", (400, "bad_request")),
        ("/v1/realtime?model=a%0d%0ab", (400, "bad_request")),
        ("/v1/realtime?model=../../secret", (400, "bad_request")),
        (f"/v1/realtime?model={'m' * 200}", (400, "bad_request")),
        (f"{PATH}&x={'y' * 2100}", (400, "bad_request")),
        (PATH + "".join(f"&p{n}=1" for n in range(17)), (400, "bad_request")),
        ("/v1/realtime?model=gpt-realtime-mini", (400, "model_refused")),
        (f"{PATH}&Model=gpt-realtime-mini", (400, "bad_request")),
        ("/v1/realtime?MODEL=gpt-realtime-mini", (400, "model_refused")),
        ("/v1/realtime?%20moDel=gpt-realtime", (101, None)),
        ("/v1/realtime?intent=transcription", (101, None)),
        ("/v1/realtime?model=gpt-realtime&deployment=large", (400, "bad_request")),
        ("/v1/realtime?model=gpt-realtime&deployment=gpt-realtime", (101, None)),
    ],
)
async def test_invalid_query_is_refused(path: str, expected: tuple[int, str | None]) -> None:
    """Missing, repeated, malformed and refused parameters."""
    async with simulated_relay(RELAY_ALLOWED_MODELS="gpt-realtime") as relay:
        assert expected == await answer(relay, path)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Upgrade": ""}, (426, "not_a_websocket")),
        ({"Connection": "keep-alive"}, (426, "not_a_websocket")),
        ({"Sec-WebSocket-Version": "8"}, (426, "not_a_websocket")),
        ({"Sec-WebSocket-Key": "short"}, (400, "bad_request")),
        ({"Sec-WebSocket-Key": ""}, (400, "bad_request")),
        ({"Connection": "keep-alive, Upgrade"}, (101, None)),
    ],
)
async def test_handshake_follows_rfc_6455(headers: dict[str, str], expected: tuple[int, str | None]) -> None:
    """Section 4.2.1, also with a Connection header that a proxy has extended."""
    async with simulated_relay() as relay:
        assert expected == await answer(relay, headers=headers)


async def test_upstream_request_holds_the_query_and_no_client_header() -> None:
    """Except OpenAI-Safety-Identifier. Credential and organization are the relay's own."""
    headers = {
        **BEARER,
        "OpenAI-Beta": "realtime=v1",
        "OpenAI-Organization": "org-CLIENT",
        "OpenAI-Project": "proj-CLIENT",
        "Cookie": "a=CLIENT",
        "X-Forwarded-For": "192.0.2.7",
        "Proxy-Authorization": "CLIENT",
        "OpenAI-Safety-Identifier": "user-hash-1",
        "Sec-WebSocket-Protocol": "realtime, openai-beta.realtime-v1",
    }
    path = f"{PATH}&extra=a%26b%20c&on_failure=http"
    async with simulated_relay(None, **TOKENS, OPENAI_ORG_ID="org-relay") as relay:
        client = await open_raw(relay.app.public_port, path, headers)
        created = await client.next_event()
        await client.close()
        assert relay.simulator is not None
        # The health check has a connection of its own.
        upstream_request = next(record for record in relay.simulator.connections if "extra" in record.query)

    assert created["type"] == "session.created"
    assert upstream_request.headers["Authorization"] == f"Bearer {KEY_CANARY}"
    assert upstream_request.headers["OpenAI-Organization"] == "org-relay"
    assert upstream_request.headers["OpenAI-Safety-Identifier"] == "user-hash-1"
    assert {"model": "gpt-realtime", "extra": "a&b c"} == dict(upstream_request.query)
    assert "CLIENT" not in str(upstream_request.headers) + str(upstream_request.query)
    for name in ("OpenAI-Beta", "OpenAI-Project", "Cookie", "X-Forwarded-For", "Sec-WebSocket-Protocol", "Origin"):
        assert name not in upstream_request.headers


@pytest.mark.parametrize("path", ["/v1/realtime", "/realtime", "/openai/v1/realtime", "/openai/realtime"])
async def test_path_aliases_are_served(path: str) -> None:
    """The paths that SDKs build."""
    async with simulated_relay() as relay:
        assert (101, None) == await answer(relay, f"{path}?model=gpt-realtime")


async def test_transcription_sideband_and_translation_sockets_open() -> None:
    """An unknown call is refused with call_not_found."""
    options = SimulatorOptions(pace=0, call_ids=frozenset({"rtc_known"}))
    async with simulated_relay(options) as relay:
        transcription = await open_raw(relay.app.public_port, "/v1/realtime?intent=transcription")
        sideband = await open_raw(relay.app.public_port, "/v1/realtime?call_id=rtc_known")
        translation = await open_raw(relay.app.public_port, "/v1/realtime/translations?model=gpt-realtime-translate")
        sideband.send_event(type="session.update", session={"type": "realtime"})

        assert (await transcription.next_event())["session"]["type"] == "transcription"
        assert (await sideband.next_event())["type"] == "session.updated"
        assert (await translation.next_event())["type"] == "session.created"
        assert (404, "call_not_found") == await answer(relay, "/v1/realtime?call_id=rtc_unknown")
        for client in (transcription, sideband, translation):
            await client.close()


async def test_error_event_of_a_translation_socket_is_redacted() -> None:
    """No first event is awaited there, so the provider's refusal is forwarded, without the part of the key that it quotes."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected-CANARY9tail") as relay:
        client = await open_raw(relay.app.public_port, "/v1/realtime/translations?model=gpt-realtime-translate")
        event = await client.next_event()
        close = await client.until_close()
        await client.close()

    assert event["error"]["code"] == "invalid_api_key"
    assert "[redacted]" in event["error"]["message"]
    assert "tail" not in str(event)
    assert close == (3000, "invalid_request_error.invalid_api_key")


async def test_optional_first_event_is_not_awaited() -> None:
    """With RELAY_FIRST_EVENT=optional the upgrade alone opens the session."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-hang", RELAY_FIRST_EVENT="optional") as relay:
        assert (101, None) == await answer(relay)


async def test_session_over_the_limit_is_refused_with_503() -> None:
    """With Retry-After, or close code 1013 for a browser. When a session ends, the next one is admitted."""
    async with simulated_relay(RELAY_MAX_SESSIONS="1") as relay:
        first = await open_raw(relay.app.public_port)
        second = await open_raw(relay.app.public_port)
        browser = await open_raw(relay.app.public_port, headers={"Origin": "http://localhost"})

        assert (503, "relay_full") == (second.answer.status, second.answer.error["code"])
        assert 1 <= int(second.answer.headers["Retry-After"]) <= 5
        assert (1013, CATALOGUE["relay_full"].close_text) == await browser.until_close()

        for client in (first, second, browser):
            await client.close()
        await eventually(lambda: relay.metric("realtime_relay_sessions_active") == 0)
        await eventually(lambda: len(relay.app.sessions) == 0)
        assert (101, None) == await answer(relay)


async def test_dial_over_the_limit_is_refused_with_503() -> None:
    """While the other dials are still in progress."""
    settings = {"OPENAI_API_KEY": "sk-sim-hang", "RELAY_MAX_DIALS": "1", "RELAY_DIAL_TIMEOUT_SECONDS": "2"}
    async with simulated_relay(None, **settings) as relay:
        slow = asyncio.create_task(answer(relay))
        assert relay.simulator is not None
        simulator = relay.simulator
        await eventually(lambda: simulator.open_count > 0)

        assert (503, "relay_full") == await answer(relay)
        assert (504, "first_event_timeout") == await slow


async def test_dial_is_cancelled_when_the_client_disconnects() -> None:
    """The upstream socket is closed within a second, and the dial is counted as client_left."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-hang", RELAY_DIAL_TIMEOUT_SECONDS="30") as relay:
        assert relay.simulator is not None
        simulator = relay.simulator
        _, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(
            b"GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        # One connection belongs to the health check, which hangs as well.
        await eventually(lambda: simulator.open_count == 2)
        writer.close()
        await eventually(lambda: simulator.open_count == 1, 1.0)
        await eventually(lambda: bool(relay.events("upstream.connect_failed")))

        assert relay.events("upstream.connect_failed")[0]["reason"] == "client_left"
        labels = {"upstream": "compatible", "phase": "first_event", "status": "none", "reason": "client_left"}
        assert relay.metric("realtime_relay_connection_failures_total", **labels) == 1


async def test_draining_relay_refuses_new_clients() -> None:
    """With 503 and relay_draining."""
    async with simulated_relay() as relay:
        relay.app.drainer.is_draining = True

        assert (503, "relay_draining") == await answer(relay)


async def test_unexpected_exception_is_answered_with_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The body holds the session_id of the log line with the traceback, and nothing of the exception."""

    def broken(*_args: object) -> None:
        raise RuntimeError("CANARY")

    async with simulated_relay() as relay:
        monkeypatch.setattr(ClientDirectory, "authenticate", broken)
        client = await open_raw(relay.app.public_port)
        await client.close()
        (line,) = relay.events("request.failed")

        assert (500, "internal_error") == (client.answer.status, client.answer.error["code"])
        assert line["session_id"] == client.answer.error["session_id"]
        assert line["exc_info"]
        assert b"CANARY" not in client.answer.body
        assert 1 == relay.metric(
            "realtime_relay_connection_failures_total",
            upstream="compatible", phase="access", status="500", reason="internal_error",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "settings", "is_logged"),
    [
        ({}, {}, False),
        ({"Host": "localhost:8080"}, {}, False),
        ({"X-Forwarded-For": "203.0.113.5"}, {}, True),
        ({"Forwarded": "for=203.0.113.5"}, {}, True),
        ({"Host": "relay.example.com"}, {"RELAY_ALLOWED_HOSTS": "*.example.com"}, True),
        ({"Host": "relay.example.com"} | BEARER, TOKENS | {"RELAY_ALLOWED_HOSTS": "*.example.com"}, False),
    ],
)
async def test_open_access_behind_a_proxy_is_logged_once(
    headers: dict[str, str], settings: dict[str, str], *, is_logged: bool
) -> None:
    """Listening on loopback protects nothing once a proxy forwards to it. A foreign Host or a forwarding header shows one."""
    async with simulated_relay(None, **settings) as relay:
        for _ in range(2):
            assert (101, None) == await answer(relay, headers=headers)

        assert int(is_logged) == len(relay.events("access.open_behind_proxy"))
