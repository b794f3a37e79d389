"""service/telemetry/logs.py and redact.py: what a log line holds, and what it never holds."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from service.realtime.keys import Secret
from service.telemetry import logs
from service.telemetry.redact import Redactor
from tests.support.harness import simulated_relay

SECRET = "CANARY-secret-without-any-shape"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """The JSON log of this process, configured as the relay configures it; restored afterwards."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    out = io.StringIO()
    logs.configure("json", "info", Redactor([Secret(SECRET)]), out)
    yield out
    structlog.reset_defaults()
    root.handlers[:], root.level = before
    for name in ("aiohttp.access", "aiohttp.websocket"):
        logging.getLogger(name).disabled = False


def test_secrets_are_redacted_in_values_of_any_type(stream: io.StringIO) -> None:
    """In strings, bytes, lists, mappings, objects, tracebacks and messages of other libraries."""
    log = structlog.get_logger()

    class Holder:
        def __str__(self) -> str:
            return f"holds {SECRET}"

    log.info("a.b", text=f"x {SECRET}", raw=SECRET.encode(), many=[SECRET, {"k": SECRET}], thing=Holder(), number=5)
    try:
        raise ValueError(f"bad {SECRET}")  # noqa: TRY301 - the traceback is what is tested
    except ValueError:
        log.exception("c.d")
    logging.getLogger("some.library").warning("got %s and sk-proj-abcdef123456", SECRET)
    logging.getLogger("aiohttp.websocket").warning("Client protocols %s", SECRET)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]

    assert "CANARY" not in stream.getvalue()
    assert "abcdef" not in stream.getvalue()
    assert ["a.b", "c.d", "library.logged"] == [line["event"] for line in lines]
    assert list(lines[0])[:3] == ["timestamp", "level", "event"]
    assert lines[0]["number"] == 5
    assert "ValueError" in lines[1]["exception"]


def test_json_line_keeps_none_and_field_order(stream: io.StringIO) -> None:
    """A field that is None is null in JSON; time, level and event come first, the others in the order of the call."""
    structlog.get_logger().info("a.b", reason=None, message="m", remedy="r", count=0, empty="")
    (line,) = stream.getvalue().splitlines()
    timestamp = json.loads(line)["timestamp"]

    assert (
        f'{{"timestamp": "{timestamp}", "level": "info", "event": "a.b", "reason": null, "message": "m", "remedy": "r", '
        '"count": 0, "empty": ""}'
    ) == line


def test_json_value_stays_on_one_line(stream: io.StringIO) -> None:
    """Line breaks, escapes and control characters in a value make no second line."""
    structlog.get_logger().info("a.b", agent='x\r\n{"event":"forged"}\x1b[31m\u202e%s{}')

    assert len(stream.getvalue().splitlines()) == 1


async def test_request_that_cannot_be_parsed_is_not_logged(stream: io.StringIO) -> None:
    """The log of both ports holds the reason, and nothing of the request."""
    async with simulated_relay() as relay:
        for port in (relay.app.public_port, relay.app.internal_port):
            for line in (b"api-key: CANARY\x00", b"Sec-WebSocket-Protocol: realtime, CANARY\x00"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET /v1/realtime?key=CANARY HTTP/1.1\r\nHost: localhost\r\n" + line + b"\r\n\r\n")
                assert b" 400 " in await reader.read(100)
                writer.close()
                await writer.wait_closed()

    assert ["bad_request"] * 4 == [line["reason"] for line in relay.events("admission.refused")]
    assert "CANARY" not in stream.getvalue() + str(relay.logs)


def test_redactor_keeps_first_secrets_when_many_are_added() -> None:
    """The number of keys that a rotation adds is bounded; the secrets of the start are kept."""
    own = [Secret(f"CANARY-own-secret-{number:03}") for number in range(70)]
    redactor = Redactor(own)
    for number in range(200):
        redactor.add(Secret(f"CANARY-new-secret-{number:03}"))

    text = " ".join(secret.reveal() for secret in own) + " CANARY-new-secret-199"
    assert "CANARY" not in redactor.redact(text)
