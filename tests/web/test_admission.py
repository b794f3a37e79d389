"""Who comes in, what is refused before anything is dialled, and what of a request goes upstream."""

import asyncio
from collections.abc import Mapping

import pytest

from service.access.tokens import TokenAuthenticator
from service.failures import CATALOGUE
from service.simulator import SimulatorOptions
from tests.support.harness import KEY_CANARY, TOKEN_CANARY, Relay, eventually, open_raw, simulated_relay

PATH = "/v1/realtime?model=gpt-realtime"
TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": f"web:{TOKEN_CANARY},other-token-0123456789"}
BEARER = {"Authorization": f"Bearer {TOKEN_CANARY}"}


async def answer(relay: Relay, path: str = PATH, headers: Mapping[str, str] | None = None) -> tuple[int, str | None]:
    """Status and reason of a request's answer."""
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
async def test_tokens(headers: dict[str, str], expected: tuple[int, str | None]) -> None:
    """Each way to show a token is taken, a wrong one is refused, and neither dials when refused."""
    async with simulated_relay(None, **TOKENS) as relay:
        assert expected == await answer(relay, headers=headers)
        dialled = relay.metric("realtime_relay_upstream_connects_total", upstream="compatible", result="ok")
        assert float(expected[0] == 101) == dialled


@pytest.mark.parametrize("name", ["api-key", "api_key", "token", "access_token"])
async def test_a_credential_in_the_url_is_refused(name: str) -> None:
    """URLs are logged, so a token in one is refused even where it is right, and the remedy says where it belongs."""
    async with simulated_relay(None, **TOKENS) as relay:
        client = await open_raw(relay.app.public_port, f"{PATH}&{name}={TOKEN_CANARY}")
        await client.close()

    assert (401, "token_missing") == (client.answer.status, client.answer.error["code"])
    assert "URL" in client.answer.error["remedy"]
    assert TOKEN_CANARY not in str(relay.logs)


async def test_only_realtime_is_echoed() -> None:
    """Of the offered subprotocols `realtime` is chosen, wherever it stands; without it none is."""
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
async def test_origins(allowed: str, origin: str, status: int) -> None:
    """Origins match exactly; with no list only pages of this machine may connect. The refusal is an HTTP status."""
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
        ("/v1/realtime?intent=transcription", (101, None)),
    ],
)
async def test_queries(path: str, expected: tuple[int, str | None]) -> None:
    """What a query may not be is refused without a dial."""
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
async def test_handshakes(headers: dict[str, str], expected: tuple[int, str | None]) -> None:
    """A handshake is held to RFC 6455 section 4.2.1, also in the forms that proxies give it."""
    async with simulated_relay() as relay:
        assert expected == await answer(relay, headers=headers)


async def test_what_goes_upstream() -> None:
    """The relay's key and the query go upstream; nothing that a client wrote into its headers does."""
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
        # The health check's own connection is another.
        seen = next(record for record in relay.simulator.connections if "extra" in record.query)

    assert created["type"] == "session.created"
    assert seen.headers["Authorization"] == f"Bearer {KEY_CANARY}"
    assert seen.headers["OpenAI-Organization"] == "org-relay"
    assert seen.headers["OpenAI-Safety-Identifier"] == "user-hash-1"
    assert {"model": "gpt-realtime", "extra": "a&b c"} == dict(seen.query)
    assert "CLIENT" not in str(seen.headers) + str(seen.query)
    for name in ("OpenAI-Beta", "OpenAI-Project", "Cookie", "X-Forwarded-For", "Sec-WebSocket-Protocol", "Origin"):
        assert name not in seen.headers


@pytest.mark.parametrize("path", ["/v1/realtime", "/realtime", "/openai/v1/realtime", "/openai/realtime"])
async def test_aliases(path: str) -> None:
    """Every path that SDKs build leads to the same socket."""
    async with simulated_relay() as relay:
        assert (101, None) == await answer(relay, f"{path}?model=gpt-realtime")


async def test_other_sockets() -> None:
    """Transcription, sideband and translation sockets open; an unknown call is told as such."""
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


