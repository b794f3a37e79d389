"""The client's side: a running relay, seen directly and through things that stand between."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.certificates import create_self_signed
from tests.support.doctor_chain import (
    TOKEN_CANARY,
    ChainReport,
    answering,
    bare_server,
    passing_on,
    run_relay_chain,
)
from tests.support.harness import Relay, eventually, simulated_relay
from tests.support.raw_websocket_server import CREATED, Wire, raw_upstream

STEPS = ["address", "dns", "tcp", "tls", "relay", "upgrade", "origin", "token", "first_event", "round_trip"]
PAGE = "https://app.example.com"
TOKENS = {"RELAY_ACCESS": "tokens", "RELAY_CLIENT_TOKENS": f"web:{TOKEN_CANARY}"}
HTML = "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


@asynccontextmanager
async def guarded_relay(**settings: str) -> AsyncIterator[Relay]:
    """A relay that wants a token and knows one page."""
    async with simulated_relay(**(TOKENS | {"RELAY_ALLOWED_ORIGINS": PAGE} | settings)) as relay:
        yield relay


async def options(
    url: str, token: str | None = TOKEN_CANARY, origin: str | None = None, seconds: float = 3.0
) -> ChainReport:
    """Climb, and make sure that the token is nowhere in what would be printed."""
    report = await run_relay_chain(url, token=token, origin=origin, seconds=seconds)
    assert "CANARY" not in report.printed
    return report


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/realtime", "/openai/realtime?model=gpt-realtime-mini"])
async def test_all_well(path: str) -> None:
    """With the right token the whole ladder is climbed, whichever form the URL has."""
    async with guarded_relay() as relay:
        report = await options(relay.url + path)

        assert STEPS == [rung.name for rung in report.results]
        assert report.failed_step is None, report.printed
        assert "session ready: session.created" == report["first_event"].finding
        assert "ms to the relay and back (median of 3)" in report["round_trip"].finding
        assert 0 < report["round_trip"].seconds < 1
        await eventually(lambda: relay.events("session.ended"))
        assert ["client_closed"] == [event["reason"] for event in relay.events("session.ended")]


async def test_as_a_browser() -> None:
    """With --origin the token goes as a subprotocol, `realtime` comes back, and the origin's rung holds."""
    async with guarded_relay() as relay:
        report = await options(relay.url.replace("http", "ws"), origin=PAGE)

    assert report.failed_step is None, report.printed
    assert f"pages of {PAGE} may connect" == report["origin"].finding
    assert "as a subprotocol, as browsers do" in report["token"].finding


@pytest.mark.parametrize(
    ("token", "origin", "rung", "reason", "note"),
    [
        ("CANARY-wrong-token", None, "token", "token_invalid", ""),
        (None, None, "token", "token_missing", "name it with --token-env or --token-file"),
        (TOKEN_CANARY, "https://evil.example.com", "origin", "origin_refused", "Origin: https://evil.example.com."),
        ("CANARY-wrong-token", PAGE, "token", "token_invalid", ""),
    ],
)
async def test_refusals_at_the_door(token: str | None, origin: str | None, rung: str, reason: str, note: str) -> None:
    """A wrong token, none, and a refused origin break their own rungs in the catalogue's words."""
    async with guarded_relay() as relay:
        report = await options(relay.url, token, origin)

    assert (rung, reason) == (report.failed_step, report[rung].reason)
    assert f"docs/failures.md#{reason}" == report[rung].anchor
    assert note in report.notes(rung)
    assert "the relay itself answered" in report["upgrade"].finding
    assert "skipped" == report["first_event"].status


@pytest.mark.parametrize("origin", [None, PAGE])
@pytest.mark.parametrize("scenario", ["key-rejected", "quota-exhausted"])
async def test_what_the_relay_itself_cannot_reach(scenario: str, origin: str | None) -> None:
    """A failure behind the relay reaches the last rung with its reason, by status or by event; health has warned before."""
    async with guarded_relay(OPENAI_API_KEY=f"sk-sim-{scenario}") as relay:
        report = await options(relay.url, origin=origin)

    assert "first_event" == report.failed_step
    assert scenario.replace("-", "_") == report["first_event"].reason
    assert "run the doctor where it runs" in report.notes("relay")
    assert "The relay's log knows this attempt as session_id" in report.notes("first_event")


async def test_a_model_that_the_relay_does_not_allow() -> None:
    """The relay's refusal of a model is told as such."""
    async with guarded_relay(RELAY_ALLOWED_MODELS="gpt-realtime-mini") as relay:
        report = await options(relay.url)

    assert "model_refused" == report["first_event"].reason


@pytest.mark.parametrize(
    ("status", "body", "reason", "note"),
    [
        ("502 Bad Gateway", HTML, "bad_reply", "The proxy or ingress in front cannot reach the relay."),
        ("503 Service Unavailable", HTML, "bad_reply", "has no relay to pass it to"),
        ("404 Not Found", HTML, "bad_reply", "Nothing is at this path"),
        ("401 Unauthorized", "no", "bad_reply", "That is not the relay's refusal"),
        ("426 Upgrade Required", "", "bad_reply", "drops the headers Upgrade and Connection"),
        ("400 Bad Request", "no", "bad_reply", "a proxy has dropped or spoilt the Upgrade header"),
        ("400 Bad Request", "<html>The plain HTTP request was sent to HTTPS port</html>", "bad_reply", "speaks TLS"),
        ("200 OK", HTML, "bad_reply", "A 200 where a 101 belongs"),
        ("301 Moved Permanently", "", "redirect_refused", "This address wants TLS: use https:// or wss://."),
    ],
)
async def test_a_stranger_answers(status: str, body: str, reason: str, note: str) -> None:
    """What is not the relay is never taken for it: its page, its name and what its status means are told."""
    headers = {"Content_Type": "text/html", "Server": "nginx/1.27", "Location": "https://relay.example.com/?token=x"}
    async with bare_server(answering(status, body, **headers)) as port:
        report = await options(f"http://127.0.0.1:{port}")

    assert ("upgrade", reason) == (report.failed_step, report["upgrade"].reason)
    assert note in report.notes("upgrade")
    assert f"HTTP {status[:3]}" in report.notes("upgrade")
    assert "It calls itself Server: nginx/1.27." in report.notes("upgrade")
    assert ("with the title '502 Bad Gateway'" in report.notes("upgrade")) is (body == HTML)
    assert "no relay answers at /healthz" in report["relay"].finding


