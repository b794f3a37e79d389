"""Peers that send anything: the climb ends in a finding, and nothing of theirs reaches a terminal as it came."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.support.doctor_chain import (
    KEY_CANARY,
    TOKEN_CANARY,
    ChainReport,
    bare_server,
    run_provider_chain,
    run_relay_chain,
)
from tests.support.raw_websocket_server import Wire, raw_upstream
from tests.support.tcp_server import Serve

ECHO = b"Incorrect API key provided: " + KEY_CANARY.encode()


def sending(data: bytes) -> Serve:
    """Answer every request with these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(data)
        await writer.drain()

    return serve


def check(report: ChainReport) -> None:
    """No fault of the doctor's own, no secret, no character that moves a cursor."""
    assert "The doctor itself failed" not in report.printed
    assert "CANARY" not in report.printed
    texts = [text for rung in json.loads(report.printed)["rungs"] for text in (rung["finding"], *rung["notes"])]
    assert all(text.isprintable() for text in texts)


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
async def test_any_answer(tmp_path: Path, data: bytes) -> None:
    """Whatever comes instead of an answer, to the provider's chain and to the relay's, breaks a rung."""
    async with bare_server(sending(data)) as port:
        environ = {"OPENAI_API_KEY": KEY_CANARY, "RELAY_DIAL_TIMEOUT_SECONDS": "0.5"}
        reports = [
            await run_provider_chain(environ | {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}, tmp_path),
            await run_relay_chain(f"http://127.0.0.1:{port}", token=TOKEN_CANARY, seconds=0.5),
            await run_relay_chain(
                f"http://127.0.0.1:{port}", token=TOKEN_CANARY, origin="http://a.example", seconds=0.5
            ),
        ]

    for report in reports:
        check(report)
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
async def test_any_first_event(tmp_path: Path, event: bytes) -> None:
    """Whatever comes as the first event ends the climb in a finding."""

    async def send(wire: Wire) -> None:
        wire.send(event)
        await wire.until_close()

    async with raw_upstream(send) as upstream:
        environ = {"OPENAI_API_KEY": KEY_CANARY, "RELAY_MODEL": "scripted", "RELAY_DIAL_TIMEOUT_SECONDS": "0.5"}
        reports = [
            await run_provider_chain(environ | {"OPENAI_BASE_URL": upstream.url}, tmp_path),
            await run_relay_chain(f"{upstream.url}/realtime?model=scripted", token=KEY_CANARY, seconds=0.5),
        ]

    for report in reports:
        check(report)
        assert ("fail" if b"error" in event else "ok") == report["first_event"].status
