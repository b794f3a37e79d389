"""The chain from a client to a running relay: directly, and through proxies that interfere."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.certificates import create_self_signed
from tests.support.doctor_chain import (
    TOKEN_CANARY,
    ChainReport,
    forward_to,
    http_response,
    run_relay_chain,
    tcp_server,
)
from tests.support.harness import Relay, eventually, simulated_relay
from tests.support.raw_websocket_server import CREATED, ServerConnection, raw_upstream

STEPS = ["address", "dns", "tcp", "tls", "relay", "upgrade", "origin", "token", "first_event", "round_trip"]
ORIGIN = "https://app.example.com"
TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": f"web:{TOKEN_CANARY}"}
HTML = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


@asynccontextmanager
async def guarded_relay(**settings: str) -> AsyncIterator[Relay]:
    """A relay that requires a token and allows one origin."""
    async with simulated_relay(**(TOKENS | {"RELAY_ALLOWED_ORIGINS": ORIGIN} | settings)) as relay:
        yield relay


async def run_chain(
    url: str, token: str | None = TOKEN_CANARY, origin: str | None = None, timeout_seconds: float = 3.0
) -> ChainReport:
    """Run the chain, and check that the output does not hold the token."""
    report = await run_relay_chain(url, token=token, origin=origin, timeout_seconds=timeout_seconds)
    assert "CANARY" not in report.document
    return report


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/realtime", "/openai/realtime?model=gpt-realtime-mini"])
async def test_valid_token_passes_all_steps_with_any_form_of_the_url(path: str) -> None:
    """The relay counts the session as closed by its client."""
    async with guarded_relay() as relay:
        report = await run_chain(relay.url + path)

        assert STEPS == [result.name for result in report.results]
        assert report.failed_step is None, report.document
        assert "session ready: session.created" == report["first_event"].finding
        assert "ms to the relay and back (median of 3)" in report["round_trip"].finding
        assert 0 < report["round_trip"].seconds < 10
        await eventually(lambda: relay.events("session.ended"))
        assert ["client_closed"] == [event["reason"] for event in relay.events("session.ended")]


async def test_origin_sends_the_token_as_a_subprotocol() -> None:
    """As browsers do, which cannot set the Authorization header."""
    async with guarded_relay() as relay:
        report = await run_chain(relay.url.replace("http", "ws"), origin=ORIGIN)

    assert report.failed_step is None, report.document
    assert f"pages of {ORIGIN} may connect" == report["origin"].finding
    assert "as a subprotocol, as browsers do" in report["token"].finding


@pytest.mark.parametrize(
    ("token", "origin", "step", "reason", "note"),
    [
        ("CANARY-wrong-token", None, "token", "token_invalid", ""),
        (None, None, "token", "token_missing", "Name one with --token-env or --token-file"),
        (
            TOKEN_CANARY,
            "https://evil.example.com",
            "origin",
            "origin_refused",
            "Add https://evil.example.com to RELAY_",
        ),
        ("CANARY-wrong-token", ORIGIN, "token", "token_invalid", ""),
    ],
)
async def test_admission_refusal_fails_its_step(
    token: str | None, origin: str | None, step: str, reason: str, note: str
) -> None:
    """The steps `origin` and `token` explain the response to the upgrade."""
    async with guarded_relay() as relay:
        report = await run_chain(relay.url, token, origin)

    assert (step, reason) == (report.failed_step, report[step].reason)
    assert f"docs/failures.md#{reason}" == report[step].anchor
    assert note in report.text(step)
    assert "the relay answered HTTP 40" in report["upgrade"].finding
    assert "skipped" == report["first_event"].status


@pytest.mark.parametrize("origin", [None, ORIGIN])
@pytest.mark.parametrize("scenario", ["key-rejected", "quota-exhausted"])
async def test_provider_failure_behind_the_relay_fails_first_event(scenario: str, origin: str | None) -> None:
    """The relay reports it by HTTP status, or to a browser by event; its health has warned before."""
    async with guarded_relay(OPENAI_API_KEY=f"sk-sim-{scenario}") as relay:
        report = await run_chain(relay.url, origin=origin)

    assert "first_event" == report.failed_step
    assert scenario.replace("-", "_") == report["first_event"].reason
    assert "Run the doctor where the relay runs" in report.text("relay")
    assert "The relay's log has this attempt as session_id" in report.text("first_event")


async def test_model_that_the_relay_does_not_allow_fails_first_event() -> None:
    """The reason is the relay's."""
    async with guarded_relay(RELAY_ALLOWED_MODELS="gpt-realtime-mini") as relay:
        report = await run_chain(relay.url)

    assert "model_refused" == report["first_event"].reason
    assert "Requested: model gpt-realtime." in report.text("first_event")