@pytest.mark.parametrize(
    ("old", "new", "rung", "reason", "note"),
    [
        (
            b"Upgrade: websocket",
            b"X-Was: websocket",
            "upgrade",
            "not_a_websocket",
            "it was lost on the way to the relay",
        ),
        (b"Authorization: Bearer", b"X-Was: Bearer", "token", "token_missing", "something on the way drops it"),
        (b"Accept: */*", b"Origin: http://x.example", "origin", "origin_refused", "something on the way adds one"),
    ],
)
async def test_headers_lost_on_the_way(old: bytes, new: bytes, rung: str, reason: str, note: str) -> None:
    """A proxy that drops or adds a header is found out by the relay's own refusal."""
    async with (
        guarded_relay() as relay,
        bare_server(passing_on(relay.app.public_port, lambda data: data.replace(old, new))) as port,
    ):
        report = await options(f"http://127.0.0.1:{port}")

    assert (rung, reason) == (report.failed_step, report[rung].reason)
    assert note in report.notes(rung)


async def test_https_to_a_plain_port() -> None:
    """wss:// towards the relay's own port, which speaks no TLS, is told as that."""
    async with guarded_relay() as relay:
        report = await options(relay.url.replace("http", "wss"))

    assert ("tls", "tls_failed") == (report.failed_step, report["tls"].reason)
    assert "speaks plain HTTP, not TLS" in report.notes("tls")
    assert "the relay itself does not, an ingress or proxy in front of it does" in (report["tls"].remedy or "")


async def test_http_to_a_tls_port(tmp_path: Path) -> None:
    """ws:// towards a port of TLS is told as that, by a handshake that is only looked at."""
    pair = create_self_signed(tmp_path, "/O=Acme/CN=localhost")
    async with bare_server(answering("200 OK"), pair.server_context()) as port:
        report = await options(f"ws://localhost:{port}")

    assert "relay" == report.failed_step
    assert "This port speaks TLS: use https:// or wss:// in the URL." in report.notes("relay")


async def test_an_untrusted_certificate_in_front_of_the_relay(tmp_path: Path) -> None:
    """The words are about the relay's address, not about the provider's."""
    pair = create_self_signed(tmp_path, "/O=Acme/CN=localhost")
    async with bare_server(answering("200 OK"), pair.server_context()) as port:
        report = await options(f"wss://localhost:{port}")

    assert "tls_untrusted" == report["tls"].reason
    assert "The certificate at the relay's address is not trusted." == report["tls"].finding


async def test_nobody_there() -> None:
    """A name or port that does not exist is the relay's, not the provider's."""
    no_name = await options("http://relay.invalid:8080")
    no_port = await options("http://127.0.0.1:1")

    assert ("dns", "The relay's name cannot be resolved.") == (no_name.failed_step, no_name["dns"].finding)
    assert ("tcp", "The relay's address refused the connection.") == (no_port.failed_step, no_port["tcp"].finding)


async def test_silence_behind_the_upgrade() -> None:
    """A socket that opens and says nothing ends as first_event_timeout; one that closes, as dropped_early."""

    async def silent(wire: object) -> None:
        await asyncio.Event().wait()

    async with raw_upstream(silent) as upstream:
        report = await options(f"{upstream.url}/realtime?model=scripted", seconds=0.2)

    assert ("first_event", "first_event_timeout") == (report.failed_step, report["first_event"].reason)


async def test_pings_that_are_not_answered() -> None:
    """A way that does not carry pongs warns, since it will cut quiet sessions; it breaks nothing."""

    async def create(wire: Wire) -> None:
        wire.send(CREATED)
        await wire.until_close()

    async with raw_upstream(create) as upstream:
        report = await options(f"{upstream.url}/realtime?model=scripted")

    assert (None, "warn") == (report.failed_step, report["round_trip"].status)
    assert "no pong within 0.3 s" == report["round_trip"].finding


async def test_a_silent_server() -> None:
    """A port that takes the connection and never answers ends with the time of a client's patience."""

    async def hang(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.Event().wait()

    async with bare_server(hang) as port:
        report = await options(f"http://127.0.0.1:{port}", seconds=0.2)

    assert ("relay", "reply_timeout") == (report.failed_step, report["relay"].reason)


async def test_a_token_in_clear_text() -> None:
    """A token over plain HTTP to another machine warns, as does ws:// for a page that came by https://."""
    report = await options("http://relay.invalid", origin=PAGE)

    assert "warn" == report["address"].status
    assert "The token travels in clear text" in report.notes("address")
    assert "Browsers refuse ws:// from a page that came by https://" in report.notes("address")


async def test_a_turn_through_the_relay() -> None:
    """`--turn` goes through the relay to the provider and back."""
    async with guarded_relay() as relay:
        report = await run_relay_chain(relay.url, token=TOKEN_CANARY, turn=True)

    assert "ok" == report["turn"].status, report.printed