async def test_a_gate_that_ends_at_the_upgrade_passes_no_key() -> None:
    """On a socket without a promised first event a refusal passes through, but without the piece of the key in it."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-key-rejected-CANARY9tail") as relay:
        client = await open_raw(relay.app.public_port, "/v1/realtime/translations?model=gpt-realtime-translate")
        event = await client.next_event()
        close = await client.until_close()
        await client.close()

    assert event["error"]["code"] == "invalid_api_key"
    assert "[redacted]" in event["error"]["message"]
    assert "tail" not in str(event)
    assert close == (3000, "invalid_request_error.invalid_api_key")


async def test_an_optional_first_event_opens_at_once() -> None:
    """For servers that send nothing by themselves the upgrade is enough."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-hang", RELAY_FIRST_EVENT="optional") as relay:
        assert (101, None) == await answer(relay)


async def test_a_full_relay_refuses() -> None:
    """One session over the cap is refused with Retry-After; when one ends there is room again."""
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


async def test_dials_are_bounded() -> None:
    """One dial over the cap is refused while the others are still under way."""
    settings = {"OPENAI_API_KEY": "sk-sim-hang", "RELAY_MAX_DIALS": "1", "RELAY_DIAL_TIMEOUT_SECONDS": "2"}
    async with simulated_relay(None, **settings) as relay:
        slow = asyncio.create_task(answer(relay))
        assert relay.simulator is not None
        simulator = relay.simulator
        await eventually(lambda: simulator.open_count > 0)

        assert (503, "relay_full") == await answer(relay)
        assert (504, "first_event_timeout") == await slow


async def test_a_client_that_gives_up_costs_nothing() -> None:
    """When a client hangs up during the dial, the dial ends with it, is counted as that, and alerts nobody."""
    async with simulated_relay(OPENAI_API_KEY="sk-sim-hang", RELAY_DIAL_TIMEOUT_SECONDS="30") as relay:
        assert relay.simulator is not None
        simulator = relay.simulator
        _, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
        writer.write(
            b"GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        # One connection is the health check's own, which hangs as well.
        await eventually(lambda: simulator.open_count == 2)
        writer.close()
        await eventually(lambda: simulator.open_count == 1, 1.0)
        await eventually(lambda: bool(relay.events("upstream.connect_failed")))

        assert relay.events("upstream.connect_failed")[0]["reason"] == "client_left"
        labels = {"upstream": "compatible", "phase": "first_event", "status": "none", "reason": "client_left"}
        assert relay.metric("realtime_relay_connection_failures_total", **labels) == 1


async def test_a_draining_relay_refuses() -> None:
    """While draining, new clients are told so, and where they may read it."""
    async with simulated_relay() as relay:
        relay.app.drainer.is_draining = True

        assert (503, "relay_draining") == await answer(relay)


async def test_a_fault_of_the_relay_is_told_without_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug in admission is answered like any failure: a reason and an id to find the traceback by, nothing of it itself."""

    def broken(*_args: object) -> None:
        raise RuntimeError("CANARY")

    async with simulated_relay() as relay:
        monkeypatch.setattr(TokenAuthenticator, "admit", broken)
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
    ("headers", "settings", "is_told"),
    [
        ({}, {}, False),
        ({"Host": "localhost:8080"}, {}, False),
        ({"X-Forwarded-For": "203.0.113.5"}, {}, True),
        ({"Forwarded": "for=203.0.113.5"}, {}, True),
        ({"Host": "relay.example.com"}, {}, True),
        ({"Host": "relay.example.com"} | BEARER, TOKENS, False),
    ],
)
async def test_open_access_behind_a_proxy_is_told_once(
    headers: dict[str, str], settings: dict[str, str], *, is_told: bool
) -> None:
    """Loopback is no protection once a proxy stands before it; the operator is told at the first sign of one, once."""
    async with simulated_relay(None, **settings) as relay:
        for _ in range(2):
            assert (101, None) == await answer(relay, headers=headers)

        assert int(is_told) == len(relay.events("access.open_behind_proxy"))
