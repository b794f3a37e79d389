"""Sidebands across a loss: all that the call sends is the client's, and counts once."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from service.realtime.frames import Opcode, build_frame
from service.relay.continuity.sideband import SidebandContinuity
from tests.clients_file.relays import TOKENS, table, write
from tests.support.harness import Relay, eventually, open_raw
from tests.support.raw_websocket_server import ServerConnection
from tests.support.scripted_upstream import scripted_relay

PATH: Final = "/v1/realtime?call_id=rtc_1&model=scripted&continuity=renew"
FORWARDED: Final = "realtime_relay_forwarded_messages_total"
USAGE: Final = {
    "total_tokens": 100,
    "input_tokens": 60,
    "output_tokens": 40,
    "input_token_details": {"text_tokens": 60, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 0},
    "output_token_details": {"text_tokens": 40, "audio_tokens": 0},
}


def event(event_type: str, **fields: Any) -> bytes:
    """An event of the call."""
    return json.dumps({"type": event_type, **fields}).encode()


def response(event_type: str, response_id: str, **fields: Any) -> bytes:
    """An event that a response of the call begins or ends."""
    return event(event_type, response={"id": response_id, **fields})


async def rejoined(relay: Relay) -> None:
    """Wait until the call was joined again."""
    await eventually(lambda: relay.metric("realtime_relay_swaps_total", cause="loss", result="ok") == 1)


class Joins:
    """The connections to the call, in order. `__call__` is the script of its server."""

    def __init__(self) -> None:
        self.connections: list[ServerConnection] = []

    async def __call__(self, connection: ServerConnection) -> None:
        """Note a connection, and leave it open."""
        self.connections.append(connection)
        await connection.read_until_eof()


async def test_event_that_comes_with_the_101_is_the_clients() -> None:
    """A client that misses the arguments of a function never answers them."""
    arguments = event("response.function_call_arguments.done", call_id="call_1", arguments="{}")
    joins = Joins()
    first_events = event("session.created", session={"type": "realtime"}), arguments
    behind_101 = b"".join(build_frame(Opcode.TEXT, payload) for payload in first_events)
    async with scripted_relay(joins, behind_101=behind_101) as (relay, _):
        client = await open_raw(relay.app.public_port, PATH)
        try:
            first = [(await client.next_event())["type"] for _ in range(2)]
            joins.connections[0].reset()
            await rejoined(relay)
            joins.connections[1].send(event("response.done", response={"id": "resp_1"}))
            again = [(await client.next_event())["type"] for _ in range(2)]
        finally:
            await client.close()
    assert first == ["session.created", "response.function_call_arguments.done"]
    assert again == ["response.function_call_arguments.done", "response.done"]


async def test_connection_that_ends_with_its_101_is_replaced() -> None:
    """It was joined, and lost at once."""

    class Ending(Joins):
        async def __call__(self, connection: ServerConnection) -> None:
            self.connections.append(connection)
            if len(self.connections) == 2:
                connection.send_close(1011)
            await connection.read_until_eof()

    joins = Ending()
    async with scripted_relay(joins) as (relay, _):
        client = await open_raw(relay.app.public_port, PATH)
        try:
            await eventually(lambda: len(joins.connections) == 1)
            joins.connections[0].reset()
            await eventually(lambda: relay.metric("realtime_relay_swaps_total", cause="loss", result="ok") == 2)
            joins.connections[2].send(event("response.done", response={"id": "resp_1"}))
            assert (await client.next_event())["type"] == "response.done"
        finally:
            await client.close()


async def test_response_that_goes_on_over_a_loss_counts_once_for_the_budget(tmp_path: Path) -> None:
    """The call answers on, whether its sideband is there or not, and reports the tokens to the next one."""
    file = tmp_path / "clients.toml"
    write(file, table("kiosk", "tokens_per_day = 1000000"))
    headers = {"Authorization": f"Bearer {TOKENS['kiosk']}"}
    joins = Joins()
    async with scripted_relay(joins, RELAY_CLIENTS_FILE=str(file)) as (relay, _):
        client = await open_raw(relay.app.public_port, PATH, headers)
        try:
            await eventually(lambda: len(joins.connections) == 1)
            joins.connections[0].send(response("response.created", "resp_1"))
            joins.connections[0].send(response("response.done", "resp_1", status="completed", usage=USAGE))
            joins.connections[0].send(response("response.created", "resp_2"))
            for _ in range(3):
                await client.next_event()
            joins.connections[0].reset()
            await rejoined(relay)
            joins.connections[1].send(response("response.done", "resp_2", status="completed", usage=USAGE))
            assert (await client.next_event())["type"] == "response.done"
            [session] = relay.app.sessions
            assert session._budget is not None
            assert not session._budget.is_response_running
            assert session._reporter.spending.tokens == 200
            assert not session._reporter.spending.is_estimated
        finally:
            await client.close()


@pytest.mark.parametrize(
    "content",
    [{"image_url": "A" * 1_200_000}, {"many": [0] * 20_000}],
    ids=["more than a megabyte", "more values than are parsed"],
)
@pytest.mark.parametrize("sender", ["upstream", "client"])
async def test_large_event_of_a_call_ends_no_continuity(sender: str, content: dict[str, Any]) -> None:
    """Such as a picture of the caller: nothing of the call is sent again."""
    large = {"item": {"id": "item_1", "type": "message", "role": "user", "content": [content]}}
    joins = Joins()
    async with scripted_relay(joins) as (relay, _):
        client = await open_raw(relay.app.public_port, PATH)
        try:
            await eventually(lambda: len(joins.connections) == 1)
            if sender == "client":
                client.send_event(type="conversation.item.create", **large)
                client.send_event(type="response.create")
                await eventually(lambda: relay.metric(FORWARDED, direction="client_to_upstream") == 2)
            else:
                joins.connections[0].send(event("conversation.item.added", **large))
                assert (await client.next_event())["type"] == "conversation.item.added"
            joins.connections[0].reset()
            await rejoined(relay)
            assert not relay.events("session.not_renewable")
        finally:
            await client.close()


def test_call_that_no_connection_joins_keeps_nothing() -> None:
    """While it closes, what the client has sent and still sends is not held."""
    continuity = SidebandContinuity()
    continuity.upstream_lost(0.0)
    continuity.keep_client("response.create", bytes(200_000), 0.0)
    continuity.keep_appends([bytes(70_000)], 0.0, 0.0)
    assert continuity.is_full

    continuity.give_up("ended")
    continuity.keep_client("response.create", bytes(1000), 1.0)
    continuity.keep_appends([bytes(1000)], 1.0, 1.0)

    assert (0, [], False) == (continuity.kept_bytes, continuity._frames, continuity.is_full)
