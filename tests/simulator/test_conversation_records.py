"""What the simulator records of a conversation, in process and over HTTP."""

import asyncio
import base64
from typing import Any

import aiohttp
import pytest
from yarl import URL

from service.simulator import Simulator, SimulatorOptions
from service.simulator.numbered import numbered_audio
from tests.support.harness import within
from tests.support.simulator_client import RealtimeClient, connect, silence

OPTIONS = SimulatorOptions(
    pace=0, keep_conversations=True, numbered_answers=True, control=True, rate_limits_delay_seconds=0
)
HEADERS = {"X-Simulator-Control": "1"}


async def converse(client: RealtimeClient) -> None:
    """A spoken turn, one created as audio, a function call, a truncation, a deletion, an update and a mistake."""
    await client.append_audio(silence(300) + numbered_audio(0, 9_600) + silence(300))
    answer = (await client.read_until("response.done"))[-1]["response"]["output"][0]["id"]
    part = {"type": "input_audio", "audio": base64.b64encode(numbered_audio(12_000, 4_800)).decode()}
    item = {"id": "created", "type": "message", "role": "user", "content": [part]}
    await client.send("conversation.item.create", item=item)
    await client.read_until("conversation.item.done")
    await client.send("conversation.item.truncate", item_id=answer, content_index=0, audio_end_ms=100)
    await client.read_until("conversation.item.truncated")
    await client.send("conversation.item.delete", item_id="created")
    await client.read_until("conversation.item.deleted")
    await client.update_session(instructions="Be brief.")
    tool = {"type": "function", "name": "look_up"}
    await client.send("response.create", response={"tools": [tool], "tool_choice": "required", "metadata": {"a": "b"}})
    await client.read_until("response.done")
    await client.send("no.such", event_id="mine")
    await client.read_until("error")


async def test_conversation_is_recorded() -> None:
    """Turns with their samples, answers, the items that are left, each configuration, errors and all events."""
    async with Simulator(OPTIONS) as sim:
        async with connect(sim) as client:
            await converse(client)
        [record] = sim.connections
        await record.wait_closed()
    conversation = record.conversation
    assert conversation is not None
    turns = [(turn.how, turn.samples) for turn in conversation.turns]
    assert turns == [("vad", ((0, 9_600),)), ("created", ((12_000, 16_800),))]
    assert conversation.heard == ((0, 9_600),)
    assert [item["type"] for item in conversation.items] == ["message", "message", "function_call"]
    spoken, called = conversation.responses
    assert (spoken.requested, spoken.status, spoken.samples) == ("vad", "completed", (0, 24 * 900))
    assert spoken.text.split() == [str(number) for number in range(9)]
    assert (called.requested, called.metadata, called.samples) == ("client", {"a": "b"}, None)
    assert called.call_id == conversation.items[2]["call_id"]
    assert conversation.truncated == [(spoken.item_id, 100)]
    assert conversation.deleted == ["created"]
    assert len(conversation.sessions) == 2
    assert conversation.sessions[1]["instructions"] == "Be brief."
    assert [error["event_id"] for error in conversation.errors] == ["mine"]
    assert conversation.events[0] == ("out", "session.created")
    assert ("in", "no.such") in conversation.events
    assert conversation.event_count == len(conversation.events)


async def test_heard_samples_are_those_that_arrived() -> None:
    """Also what was never committed, in appends of any size, twice if it was sent twice."""
    async with Simulator(OPTIONS) as sim:
        async with connect(sim) as client:
            await client.update_audio_input(turn_detection=None)
            await client.append_audio(numbered_audio(100, 5_000), chunk=998)
            await client.append_audio(numbered_audio(200, 1_000), chunk=777)
            await client.update_session()
        [record] = sim.connections
        assert record.conversation is not None
        assert record.conversation.heard == ((100, 5_100), (200, 1_200))
        assert record.conversation.turns == []


