"""Origins that browsers, app shells and devices send: which are allowed, and what a refusal says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.origins import OriginPolicy, parse_origin
from service.failures import Failure
from service.settings import load_settings
from tests.support.harness import TOKEN_CANARY, open_raw, simulated_relay

TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": f"app:{TOKEN_CANARY}"}
IN_SUBPROTOCOL = {"Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{TOKEN_CANARY}"}
SENT = [
    "https://app.example.com",
    "https://app.example.com:443",  # React Native on iOS: the server's address with its port
    "https://APP.example.com",
    "http://localhost:5173",  # multica-ai/multica#842: Electron in development
    "http://[::1]:3000",
    "https://tauri.localhost",
    "null",  # Kilo-Org/cloud#3218
    "file://",  # webpack/webpack-dev-server#3821, crossbario/crossbar#868, web3/web3.js#4102; arduinoWebSockets
    "file:///",
    "capacitor://localhost",
    "ionic://localhost",
    "tauri://localhost",
    "wails://wails.localhost:34115",
    "capacitor-electron://-",  # capacitor-community/electron#184
    "app://.",
    "app://obsidian.md",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
    "moz-extension://0b7c7a1e-3a1b-4f7e-8f2a-0d3f0a1b2c3d",
    "safari-web-extension://E5CF2DB8-7A3C-4E9C-9D4A-1B2C3D4E5F60",
    "vscode-webview://1k4n8v5q2m7s0p9r3t6w",
    "vscode-file://vscode-app",
    "https://relay_1.example.com:8443",
]
EVIL = "https://evil.example"


@pytest.mark.parametrize("origin", SENT)
def test_refusal_holds_the_value_that_allows_the_origin(origin: str) -> None:
    """The remedy names the origin; a relay that is set as it says allows it, and no other page."""
    with pytest.raises(Failure) as refused:
        OriginPolicy(["https://other.example"]).check([origin])
    hint, value = refused.value.remedy, parse_origin(origin) or ""
    allowed = load_settings({"RELAY_ALLOWED_ORIGINS": value}).allowed_origins

    assert f" {value} to RELAY_ALLOWED_ORIGINS" in hint
    assert origin in str(refused.value.detail)
    OriginPolicy(allowed).check([origin])
    with pytest.raises(Failure):
        OriginPolicy(allowed).check([EVIL])


@pytest.mark.parametrize(
    "origin",
    [
        "", "https://", "http://:80", "//host", "host", "https://a.example/path", "https://u:p@a.example", "https://a b",
        "https://a.example:0", "https://a.example:99999", "https://a.example:8x", "https://[::1", "https://*.example.com",
        "https://a.example,https://b.example", "https://\uff41.example", "https://a\u2100b", "javascript:alert(1)",
        "file://:80", "NULL", "https://a.example\x85", "\udc80", "x" * 9000, "https://" + "x" * 9000,
    ],
)  # fmt: skip
def test_text_that_is_no_origin_is_refused_and_named(origin: str) -> None:
    """Escaped and bounded, in hint and log. The setting does not accept it either; `*` still allows it."""
    assert parse_origin(origin) is None
    with pytest.raises(Failure) as refused:
        OriginPolicy([]).check([origin])
    for text in (refused.value.remedy, str(refused.value.detail)):
        assert text.isascii()
        assert text.isprintable()
        assert len(text) < 500
    OriginPolicy(["*"]).check([origin])


def test_repeated_origin_header_is_refused_even_if_allowed() -> None:
    """With the number of headers; a proxy may have added one."""
    with pytest.raises(Failure) as refused:
        OriginPolicy(["*"]).check([EVIL, EVIL])
    assert "has 2" in refused.value.remedy


@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda raw: raw.decode("utf-8", "surrogateescape")))
def test_parsed_origin_is_a_fixed_point(text: str) -> None:
    """No text raises, and the form that a text is reduced to is accepted as it is."""
    origin = parse_origin(text)
    assert origin is None or (parse_origin(origin) == origin and "," not in origin and origin.isascii())


def test_opaque_origin_in_the_list_is_a_warning() -> None:
    """Any page can send `null` from a sandboxed frame."""
    assert any("null" in warning.sentence for warning in load_settings({"RELAY_ALLOWED_ORIGINS": "null"}).warnings)
    assert not load_settings({"RELAY_ALLOWED_ORIGINS": "file://"}).warnings


def test_every_origin_with_open_access_is_a_warning() -> None:
    """Any page in a browser on this machine could spend the provider's credit. With tokens it needs one."""
    every = {"RELAY_ALLOWED_ORIGINS": "*"}
    for is_open in (every, {**every, "RELAY_ACCESS": "open"}):
        assert ["RELAY_ALLOWED_ORIGINS"] == [warning.variable for warning in load_settings(is_open).warnings]
    assert not load_settings({**every, **TOKENS}).warnings


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Authorization": f"Bearer {TOKEN_CANARY}"}, (101, None)),
        ({"Authorization": f"bearer  {TOKEN_CANARY}"}, (101, None)),
        ({"api-key": TOKEN_CANARY}, (101, None)),
        ({"api-key": "wrong"}, (401, "token_invalid")),
        ({"Authorization": "Bearer wrong"} | IN_SUBPROTOCOL, (401, "token_invalid")),
        ({"Authorization": "Basic dTpw"}, (403, "origin_refused")),  # a browser sends it by itself: ws://u:p@host
        ({"Authorization": "Basic dTpw"} | IN_SUBPROTOCOL, (403, "origin_refused")),
        ({"Authorization": "Bearer"} | IN_SUBPROTOCOL, (403, "origin_refused")),
        ({"Cookie": f"token={TOKEN_CANARY}"}, (403, "origin_refused")),
        (IN_SUBPROTOCOL, (403, "origin_refused")),
        ({}, (403, "origin_refused")),
    ],
)
async def test_valid_token_in_a_header_makes_the_origin_check_unnecessary(
    headers: dict[str, str], expected: tuple[int, str | None]
) -> None:
    """No page can set these headers on a WebSocket, so React Native, Electron and devices pass with any Origin.

    letta-ai/letta-code#3511, react/react-native#17692. A token that a page can send does not replace the check.
    """
    async with simulated_relay(None, RELAY_ALLOWED_ORIGINS="https://app.example.com", **TOKENS) as relay:
        client = await open_raw(
            relay.app.public_port, "/v1/realtime?model=gpt-realtime&on_failure=http", {"Origin": EVIL} | headers
        )
        await client.close()

    assert expected == (client.answer.status, None if client.answer.status == 101 else client.answer.error["code"])


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer anything"}, {"api-key": "anything"}])
async def test_open_access_checks_the_origin_whatever_the_headers_hold(headers: dict[str, str]) -> None:
    """There no credential is valid: a development server that adds a header for its pages proves nothing."""
    async with simulated_relay() as relay:
        client = await open_raw(relay.app.public_port, headers={"Origin": EVIL} | headers)
        await client.close()
        (line,) = relay.events("admission.refused")

    assert 403 == client.answer.status
    assert f"Add {EVIL} to RELAY_ALLOWED_ORIGINS" in client.answer.error["remedy"]
    assert (client.answer.error["remedy"], f"Origin: {EVIL}") == (line["remedy"], line["detail"])


async def test_origin_in_a_refusal_is_escaped() -> None:
    """A terminal sequence or a script in the header reaches neither log nor body as it is."""
    async with simulated_relay() as relay:
        client = await open_raw(relay.app.public_port, headers={"Origin": "https://a\u202e<script>\u0085"})
        await client.close()
        (line,) = relay.events("admission.refused")

    assert "\\u202e<script>" in line["detail"]
    assert client.answer.body.isascii()
    assert client.answer.headers["Content-Type"].startswith("application/json")
