"""An event's type counts wherever the provider writes it: for the first event, for redaction, incidents and usage."""

import json
from collections.abc import Awaitable, Callable
from typing import Final

import pytest

from service.realtime.frames import Opcode, build_frame
from service.relay.pipe_owner import MAX_REDACTED_BYTES, UNSEARCHED
from service.simulator.options import SimulatorOptions
from tests.support.harness import KEY_CANARY, eventually, open_raw, payload_of, running_relay, simulated_relay
from tests.support.raw_http_relay import connect_once, failure_count, raw_http_relay
from tests.support.raw_http_server import Exchange
from tests.support.raw_websocket_server import CREATED, Script, ServerConnection, raw_upstream
from tests.support.scripted_upstream import PATH, session

ERROR: Final = {
    "type": "invalid_request_error",
    "code": "invalid_api_key",
    "message": f"Incorrect API key provided: {KEY_CANARY}.",
}
_BODY: Final = json.dumps(ERROR).encode()
_ESCAPED_BODY: Final = _BODY.replace(b"sk-sim", b"\\u0073k\\u002dsim")
assert _ESCAPED_BODY != _BODY


def text(payload: bytes) -> bytes:
    """A text frame."""
    return build_frame(Opcode.TEXT, payload)


def sending(frame: bytes) -> Script:
    """An upstream that sends a frame in its session, and an event behind it."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.write(frame)
        connection.send(b'{"type":"session.updated"}')
        await connection.until_close()

    return script


def upgrading(frame: bytes) -> Callable[[Exchange], Awaitable[None]]:
    """An upstream that sends a frame as its first event."""

    async def script(exchange: Exchange) -> None:
        exchange.upgrade()
        exchange.writer.write(frame)
        await exchange.wait_closed()

    return script


def fragments(*pieces: bytes) -> bytes:
    """A text message in fragments."""
    frames = [
        bytearray(build_frame(Opcode.CONTINUATION if n else Opcode.TEXT, piece)) for n, piece in enumerate(pieces)
    ]
    for frame in frames[:-1]:
        frame[0] &= 0x7F
    return b"".join(frames)


_LATE: Final = b'{"tags":["a"],"error":%s,"type":"error"}' % _BODY
ERRORS: Final = {
    "behind-an-array": text(_LATE),
    "behind-a-long-event-id": text(b'{"event_id":"%s","type":"error","error":%s}' % (b"e" * 600, _BODY)),
    "behind-an-object-with-a-type": text(b'{"error":%s,"type":"error"}' % _BODY),
    "behind-null-and-numbers": text(b'{"n":-1.5e+3,"z":null,"a":[],"error":%s,"type":"error"}' % _BODY),
    "escaped-key": text(b'{"\\u0074ype":"error","error":%s}' % _BODY),
    "escaped-value": text(b'{"type":"\\u0065rror","error":%s}' % _BODY),
    "all-escaped": text(b'{"\\u0074\\u0079\\u0070\\u0065":"\\u0065\\u0072ror","error":%s}' % _BODY),
    "type-twice": text(b'{"type":"session.created","error":%s,"type":"error"}' % _BODY),
    "type-twice-escaped": text(b'{"type":"session.created","error":%s,"\\u0074ype":"error"}' % _BODY),
    "type-twice-behind-audio": text(
        b'{"type":"response.output_audio.delta","error":%s,"delta":"%s","type":"error"}' % (_BODY, b"A" * 8000)
    ),
    "spaces-and-lines": text(b'\r\n {\t"error" : %s ,\n "type"\t:\n"error" }\n' % _BODY),
    "byte-order-mark": text(b'\xef\xbb\xbf{"type":"error","error":%s}' % _BODY),
    "binary": build_frame(Opcode.BINARY, b'{"type":"error","error":%s}' % _BODY),
    "binary-late": build_frame(Opcode.BINARY, _LATE),
    "key-split-by-fragments": fragments(_LATE[:-12], _LATE[-12:-9], _LATE[-9:]),
    "second-type-in-a-fragment": fragments(b'{"type":"session.updated","error":%s,' % _BODY, b'"type":"error"}'),
    "empty-fragments": fragments(b"", b"", _LATE, b""),
    "above-64-kib": text(b'{"type":"error","error":%s,"x":"%s"}' % (_BODY, b"x" * 100_000)),
    "above-64-kib-late": text(b'{"error":%s,"x":"%s","type":"error"}' % (_BODY, b"x" * 200_000)),
    "above-64-kib-in-fragments": fragments(_LATE[:-1] + b',"x":"', *[b"x" * 9000] * 12, b'"}'),
    "invalid-utf-8": text(b'{"x":"\xff","error":%s,"type":"error"}' % _BODY),
    "escaped-secret": text(b'{"error":%s,"type":"error"}' % _ESCAPED_BODY),
}
UNTYPED: Final = {
    "no-type": text(b'{"error":%s}' % _BODY),
    "type-is-a-number": text(b'{"type":1,"error":%s}' % _BODY),
    "type-is-an-object": text(b'{"type":{"type":"error"},"error":%s}' % _BODY),
    "array": text(b'[{"type":"error","error":%s}]' % _BODY),
    "plain-text": text(ERROR["message"].encode()),
    "truncated": text(_LATE[:-20]),
    "too-deep": text(b'{"x":%s%s,"error":%s,"type":"error"}' % (b"[" * 100_000, b"]" * 100_000, _BODY)),
}


@pytest.mark.parametrize("frame", ERRORS.values(), ids=ERRORS.keys())
async def test_error_is_redacted_and_counted_wherever_its_type_is(frame: bytes) -> None:
    """Within a session: the client gets the error without the relay's key, and the events behind it."""
    async with session(sending(frame)) as scripted:
        relay, client = scripted.relay, scripted.client
        error = json.loads(payload_of(await client.next_item()).decode("utf-8-sig", "replace"))
        assert "session.updated" == (await client.next_event())["type"]
        await client.close()

        assert ("error", "invalid_api_key") == (error["type"], error["error"]["code"])
        assert KEY_CANARY not in str(error)
        assert 1 == relay.metric("realtime_relay_upstream_error_events_total", code="invalid_api_key")
        assert ["invalid_api_key"] == [line["upstream_code"] for line in relay.events("session.incident_seen")]


