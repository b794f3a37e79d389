"""The checks of `make e2e-continuity`: what they accept, and what they reject."""

import asyncio
import itertools
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict, MultiDict

from service.simulator import ConnectionRecord, Simulator, SimulatorOptions
from service.simulator.conversation_record import ConversationRecord, ResponseRecord
from service.simulator.numbered import numbered_audio, sample_ranges
from tests.e2e.continuity_clients.accounting import Account, account, answered, check_events
from tests.e2e.continuity_clients.clients import CLIENTS, PROGRAMS
from tests.e2e.continuity_clients.tap import Seen, tap
from tests.e2e.live_clients.outcome import ClientFailed


def seen(*events: dict[str, Any]) -> list[Seen]:
    """Events that the client received, one a second."""
    return [Seen(at, is_from_client=False, type=event["type"], event=event) for at, event in enumerate(events)]


def event(kind: str, **others: Any) -> dict[str, Any]:
    """An event."""
    return {"type": kind, **others}


def response(kind: str, name: str = "resp_1") -> dict[str, Any]:
    """The beginning or the end of a response."""
    return event(f"response.{kind}", response={"id": name})


CREATED = event("session.created")
ITEM = {"id": "item_1"}


@pytest.mark.parametrize(
    ("found", "lost", "doubled"),
    [
        ([(0, 30)], 0, 0),
        ([(10, 30), (0, 10)], 0, 0),
        ([(0, 10), (20, 30)], 10, 0),
        ([(0, 20), (15, 30)], 0, 5),
        ([(0, 30), (5, 6), (5, 6)], 0, 2),
        ([], 30, 0),
    ],
)
def test_account_counts_each_sample(found: list[tuple[int, int]], lost: int, doubled: int) -> None:
    """Those that are missing, and those that came more than once."""
    assert account([(0, 10), (10, 30)], found) == Account(30, lost, doubled)


@pytest.mark.parametrize(
    ("ends", "expected"), [(["completed"], [(0, 48)]), (["cancelled"], []), ([], [(0, 48)]), (None, [])]
)
def test_answer_that_the_client_saw_as_cut_or_not_at_all_is_not_expected(
    ends: list[str] | None, expected: list[tuple[int, int]]
) -> None:
    """Upstream completed it while its connection was replaced: it is asked for again. None: the client saw no beginning."""
    record = ResponseRecord("resp_1", "vad", None, status="completed", first_sample=0, sent_samples=48)
    upstream = ConnectionRecord(
        "/v1/realtime", MultiDict(), CIMultiDict(), conversation=ConversationRecord(responses=[record])
    )
    events = [] if ends is None else [response("created")]
    events += [event("response.done", response={"id": "resp_1", "status": status}) for status in ends or ()]
    assert answered([upstream], seen(*events)) == expected


def test_unbroken_session_has_no_findings() -> None:
    """One session, one response, its events between beginning and end."""
    delta = event("response.output_audio.delta", response_id="resp_1")
    item = event("conversation.item.added", item=ITEM), event("conversation.item.done", item=ITEM)
    assert check_events(seen(CREATED, *item, response("created"), delta, response("done"))).faults == []


@pytest.mark.parametrize(
    "events",
    [
        (CREATED, CREATED),
        (),
        (CREATED, event("relay.session.renewed")),
        (CREATED, event("error", error={"code": "x", "message": "y"})),
        (CREATED, response("created")),
        (CREATED, response("created"), response("done"), response("done")),
        (CREATED, event("response.output_audio.delta", response_id="resp_1")),
        (CREATED, response("created"), response("done"), event("response.output_text.delta", response_id="resp_1")),
        (CREATED, event("conversation.item.done", item=ITEM)),
        (CREATED, event("conversation.item.input_audio_transcription.completed", item_id="item_1")),
        (CREATED, *itertools.repeat(event("conversation.item.added", item=ITEM), 2)),
    ],
)
def test_broken_session_has_findings(events: tuple[dict[str, Any], ...]) -> None:
    """A second session, events of the relay, errors, and responses or items that begin or end wrongly."""
    assert check_events(seen(*events)).faults


async def test_tap_keeps_events_of_both_directions() -> None:
    """It decodes fragments, masks and large frames, and removes the offer of compression."""
    audio = numbered_audio(240_000, 70_000)
    async with Simulator(SimulatorOptions()) as simulator, tap(int(simulator.url.split(":")[2].split("/")[0])) as found:
        async with (
            aiohttp.ClientSession(headers={"Authorization": "Bearer sk-sim-good"}) as session,
            session.ws_connect(f"{found.url}/realtime?model=gpt-realtime", compress=15) as socket,
        ):
            assert socket.compress == 0
            await found.wait_received("session.created")
            await socket.send_json({"type": "unknown", "audio": audio.hex()})
            await found.wait_received("error")
            assert found.sent("unknown")[0].event["audio"] == audio.hex()
        with pytest.raises(ClientFailed):
            await asyncio.wait_for(found.wait_received("session.updated"), 30)
    assert found.connections == 1
    assert sample_ranges(audio) == ((240_000, 310_000),)


def test_each_client_has_a_program() -> None:
    """And a name of its own."""
    assert len({client.name for client in CLIENTS}) == len(CLIENTS)
    assert all((PROGRAMS / client.program).exists() for client in CLIENTS)
