"""The models that a client of GPT-Live requests: those of the session, and those of what it delegates to."""

from typing import Any

import pytest

from service.realtime.frames import Opcode, build_frame
from tests.support.harness import eventually
from tests.support.live_upstream import MODEL, live_connection, live_session
from tests.web.test_live_starts import start_with


@pytest.mark.parametrize(
    ("session", "allowed", "reason"),
    [
        ({}, "", "model_missing"),
        ({"model": None}, "", "model_missing"),
        ({"model": "gpt-other"}, MODEL, "model_refused"),
        (
            {"model": MODEL, "delegation": {"type": "responses", "responses": {"model": "gpt-x"}}},
            MODEL,
            "model_refused",
        ),
        (
            {"model": MODEL, "delegation": {"type": "decisions", "decisions": {"model": "gpt-x"}}},
            MODEL,
            "model_refused",
        ),
        (
            {"model": MODEL, "delegation": {"responses": {"tools": [{"type": "image_generation", "model": "gpt-x"}]}}},
            MODEL,
            "model_refused",
        ),
        (
            {"model": MODEL, "triggers": [{"type": "decisions", "decisions": {"model": "gpt-x"}}]},
            MODEL,
            "model_refused",
        ),
    ],
)
async def test_model_that_is_missing_or_not_allowed_is_refused(
    session: dict[str, Any], allowed: str, reason: str
) -> None:
    """That of the session, and those of what it delegates to; nothing is sent upstream."""
    async with live_connection(RELAY_ALLOWED_MODELS=allowed) as live:
        live.client.send_frame(Opcode.TEXT, start_with(**session))
        event = await live.client.next_event()

        assert (reason, 4000) == (event["error"]["code"], (await live.client.until_close() or (0,))[0])
        assert reason == (await live.failed())["reason"]
        assert {("session_start", reason, "4000"): 1} == live.failures()
        assert [] == live.upstream.received


async def test_allowed_backend_passes() -> None:
    """Each model that the start names is on the list."""
    session = {"model": MODEL, "delegation": {"type": "responses", "responses": {"model": "gpt-x"}}}
    async with live_connection(RELAY_ALLOWED_MODELS=f"{MODEL},gpt-x") as live:
        live.client.send_frame(Opcode.TEXT, start_with(**session))
        assert "session.started" == (await live.client.next_event())["type"]


@pytest.mark.parametrize(
    "update",
    [
        b'{"type":"session.update","session":{"delegation":{"responses":{"model":"gpt-x"}}}}',
        b'{"type":"session.update","session":{"delegation":{"responses":{"model":"gpt-live-1","model":"gpt-x"}}}}',
        b'{"type":"session.update","session":{"delegation":{"responses":{"mod\\u0065l":"gpt-x"}}}}',
        b'{"type":"session.input_audio.append","type":"session.update","session":{"delegation":{"responses":{"model":"gpt-x"}}}}',
        b'{"session":{"delegation":{"responses":{"model":"gpt-x"}}},"type":"session.upd\\u0061te"}',
        b'{"audio":"'
        + b"A" * 100_000
        + b'","type":"session.update","session":{"delegation":{"decisions":{"model":"gpt-x"}}}}',
    ],
)
@pytest.mark.parametrize("is_fragmented", [False, True])
async def test_update_cannot_request_a_model_that_is_not_allowed(update: bytes, is_fragmented: bool) -> None:
    """However it is written; the client gets an error event, and the session goes on."""
    async with live_session(RELAY_ALLOWED_MODELS=MODEL) as live:
        if is_fragmented:
            first = bytearray(build_frame(Opcode.TEXT, update[:40], b"abcd"))
            first[0] &= 0x7F
            rest = bytearray(build_frame(Opcode.TEXT, update[40:], b"efgh"))
            rest[0] = 0x80
            live.client.writer.write(bytes(first + rest))
        else:
            live.client.send_frame(Opcode.TEXT, update)
        assert (await live.client.next_event())["error"]["code"] in {"model_refused", "start_invalid"}
        live.client.send_event(type="session.update", session={"delegation": None})
        await eventually(lambda: live.upstream.types == ["session.start", "session.update"])
