"""Faults at named points of a connection: what the client receives before, how the connection ends, what is recorded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from random import Random

import aiohttp
import pytest
from yarl import URL

from service.simulator import Behaviour, ConnectionRecord, End, Fault, Moment, Simulator, SimulatorOptions
from service.simulator.numbered import numbered_audio
from tests.support.harness import within
from tests.support.random_conversation import ConnectionLost, Heard, play, random_script
from tests.support.simulator_client import Event, RealtimeClient, connect, event_types, silence

OPTIONS = SimulatorOptions(pace=0, keep_conversations=True, numbered_answers=True, rate_limits_delay_seconds=0)


@asynccontextmanager
async def failing(*faults: Fault) -> AsyncIterator[tuple[RealtimeClient, ConnectionRecord]]:
    """A session that fails in this way."""
    async with Simulator(OPTIONS) as sim:
        sim.set_dials(Behaviour(faults=faults))
        async with connect(sim) as client:
            yield client, sim.connections[0]


async def read_to_end(client: RealtimeClient) -> tuple[list[Event], aiohttp.WSMessage]:
    """Read all events; return them and what ended the connection."""
    events = list[Event]()
    while (message := await client.ws.receive(5)).type is aiohttp.WSMsgType.TEXT:
        events.append(message.json())
    return events, message


async def ask(client: RealtimeClient) -> None:
    """Write and ask for an answer in text."""
    content = [{"type": "input_text", "text": "one two three"}]
    await client.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    await client.send("response.create", response={"output_modalities": ["text"]})


async def raw_dial(sim: Simulator) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a WebSocket without a library; the reader is behind the 101."""
    url = URL(sim.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    lines = (
        "GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nHost: sim\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Authorization: Bearer sk-sim-good\r\n\r\n"
    )
    writer.write(lines.encode())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


ENDS = [
    End.FIN,
    End.RESET,
    End.SILENCE,
    End.EXPIRE,
    End.QUOTA,
    End.close(1001),
    End.close(1012, "restart"),
    End.close(4004),
]


@pytest.mark.parametrize("end", ENDS, ids=str)
async def test_connection_ends_after_named_event(end: End) -> None:
    """The client has received that event and none behind it, whatever was due next."""
    fault = Fault(Moment.AFTER_SENT, end, event="response.created")
    async with failing(fault) as (client, record):
        await ask(client)
        if end is End.SILENCE:
            events = await client.read_until("response.created")
            await client.ws.ping(b"?")
            await client.send("session.update", session={"type": "realtime"})
            with pytest.raises(TimeoutError):
                await client.ws.receive(0.1)
        else:
            events, last = await read_to_end(client)
            has_close_frame = end not in (End.FIN, End.RESET)
            assert (last.type is aiohttp.WSMsgType.CLOSE) is has_close_frame
        errors = [event["error"]["code"] for event in events if event["type"] == "error"]
        assert errors == {End.EXPIRE: ["session_expired"], End.QUOTA: ["credit_balance_exhausted"]}.get(end, [])
        sent = [event_type for event_type in event_types(events) if event_type != "error"]
        assert sent == ["conversation.item.added", "conversation.item.done", "response.created"]
        assert record.ended_by == f"after-sent response.created 1: {end}"


async def test_close_frame_has_code_and_reason() -> None:
    """Any code of 1000 to 4999."""
    async with failing(Fault(Moment.RECEIVED, End.close(3000, "why"))) as (client, _):
        await ask(client)
        assert await client.read_close() == (3000, "why")


async def test_reset_and_fin_differ_on_the_wire() -> None:
    """RST and end of file, both directly behind the event."""
    created = Fault(Moment.AFTER_SENT, End.RESET, event="session.created")
    async with Simulator(OPTIONS) as sim:
        sim.set_dials(Behaviour(faults=(created,)), Behaviour(faults=(Fault(Moment.AFTER_SENT, End.FIN),)))
        reader, writer = await raw_dial(sim)
        with pytest.raises(ConnectionResetError):
            await within(reader.read(), 5)
        writer.close()
        reader, writer = await raw_dial(sim)
        frame = await within(reader.read(), 5)
        assert (frame[:1], b"session.created" in frame, frame[-1:]) == (b"\x81", True, b"}")
        writer.close()


async def test_half_a_frame_is_sent() -> None:
    """Header and half of the payload arrive, then the end of file."""
    async with Simulator(OPTIONS) as sim:
        sim.set_dials(Behaviour(faults=(Fault(Moment.MID_FRAME, End.FIN, event="session.created"),)), Behaviour())
        reader, writer = await raw_dial(sim)
        half = await within(reader.read(), 5)
        writer.close()
        async with connect(sim, read_created=False) as client:
            whole = len((await client.ws.receive(5)).data)
    assert half[:2] == b"\x81\x7e"
    assert int.from_bytes(half[2:4], "big") == pytest.approx(whole, abs=8)
    assert len(half) == (int.from_bytes(half[2:4], "big") + 4) // 2


async def test_event_is_generated_but_not_sent() -> None:
    """The conversation has the item, the client has not received it."""
    fault = Fault(Moment.BEFORE_SENT, End.FIN, event="conversation.item.added")
    async with failing(fault) as (client, record):
        await ask(client)
        events, _ = await read_to_end(client)
        await record.wait_closed()
        assert events == []
        assert record.conversation is not None
        assert [item["role"] for item in record.conversation.items] == ["user"]


@pytest.mark.parametrize(("moment", "items"), [(Moment.RECEIVED, 1), (Moment.PROCESSED, 2)])
async def test_connection_ends_at_a_client_event(moment: Moment, items: int) -> None:
    """At the second item: it is not processed, or it is, with its acknowledgement."""
    async with failing(Fault(moment, End.FIN, event="conversation.item.create", count=2)) as (client, record):
        await ask(client)
        await client.read_until("rate_limits.updated")
        await ask(client)
        events, _ = await read_to_end(client)
        await record.wait_closed()
        assert record.conversation is not None
        assert len([item for item in record.conversation.items if item["role"] == "user"]) == items
        assert event_types(events) == ["conversation.item.added", "conversation.item.done"] * (items - 1)


async def test_fault_finds_an_event_by_its_text() -> None:
    """Poison: it ends each connection that receives it."""
    poison = Fault(Moment.RECEIVED, End.RESET, event="session.update", contains="poison")
    async with Simulator(SimulatorOptions(default=Behaviour(faults=(poison,)))) as sim:
        for _ in range(2):
            async with connect(sim) as client:
                await client.update_session(instructions="harmless")
                await client.send("session.update", session={"type": "realtime", "instructions": "poison"})
                await read_to_end(client)
        assert [record.ended_by for record in sim.connections] == ["received session.update 1: reset"] * 2


async def test_fault_refuses_events_without_an_end() -> None:
    """From the second item on: an error names the client's event, and nothing is added."""
    fault = Fault(Moment.RECEIVED, End.error("too_many"), event="conversation.item.create", count=2, every=True)
    async with failing(fault) as (client, record):
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
        for number in range(3):
            await client.send("conversation.item.create", event_id=str(number), item=item)
        events = [await client.next_event() for _ in range(4)]
        errors = [(event["error"]["code"], event["error"]["event_id"]) for event in events[2:]]
        assert errors == [("too_many", "1"), ("too_many", "2")]
        assert record.conversation is not None
        assert len(record.conversation.items) == 1
        assert record.ended_by is None


async def test_connection_ends_between_speech_stopped_and_committed() -> None:
    """The turn is committed on the server, and the client does not know."""
    fault = Fault(Moment.AFTER_SENT, End.RESET, event="input_audio_buffer.speech_stopped")
    async with failing(fault) as (client, record):
        await client.append_audio(numbered_audio(0, 24_000) + silence(300))
        events, _ = await read_to_end(client)
        assert event_types(events) == ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped"]
        await record.wait_closed()
        assert record.conversation is not None
        assert [turn.samples for turn in record.conversation.turns] == [((0, 24_000),)]


async def test_connection_ends_at_a_time() -> None:
    """By the clock, from the 101 on."""
    async with failing(Fault(Moment.TIME, End.close(1012), seconds=0.02)) as (client, record):
        assert await client.read_close() == (1012, "")
        assert record.ended_by == "after 0.02 s: close:1012"


@pytest.mark.parametrize(
    "build",
    [
        lambda: Fault(Moment.MID_FRAME, End.close(1001)),
        lambda: Fault(Moment.AFTER_SENT, End.error("x")),
        lambda: Fault(Moment.AFTER_SENT, End.RESET, count=0),
        lambda: End.close(999),
        lambda: End.parse("explode"),
        lambda: Behaviour(expires_at="soon"),
        lambda: Behaviour(scenario="no-such"),
        lambda: Behaviour(vad_lag_ms=-1),
        lambda: Behaviour(session_seconds=0),
    ],
)
def test_impossible_behaviour_is_refused(build: object) -> None:
    """With ValueError, when it is written."""
    with pytest.raises(ValueError, match=r"."):
        build()  # type: ignore[operator] # a lambda


@pytest.mark.parametrize("end", [*ENDS, End.error("code")], ids=str)
def test_end_has_a_text_form(end: End) -> None:
    """For JSON."""
    assert End.parse(str(end)) == end


async def test_all_connections_are_dropped_at_once() -> None:
    """Of one lane or of all; newcomers are served."""
    async with Simulator(OPTIONS) as sim:
        async with connect(sim, "model=gpt-realtime&simulate_lane=a") as one, connect(sim) as other:
            assert await sim.drop_all(End.close(1012), lane="a") == 1
            assert (await one.read_close())[0] == 1012
            await other.update_session()
            assert await sim.drop_all(End.RESET) >= 1
            assert (await other.ws.receive(5)).type is not aiohttp.WSMsgType.TEXT
            async with connect(sim) as newcomer:
                await newcomer.update_session()
        assert [record.ended_by for record in sim.connections] == ["drop-all: close:1012", "drop-all: reset", None]


async def test_connection_is_lost_at_every_event_of_a_random_conversation() -> None:
    """Each loss leaves a prefix of the conversation: what was committed is what was said, and the client knows no more."""
    script = random_script(Random(1), 5)
    lane = "model=gpt-realtime&simulate_lane="
    async with Simulator(OPTIONS) as sim:
        async with connect(sim, f"{lane}whole") as client:
            await play(client, script, Heard())
        [whole] = sim.upstreams("whole")
        assert whole.conversation is not None
        for count in range(1, whole.conversation.event_count + 1):
            sim.set_dials(Behaviour(faults=(Fault(Moment.EITHER, End.RESET, count=count),)), lane=str(count))
            heard = Heard()
            async with connect(sim, f"{lane}{count}", read_created=False) as client:
                with suppress(ConnectionLost):
                    await play(client, script, heard)
                    await read_to_end(client)  # the loss is behind the last step
            [record] = sim.upstreams(str(count))
            await record.wait_closed()
            check_prefix(record, heard, count)


def check_prefix(record: ConnectionRecord, heard: Heard, count: int) -> None:
    """The connection ended at its event; turns are prefixes of what was said; the client heard no item that is unknown."""
    conversation = record.conversation
    assert conversation is not None
    assert record.ended_by == f"either any event {count}: reset"
    assert conversation.event_count == count
    committed = [numbers for turn in conversation.turns for numbers in turn.samples]
    assert all(first < end for first, end in committed)
    said = heard.spoken[0] if heard.spoken else (0, 0)
    assert not committed or (committed[0][0] == 0 and committed[-1][1] <= said[1])
    known = {item["id"] for item in conversation.items} | set(conversation.deleted)
    assert set(heard.items) <= known