@pytest.mark.parametrize(
    ("status", "body", "reason", "note"),
    [
        ("502 Bad Gateway", HTML, "bad_reply", "The proxy or ingress cannot connect to the relay."),
        ("503 Service Unavailable", HTML, "bad_reply", "has no relay to forward to"),
        ("404 Not Found", HTML, "bad_reply", "Nothing is served at this path"),
        ("401 Unauthorized", "no", "bad_reply", "This 401 is not the relay's"),
        ("426 Upgrade Required", "", "bad_reply", "removes the headers Upgrade and Connection"),
        ("400 Bad Request", "no", "bad_reply", "a proxy has removed or changed the Upgrade header"),
        ("400 Bad Request", "<html>The plain HTTP request was sent to HTTPS port</html>", "bad_reply", "speaks TLS"),
        ("200 OK", HTML, "bad_reply", "A 200 instead of a 101"),
        ("301 Moved Permanently", "", "redirect_refused", "This address requires TLS: use https:// or wss://."),
    ],
)
async def test_response_of_another_server_fails_upgrade(status: str, body: str, reason: str, note: str) -> None:
    """The notes have the server's name, the title of its page and the meaning of its status."""
    headers = {"Content_Type": "text/html", "Server": "nginx/1.27", "Location": "https://relay.example.com/?token=x"}
    async with tcp_server(http_response(status, body, **headers)) as port:
        report = await run_chain(f"http://127.0.0.1:{port}")

    text = report.text("upgrade")
    assert ("upgrade", reason) == (report.failed_step, report["upgrade"].reason)
    assert note in text
    assert f"HTTP {status[:3]}" in text
    assert "The server identifies itself as Server: nginx/1.27." in text
    assert ("with the title '502 Bad Gateway'" in text) is (body == HTML)
    assert "no relay answered at /healthz" in report["relay"].finding


@pytest.mark.parametrize(
    ("old", "new", "step", "reason", "note"),
    [
        (
            b"Upgrade: websocket",
            b"X-Was: websocket",
            "upgrade",
            "not_a_websocket",
            "The doctor sent an upgrade; a proxy on the route removed its headers",
        ),
        (b"Authorization: Bearer", b"X-Was: Bearer", "token", "token_missing", "a proxy on the route removed it"),
    ],
)
async def test_header_changed_by_a_proxy_fails_its_step(
    old: bytes, new: bytes, step: str, reason: str, note: str
) -> None:
    """The relay's refusal contradicts what the doctor sent."""
    async with (
        guarded_relay() as relay,
        tcp_server(forward_to(relay.app.public_port, lambda data: data.replace(old, new))) as port,
    ):
        report = await run_chain(f"http://127.0.0.1:{port}")

    assert (step, reason) == (report.failed_step, report[step].reason)
    assert note in report.text(step)


async def test_origin_added_by_a_proxy_fails_its_step() -> None:
    """Where the token does not prove that the client is no page, as with open access."""
    add = (b"Accept: */*", b"Origin: http://x.example")
    async with (
        guarded_relay(RELAY_ACCESS="open") as relay,
        tcp_server(forward_to(relay.app.public_port, lambda data: data.replace(*add))) as port,
    ):
        report = await run_chain(f"http://127.0.0.1:{port}")

    assert ("origin", "origin_refused") == (report.failed_step, report["origin"].reason)
    assert "a proxy on the route added one" in report.text("origin")
    assert "Add http://x.example to RELAY_ALLOWED_ORIGINS" in report.text("origin")