async def test_sent_events_are_awaited() -> None:
    """By type and count; without records there is nothing to wait for."""
    async with Simulator(OPTIONS) as sim, connect(sim) as client:
        [record] = sim.connections
        waiter = asyncio.create_task(record.wait_sent("session.updated", 2))
        await client.update_session()
        assert not waiter.done()
        await client.update_session()
        await within(waiter, 5)
    async with Simulator() as sim, connect(sim):
        assert sim.connections[0].conversation is None
        with pytest.raises(RuntimeError, match="keep_conversations"):
            await sim.connections[0].wait_sent("session.updated")


async def ask(sim: Simulator, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, Any]:
    """One request to the control; return status and body."""
    options.setdefault("headers", HEADERS)
    async with aiohttp.ClientSession() as http:
        url = URL(sim.url).with_path(path) if "?" not in path else URL(sim.url).join(URL(path))
        async with http.request(method, url, json=body, **options) as response:
            is_json = response.content_type == "application/json"
            return response.status, await response.json() if is_json else await response.text()


async def test_another_process_sets_dials_and_reads_records() -> None:
    """By lane; what was said is in the answer."""
    fault = {"moment": "after-sent", "event": "session.updated", "end": "close:1012:restart"}
    behaviour = {"session_seconds": 30, "expires_at": "absent", "faults": [fault]}
    async with Simulator(OPTIONS) as sim:
        body = {"lane": "a", "dials": [behaviour]}
        assert await ask(sim, "POST", "/simulator/dials", body) == (200, {"dials": 1})
        async with connect(sim, "model=gpt-realtime&simulate_lane=a") as client:
            session = await client.update_session(instructions="Hello.")
            assert "expires_at" not in session
            assert await client.read_close() == (1012, "restart")
        async with connect(sim) as client:
            await converse(client)
            assert await ask(sim, "POST", "/simulator/drop", {"end": "fin"}) == (200, {"dropped": 1})
        status, records = await ask(sim, "GET", "/simulator/records?lane=a")
        assert (status, len(records["dials"])) == (200, 1)
        assert records["dials"][0]["ended_by"] == "after-sent session.updated 1: close:1012:restart"
        assert records["dials"][0]["conversation"]["sessions"][1]["instructions"] == "Hello."
        _, records = await ask(sim, "GET", "/simulator/records")
        assert records["dials"][1]["conversation"]["turns"][0]["samples"] == [[0, 9_600]]
        assert records["dials"][1]["conversation"]["responses"][0]["samples"] == [0, 24 * 900]


async def test_call_is_ended_over_http() -> None:
    """Its sideband is refused with 404."""
    async with Simulator(SimulatorOptions(control=True, call_ids=frozenset({"rtc_1"}))) as sim:
        assert (await ask(sim, "POST", "/simulator/end_call", {"call_id": "rtc_1"}))[0] == 200
        with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
            async with connect(sim, "call_id=rtc_1"):
                pass


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/simulator/dials", {"dials": [{"no_such": 1}]}),
        ("POST", "/simulator/dials", {"dials": [{"expires_at": "soon"}]}),
        ("POST", "/simulator/dials", {"dials": [{"faults": [{"moment": "never", "end": "fin"}]}]}),
        ("POST", "/simulator/dials", {"dials": [{"faults": [{"end": "fin"}]}]}),
        ("POST", "/simulator/dials", ["dials"]),
        ("POST", "/simulator/drop", {"end": "explode"}),
        ("POST", "/simulator/drop", {"end": "error:code"}),
        ("GET", "/simulator/drop", None),
        ("GET", "/simulator/no_such", None),
    ],
)
async def test_control_refuses_mistakes(method: str, path: str, body: Any) -> None:
    """With 400 and what is wrong."""
    async with Simulator(OPTIONS) as sim:
        status, answer = await ask(sim, method, path, body)
        assert status == 400
        assert answer["error"]
        assert sim.dials_left() == 0


async def test_control_needs_its_header_and_its_option() -> None:
    """A web page cannot add the header; without the option the address does not exist."""
    async with Simulator(OPTIONS) as sim:
        assert (await ask(sim, "GET", "/simulator/records", headers={}))[0] == 403
    async with Simulator() as sim:
        authorization = {**HEADERS, "Authorization": "Bearer sk-sim-good"}
        assert (await ask(sim, "GET", "/simulator/records", headers=authorization))[0] == 404