@pytest.mark.parametrize("frame", UNTYPED.values(), ids=UNTYPED.keys())
async def test_message_without_a_type_is_redacted(frame: bytes) -> None:
    """It may be an error that the relay does not recognise. The session goes on."""
    async with session(sending(frame)) as scripted:
        client = scripted.client
        assert KEY_CANARY.encode() not in await client.next_item()
        assert "session.updated" == (await client.next_event())["type"]
        await client.close()


@pytest.mark.parametrize("frame", ERRORS.values(), ids=ERRORS.keys())
async def test_first_event_error_is_a_refusal_wherever_its_type_is(frame: bytes) -> None:
    """The client gets the reason instead of a 101, without the provider's text."""
    async with raw_http_relay(upgrading(frame)) as (relay, _):
        answer = await connect_once(relay)

        assert (424, "key_rejected") == (answer.status, answer.error["code"])
        assert KEY_CANARY.encode() not in answer.body
        assert 1 == failure_count(relay, "key_rejected", "none", "first_event")


@pytest.mark.parametrize("frame", UNTYPED.values(), ids=UNTYPED.keys())
async def test_first_message_without_a_type_does_not_open_the_session(frame: bytes) -> None:
    """It does not show that a session exists."""
    async with raw_http_relay(upgrading(frame), RELAY_DIAL_TIMEOUT_SECONDS="0.4") as (relay, _):
        answer = await connect_once(relay)

        assert (504, "first_event_timeout") == (answer.status, answer.error["code"])


@pytest.mark.parametrize("frame", [*ERRORS.values(), UNTYPED["no-type"]], ids=[*ERRORS, "no-type"])
async def test_handshake_check_fails_wherever_the_type_of_the_error_is(frame: bytes) -> None:
    """A refused key does not look healthy."""

    async def script(connection: ServerConnection) -> None:
        connection.writer.write(frame)
        await connection.until_close()

    async with (
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="scripted", RELAY_DIAL_TIMEOUT_SECONDS="0.4") as relay,
    ):
        await eventually(lambda: relay.app.monitor.handshake.status != "unknown")

        assert "pass" != relay.app.monitor.handshake.status
        assert not relay.app.monitor.ready


async def test_messages_without_a_type_before_the_first_event_are_forwarded() -> None:
    """The first event opens the session; the client gets everything in order."""
    async with raw_upstream(_greeting_then_created) as upstream, running_relay(OPENAI_BASE_URL=upstream.url) as relay:
        client = await open_raw(relay.app.public_port, PATH)

        assert b"hello" == payload_of(await client.next_item())
        assert CREATED == payload_of(await client.next_item())
        await client.close()


async def _greeting_then_created(connection: ServerConnection) -> None:
    connection.send(b"hello")
    connection.send(CREATED)
    await connection.until_close()


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b'{"type":"error","error":%s,"x":"%s"}' % (_BODY, b"x" * 1_100_000), id="error"),
        pytest.param(b'{"error":%s,"x":"%s","type":"error"}' % (_BODY, b"x" * 1_100_000), id="unknown"),
    ],
)
async def test_event_too_large_to_be_read_ends_the_session_and_is_not_forwarded(payload: bytes) -> None:
    """The relay cannot redact it, and forwards no byte of it."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.send(payload)
        await connection.until_close()

    async with session(script) as scripted:
        client = scripted.client
        error = await client.next_event()

        assert ("error", "upstream_protocol_error") == (error["type"], error["error"]["code"])
        await client.close()
        assert "upstream_protocol_error" == await scripted.ended(5)


async def test_session_works_with_a_provider_that_writes_the_type_last() -> None:
    """The simulator's conversation over real sockets: opened, answered, counted."""
    async with simulated_relay(SimulatorOptions(pace=0, type_last=True)) as relay:
        client = await open_raw(relay.app.public_port)
        assert "session.created" == (await client.next_event())["type"]
        client.send_event(type="response.create", response={"output_modalities": ["text"]})
        while (await client.next_event())["type"] != "response.done":
            pass
        await client.close()

        counted = "realtime_relay_events_total"
        assert 1 == relay.metric(counted, direction="upstream_to_client", type="response.done")
        assert 0 == relay.metric(counted, direction="upstream_to_client", type="other")


@pytest.mark.parametrize(
    "start", [b'{"type":"error",', b'{"x":[],', b'{"type":"response.done","response":{"status":"failed"},']
)
async def test_event_that_is_too_large_to_be_redacted_ends_the_session(start: bytes) -> None:
    """It may hold the key, and a search of it would delay other sessions. No byte of it is forwarded."""
    payload = start + b'"error":%s,"a":"%s"}' % (_BODY, b"x" * MAX_REDACTED_BYTES)

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        connection.writer.write(text(payload))
        await connection.until_close()

    async with session(script) as scripted:
        error = await scripted.client.next_event()
        assert "upstream_protocol_error" == error["error"]["code"]
        await scripted.client.close()
        assert "upstream_protocol_error" == await scripted.ended()
        assert UNSEARCHED.detail == scripted.relay.events("session.ended")[0]["detail"]