async def test_wss_to_plain_http_port_fails_tls() -> None:
    """The relay's own port speaks no TLS."""
    async with guarded_relay() as relay:
        report = await run_chain(relay.url.replace("http", "wss"))

    assert ("tls", "tls_failed") == (report.failed_step, report["tls"].reason)
    assert "speaks plain HTTP, not TLS" in report.text("tls")
    assert "an ingress or proxy in front of the relay does, the relay itself does not" in (report["tls"].remedy or "")


async def test_ws_to_tls_port_fails_with_a_note(tmp_path: Path) -> None:
    """The doctor recognises TLS by a handshake that it does not verify."""
    certificate = create_self_signed(tmp_path, "/O=Acme/CN=localhost")
    async with tcp_server(http_response("200 OK"), certificate.server_context()) as port:
        report = await run_chain(f"ws://localhost:{port}")

    assert "relay" == report.failed_step
    assert "This port speaks TLS: use https:// or wss:// in the URL." in report.text("relay")


async def test_untrusted_certificate_is_explained_as_the_relays(tmp_path: Path) -> None:
    """The catalogue's sentence is about the provider."""
    certificate = create_self_signed(tmp_path, "/O=Acme/CN=localhost")
    async with tcp_server(http_response("200 OK"), certificate.server_context()) as port:
        report = await run_chain(f"wss://localhost:{port}")

    assert "tls_untrusted" == report["tls"].reason
    assert "The certificate at the relay's address is not trusted." == report["tls"].finding


async def test_unknown_host_and_closed_port_are_explained_as_the_relays() -> None:
    """The catalogue's sentences are about the provider."""
    no_host = await run_chain("http://relay.invalid:8080")
    no_port = await run_chain("http://127.0.0.1:1")

    assert ("dns", "The relay's host name could not be resolved.") == (no_host.failed_step, no_host["dns"].finding)
    assert ("tcp", "The relay's address refused the TCP connection.") == (no_port.failed_step, no_port["tcp"].finding)


async def test_websocket_without_events_fails_first_event() -> None:
    """The timeout is that of a client."""

    async def silent(connection: object) -> None:
        await asyncio.Event().wait()

    async with raw_upstream(silent) as upstream:
        report = await run_chain(f"{upstream.url}/realtime?model=scripted", timeout_seconds=0.2)

    assert ("first_event", "first_event_timeout") == (report.failed_step, report["first_event"].reason)


async def test_missing_pong_warns() -> None:
    """A proxy that forwards no pong will close quiet sessions."""

    async def create(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.until_close()

    async with raw_upstream(create) as upstream:
        report = await run_chain(f"{upstream.url}/realtime?model=scripted")

    assert (None, "warn") == (report.failed_step, report["round_trip"].status)
    assert "no pong within 0.3 s" == report["round_trip"].finding


async def test_server_that_never_answers_fails_with_reply_timeout() -> None:
    """It accepts the TCP connection."""

    async def never_answer(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.Event().wait()

    async with tcp_server(never_answer) as port:
        report = await run_chain(f"http://127.0.0.1:{port}", timeout_seconds=0.2)

    assert ("relay", "reply_timeout") == (report.failed_step, report["relay"].reason)


async def test_token_over_plain_http_warns() -> None:
    """So does ws:// for a page that was loaded over https://."""
    report = await run_chain("http://relay.invalid", origin=ORIGIN)

    assert "warn" == report["address"].status
    assert "The token is sent in clear text." in report.text("address")
    assert "Browsers block ws:// from a page that was loaded over https://." in report.text("address")


async def test_turn_passes_through_the_relay() -> None:
    """The request reaches the provider, and its response the doctor."""
    async with guarded_relay() as relay:
        report = await run_relay_chain(relay.url, token=TOKEN_CANARY, turn=True)

    assert "ok" == report["turn"].status, report.document
