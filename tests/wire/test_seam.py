"""The takeover from aiohttp on both sides: no byte is lost, and aiohttp's counts of connections stay right."""

import asyncio
import os
from typing import Any

import pytest
from aiohttp import web
from aiohttp._websocket.helpers import websocket_mask

from service.realtime.frames import Masking, Opcode, _mask_with_integers, build_frame, unmask
from tests.support.harness import Relay, eventually, open_raw, running_relay, within
from tests.support.raw_websocket_server import CREATED, ServerConnection, raw_upstream

PATH = "/v1/realtime?model=scripted"
SECOND = b'{"type":"conversation.created","event_id":"event_2","conversation":{"id":"conv_1"}}'


def upstream_connections(relay: Relay) -> int:
    """The number of sockets that aiohttp's connector counts."""
    connector = relay.app.monitor._dialler.session.connector
    assert connector is not None
    return len(connector._acquired) + sum(map(len, connector._conns.values()))


def client_connections(relay: Relay) -> int:
    """The number of sockets that aiohttp's public server counts."""
    exits: Any = relay.app._stack
    owners = [getattr(getattr(call, "__wrapped__", None), "__self__", None) for _, call in exits._exit_callbacks]
    runner = next(owner for owner in owners if isinstance(owner, web.AppRunner))  # the public one is the first
    assert runner.server is not None
    return len(runner.server.connections)


@pytest.mark.parametrize("cut", [0, 1, 2, 40, len(SECOND) + 2])
async def test_bytes_behind_an_upstream_101_reach_the_client_unchanged(cut: int) -> None:
    """In the same segment as the 101: the first event, and nothing, a part or all of a second one."""
    first, second = build_frame(Opcode.TEXT, CREATED), build_frame(Opcode.TEXT, SECOND)
    send_rest = asyncio.Event()

    async def script(connection: ServerConnection) -> None:
        await send_rest.wait()
        connection.writer.write(second[cut:])
        await connection.wait_closed()

    async with (
        raw_upstream(script, behind_101=first + second[:cut]) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        client = await open_raw(relay.app.public_port, PATH)
        assert first == await client.next_item()
        send_rest.set()
        assert second == await client.next_item()
        await client.close()


async def test_bytes_behind_a_client_upgrade_reach_upstream_in_order() -> None:
    """200 kB sent before the 101, and a frame after it."""
    frames = [build_frame(Opcode.TEXT, os.urandom(5000), os.urandom(4)) for _ in range(40)]
    late = build_frame(Opcode.TEXT, b'{"type":"session.update"}', os.urandom(4))
    expected = b"".join(frames) + late
    answer_now = asyncio.Event()
    arrived = asyncio.get_running_loop().create_future()

    async def script(connection: ServerConnection) -> None:
        await answer_now.wait()
        connection.send(CREATED)
        arrived.set_result(await connection.reader.readexactly(len(expected)))
        await connection.wait_closed()

    async with (
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        opening = asyncio.create_task(open_raw(relay.app.public_port, PATH, behind=b"".join(frames)))
        await eventually(lambda: upstream.upgrades == 1)
        answer_now.set()
        client = await opening
        client.writer.write(late)

        assert expected == await within(arrived, 5)
        await client.close()


async def test_aiohttp_counts_no_connection_after_a_session() -> None:
    """And one on each side during it."""

    async def script(connection: ServerConnection) -> None:
        connection.send(CREATED)
        await connection.until_close()
        connection.send_close(1000)

    async with (
        raw_upstream(script) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        await eventually(lambda: relay.app.monitor.ready and upstream_connections(relay) == 0)
        for _ in range(3):
            client = await open_raw(relay.app.public_port, PATH)
            await client.next_event()
            assert (1, 1) == (upstream_connections(relay), client_connections(relay))
            client.send_frame(Opcode.CLOSE, b"\x03\xe8")
            assert (1000, "") == await client.until_close()
            await client.close()
            await eventually(lambda: (upstream_connections(relay), client_connections(relay)) == (0, 0))


async def test_dropped_upgrade_is_requested_once() -> None:
    """The retry that aiohttp makes of a GET is switched off; the relay's, paced and budgeted, has no time left here."""
    heads = []

    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"model=scripted" in head:
            heads.append(head)
        writer.close()

    server = await asyncio.start_server(drop, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    async with server, running_relay(OPENAI_BASE_URL=url, RELAY_MODEL="probe", RELAY_DIAL_TIMEOUT_SECONDS="1") as relay:
        client = await open_raw(relay.app.public_port, PATH)

        assert (502, "dropped_early") == (client.answer.status, client.answer.error["code"])
        assert 1 == len(heads)
        await client.close()


async def test_client_that_disconnects_during_the_dial_closes_upstream() -> None:
    """No session has started, and no connection is left."""
    dropped = asyncio.Event()

    async def silent(connection: ServerConnection) -> None:
        await connection.wait_closed()
        dropped.set()

    async with (
        raw_upstream(silent) as upstream,
        running_relay(OPENAI_BASE_URL=upstream.url, RELAY_MODEL="probe") as relay,
    ):
        opening = asyncio.create_task(open_raw(relay.app.public_port, PATH))
        await eventually(lambda: upstream.upgrades == 1)
        opening.cancel()
        await asyncio.wait({opening})

        await within(dropped.wait(), 2)
        await eventually(lambda: (upstream_connections(relay), client_connections(relay)) == (0, 0))
        assert [] == relay.events("session.started")
        assert 0 == len(relay.app.dials)
        assert ["client_left"] == [event["reason"] for event in relay.events("upstream.connect_failed")]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 125, 6401])
@pytest.mark.parametrize("key", [b"\x01\x7f\x80\xff", b"\0\0\0\0", b"abcd"])
def test_masking_of_aiohttp_is_that_of_the_relay(size: int, key: bytes) -> None:
    """It is compiled, and only faster."""
    data = bytes(number * 7 & 0xFF for number in range(size))
    expected = bytearray(data)
    _mask_with_integers(key, expected)

    assert Masking.in_place is websocket_mask
    assert websocket_mask.__name__ == "_websocket_mask_cython"
    assert bytes(expected) == unmask(data, key)
    assert data == unmask(unmask(data, key), key)
