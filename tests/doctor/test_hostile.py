"""Peers that send arbitrary bytes: each run ends in a finding, without secrets and control characters in the output."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.doctor_chain import (
    KEY_CANARY,
    TOKEN_CANARY,
    ChainReport,
    run_provider_chain,
    run_relay_chain,
    tcp_server,
)
from tests.support.raw_websocket_server import ServerConnection, raw_upstream
from tests.support.tcp_server import Serve

ECHO = b"Incorrect API key provided: " + KEY_CANARY.encode()


def raw_response(data: bytes) -> Serve:
    """Answer every request with these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()

    return serve


def check_report(report: ChainReport) -> None:
    """Check that there is no internal error, no secret and no control character."""
    assert "internal_error" not in report.document
    assert "CANARY" not in report.document
    steps = json.loads(report.document)["rungs"]
    assert all(text.isprintable() for step in steps for text in (step["finding"], *step["notes"]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/1.1 200 OK\r\nDate: nonsense\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nDate: Tue, 99 Foo 0000 99:99:99 GMT\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 999 \x1b[2J\r\nServer: \x1b[31mevil\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[bad\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 401 U\r\nContent-Length: 100000\r\n\r\n" + ECHO,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b'HTTP/1.1 403 F\r\nContent-Length: 50\r\n\r\n{"error":{"type":"relay_error","code":"brand_new"}}',
        b'HTTP/1.1 403 F\r\nContent-Length: 43\r\n\r\n{"error":{"type":"relay_error","code":[7]}}',
        b"HTTP/1.1 500 E\r\nContent-Type: text/html\r\nContent-Length: 220\r\n\r\n<html><title>\x1b[2J " + ECHO[:200],
    ],
)
async def test_hostile_http_response_fails_a_step(tmp_path: Path, data: bytes) -> None:
    """The same bytes go to the provider's chain, and to the relay's without and with an origin."""
    async with tcp_server(raw_response(data)) as port:
        environ = {"OPENAI_API_KEY": KEY_CANARY, "RELAY_DIAL_TIMEOUT_SECONDS": "0.5"}
        url = f"http://127.0.0.1:{port}"
        reports = [
            await run_provider_chain(environ | {"OPENAI_BASE_URL": f"{url}/v1"}, tmp_path),
            await run_relay_chain(url, token=TOKEN_CANARY, timeout_seconds=0.5),
            await run_relay_chain(url, token=TOKEN_CANARY, origin="http://a.example", timeout_seconds=0.5),
        ]

    for report in reports:
        check_report(report)
        assert report.failed_step is not None


@pytest.mark.parametrize(
    "event",
    [
        b"",
        b"null",
        b'{"type":"\xff"}',
        b'{"type":"session.created","session":{"model":"\\u001b[2J ' + KEY_CANARY.encode() + b'"}}',
        b'{"type":"session.created","session":{"model":"' + b"x" * 200_000 + b'"}}',
        b'{"type":"error"}',
        b'{"type":"error","error":{"type":"relay_error","code":7}}',
        b'{"type":"error","error":{"type":"relay_error","code":"brand_new"}}',
        b'{"type":"error","error":{"message":"' + ECHO + b'"}}',
    ],
)
async def test_hostile_first_event_ends_in_a_finding(tmp_path: Path, event: bytes) -> None:
    """An `error` event and a message without a type fail the step, any other event passes it."""

    async def send(connection: ServerConnection) -> None:
        connection.send(event)
        await connection.until_close()

    passes = b"type" in event and b"error" not in event
    seconds = 8.0 if passes else 0.5
    async with raw_upstream(send) as upstream:
        environ = {"OPENAI_API_KEY": KEY_CANARY, "RELAY_MODEL": "scripted", "RELAY_DIAL_TIMEOUT_SECONDS": str(seconds)}
        url = f"{upstream.url}/realtime?model=scripted"
        reports = [
            await run_provider_chain(environ | {"OPENAI_BASE_URL": upstream.url}, tmp_path),
            await run_relay_chain(url, token=KEY_CANARY, timeout_seconds=seconds),
        ]

    for report in reports:
        check_report(report)
        assert ("ok" if passes else "fail") == report["first_event"].status
