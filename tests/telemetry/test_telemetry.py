"""service/telemetry: redaction, log lines, closed label sets."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from prometheus_client import generate_latest

from service.failures import CATALOGUE, DIAL_FAILURES, Failure, Phase
from service.realtime.keys import Secret
from service.telemetry import logs
from service.telemetry.metrics import CLOSE_CODES, HTTP_STATUSES, Metrics, status_label
from service.telemetry.redact import Redactor
from tests.support.harness import open_raw, simulated_relay

SECRET = "CANARY-secret-without-any-shape"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """The log, configured as the process does it, and put back behind."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    out = io.StringIO()
    logs.configure("json", "info", Redactor([Secret(SECRET)]), out)
    yield out
    structlog.reset_defaults()
    root.handlers[:], root.level = before
    for name in ("aiohttp.access", "aiohttp.websocket"):
        logging.getLogger(name).disabled = False


def test_secrets_are_redacted_wherever_they_hide(stream: io.StringIO) -> None:
    """In strings, bytes, lists, mappings, objects, tracebacks and other libraries' messages, a secret is hidden."""
    log = structlog.get_logger()

    class Holder:
        def __str__(self) -> str:
            return f"holds {SECRET}"

    log.info("a.b", text=f"x {SECRET}", raw=SECRET.encode(), many=[SECRET, {"k": SECRET}], thing=Holder(), number=5)
    try:
        raise ValueError(f"bad {SECRET}")  # noqa: TRY301 - the traceback is what is tested
    except ValueError:
        log.exception("c.d")
    logging.getLogger("some.library").warning("said %s and sk-proj-abcdef123456", SECRET)
    logging.getLogger("aiohttp.websocket").warning("Client protocols %s", SECRET)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]

    assert "CANARY" not in stream.getvalue()
    assert "abcdef" not in stream.getvalue()
    assert ["a.b", "c.d", "library.logged"] == [line["event"] for line in lines]
    assert list(lines[0])[:3] == ["timestamp", "level", "event"]
    assert lines[0]["number"] == 5
    assert "ValueError" in lines[1]["exception"]


def test_what_a_client_writes_stays_on_one_line(stream: io.StringIO) -> None:
    """Line breaks, escapes and control characters in a value make no second line."""
    structlog.get_logger().info("a.b", agent='x\r\n{"event":"forged"}\x1b[31m\u202e%s{}')

    assert len(stream.getvalue().splitlines()) == 1


def test_series_start_at_zero() -> None:
    """Each reason of a dial has a series before it ever happens."""
    text = generate_latest(Metrics("openai").registry).decode()

    for reason in DIAL_FAILURES:
        assert f'reason="{reason}"' in text, reason
    assert 'realtime_relay_admissions_total{result="internal_error"} 0.0' in text
    assert 'phase="access",reason="internal_error",status="500",upstream="openai"} 0.0' in text
    for reason in ("upstream_lost", "relay_draining"):
        assert f'realtime_relay_sessions_ended_total{{reason="{reason}"}} 0.0' in text


@pytest.mark.parametrize(
    ("http", "close", "label"),
    [
        (401, None, "401"),
        (418, None, "other_http"),
        (None, 3000, "3000"),
        (None, 4999, "other_close"),
        (None, None, "none"),
    ],
)
def test_status_labels_are_a_closed_set(http: int | None, close: int | None, label: str) -> None:
    """A status that is not published is counted under its kind."""
    assert label == status_label(http, close)
    assert len(HTTP_STATUSES | CLOSE_CODES) < 60


def test_every_failure_can_be_counted() -> None:
    """Whatever the reason and phase, counting works, and adds one."""
    metrics = Metrics("azure")
    for reason in CATALOGUE:
        metrics.count_dial_failure(Failure(reason, Phase.UPGRADE, http_status=599))

    labels = {"upstream": "azure", "phase": "upgrade", "status": "other_http", "reason": "bad_reply"}
    assert metrics.registry.get_sample_value("realtime_relay_connection_failures_total", labels) == 1


async def test_nothing_from_outside_becomes_a_label() -> None:
    """A flood of odd models, events and close codes makes no new series, and a scrape stays small."""
    async with simulated_relay() as relay:
        first = await open_raw(relay.app.public_port)
        await first.next_event()
        before = {line.rsplit(" ", 1)[0] for line in relay.metrics_text().splitlines() if not line.startswith("#")}
        for number in range(30):
            client = await open_raw(relay.app.public_port, f"/v1/realtime?model=odd-{number}&x{number}=y")
            await client.close()
            first.send_event(type=f"odd.event.{number}")
            await first.next_event()
        await first.close()
        after = {line.rsplit(" ", 1)[0] for line in relay.metrics_text().splitlines() if not line.startswith("#")}

    assert set() == after - before
    assert len(relay.metrics_text()) < 200_000


async def test_requests_of_strangers_are_not_logged(stream: io.StringIO) -> None:
    """A request that cannot be parsed leaves its kind of mistake in the log, and nothing of its lines."""
    async with simulated_relay() as relay:
        for line in (b"api-key: CANARY\x00", b"Sec-WebSocket-Protocol: realtime, CANARY\x00"):
            reader, writer = await asyncio.open_connection("127.0.0.1", relay.app.public_port)
            writer.write(b"GET /v1/realtime?key=CANARY HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n")
            assert b" 400 " in await reader.read(100)
            writer.close()
            await writer.wait_closed()

    assert "bad request" in stream.getvalue()
    assert "CANARY" not in stream.getvalue()


def test_new_secrets_do_not_push_the_old_ones_out() -> None:
    """However many keys rotate, what was secret at the start stays secret."""
    own = [Secret(f"CANARY-own-secret-{number:03}") for number in range(70)]
    redactor = Redactor(own)
    for number in range(200):
        redactor.add(Secret(f"CANARY-new-secret-{number:03}"))

    text = " ".join(secret.reveal() for secret in own) + " CANARY-new-secret-199"
    assert "CANARY" not in redactor.redact(text)
