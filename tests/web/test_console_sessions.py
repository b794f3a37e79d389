"""The list of sessions and the end of one: cheap at any number, searchable, and settled."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from service.failures import CATALOGUE
from service.realtime.events import Api
from service.relay.session import Session
from service.relay.session_info import SessionInfo
from service.web.console_report import session_list
from tests.support.console import OPERATOR, ask
from tests.support.harness import Relay, eventually, open_raw, simulated_relay, within
from tests.support.live_upstream import LiveUpstream, live_session

MARKUP = '<img src=x onerror="alert(1)">&</script>'


@dataclass
class Viewed:
    """What one listed session shows."""

    info: SessionInfo

    def as_object(self) -> dict[str, object]:
        """The fields that the list redacts."""
        return {
            "id": self.info.session_id,
            "client": self.info.client,
            "user": self.info.user,
            "address": self.info.address,
            "model": self.info.model,
        }


@dataclass
class Counted:
    """A session that counts how often it is read."""

    info: SessionInfo
    views: list[int] = field(default_factory=list)

    def view(self) -> Viewed:
        """Read it."""
        self.views.append(1)
        return Viewed(self.info)


def thousand() -> list[Counted]:
    """Open sessions of many clients, oldest first."""
    return [
        Counted(SessionInfo(f"{number:016x}", f"client-{number}", "192.0.2.1", "gpt-realtime", "", Api.REALTIME))
        for number in range(1000)
    ]


def listed(sessions: list[Counted], limit: int, search: str = "") -> tuple[dict[str, Any], int]:
    """The list, and how often a session was read for it."""
    redactions: list[str] = []

    def redact(text: str) -> str:
        redactions.append(text)
        return text

    body = session_list(cast("list[Session]", sessions), limit, search, redact)
    assert len(redactions) <= 3 * limit
    return cast("dict[str, Any]", body), sum(len(session.views) for session in sessions)


def test_list_reads_only_the_sessions_that_it_shows() -> None:
    """Of a thousand, whatever the search matches."""
    for limit, search in ((50, ""), (1, ""), (50, "client"), (200, "GPT"), (50, "none")):
        body, views = listed(thousand(), limit, search)
        assert views == len(body["sessions"]) <= limit
        assert 1000 == body["total"]


def test_search_finds_parts_in_any_case_newest_first() -> None:
    """Of the id, the client, the address, the model and the API."""
    body, _ = listed(thousand(), 50, "CLIENT-99")
    assert (11, [999, 998, 997]) == (body["matching"], [int(entry["id"], 16) for entry in body["sessions"][:3]])
    for search, matching in (("00000000000003e7", 1), ("192.0.2", 1000), ("realtime", 1000), ("live", 0), ("999", 1)):
        assert matching == listed(thousand(), 50, search)[0]["matching"], search


async def test_hostile_texts_are_strings() -> None:
    """A search, and an id of a session, that hold markup are neither repeated nor an error."""
    async with simulated_relay() as relay:
        client = await open_raw(relay.app.public_port)
        for path, method in ((f"/api/sessions?search={MARKUP}", "GET"), (f"/api/sessions/{MARKUP[:5]}", "DELETE")):
            answer = await ask(relay.internal_url + path, method, OPERATOR)
            assert answer.status in {200, 404}
            assert b"<" not in answer.body
            assert b"onerror" not in answer.body
        await client.close()


async def only_session(relay: Relay) -> str:
    """The id of the only session that is listed."""
    [entry] = (await ask(relay.internal_url + "/api/sessions")).json["sessions"]
    return str(entry["id"])


async def test_ended_session_gets_reason_and_close_code() -> None:
    """An error event with reason and remedy, then 1001, in one session of two; it is logged and counted once."""
    async with simulated_relay() as relay:
        client, other = await open_raw(relay.app.public_port), await open_raw(relay.app.public_port)
        await eventually(lambda: len(relay.app.sessions) == 2)
        session_id = next(iter(relay.app.sessions)).info.session_id
        answer = await ask(f"{relay.internal_url}/api/sessions/{session_id}", "DELETE", OPERATOR)

        assert (202, "ending", "ended_by_operator") == (answer.status, answer.json["state"], answer.json["ending_as"])
        events = []
        while (event := await within(client.next_event(), 10)) is not None:
            events.append(event)
        row = CATALOGUE["ended_by_operator"]
        error = events[-1]["error"]
        assert ("ended_by_operator", row.sentence, row.remedy, "never") == (
            error["code"],
            error["message"],
            error["remedy"],
            error["retry"],
        )
        assert (1001, row.close_text) == await within(client.until_close(), 10)
        await client.close()
        await eventually(lambda: len(relay.app.sessions) == 1)
        assert 1 == relay.metric("realtime_relay_sessions_ended_total", reason="ended_by_operator")
        assert ["ended_by_operator"] == [line["reason"] for line in relay.events("session.ended")]
        [line] = relay.events("console.session_ended")
        assert (session_id, "127.0.0.1") == (line["session_id"], line["asked_by"])
        again = await ask(f"{relay.internal_url}/api/sessions/{session_id}", "DELETE", OPERATOR)
        assert (404, "session_not_found") == (again.status, again.code)
        assert 200 == (await ask(relay.internal_url + "/api/sessions")).status
        await other.close()


async def test_session_that_ends_already_keeps_its_reason() -> None:
    """It is listed as ending until both sides are closed."""
    async with simulated_relay() as relay:
        client = await open_raw(relay.app.public_port)
        session_id = await only_session(relay)
        next(iter(relay.app.sessions)).end("max_duration")
        answer = await ask(f"{relay.internal_url}/api/sessions/{session_id}", "DELETE", OPERATOR)
        if answer.status == 202:
            assert "max_duration" == answer.json["ending_as"]
        await client.close()
        await eventually(lambda: not len(relay.app.sessions))
        assert ["max_duration"] == [line["reason"] for line in relay.events("session.ended")]


async def test_live_session_that_is_ended_settles() -> None:
    """Upstream gets session.close, and the final usage is confirmed."""
    upstream = LiveUpstream()
    async with live_session(upstream) as live:
        session_id = await only_session(live.relay)
        answer = await ask(f"{live.relay.internal_url}/api/sessions/{session_id}", "DELETE", OPERATOR)
        assert 202 == answer.status
        line = await live.ended()
        assert ("ended_by_operator", True, 13.0) == (line["reason"], line["usage_confirmed"], line["usage_seconds"])
        assert ["session.start", "session.close"] == upstream.types
        assert "ended_by_operator" == (await within(live.client.next_event(), 10))["error"]["code"]


async def test_live_session_shows_seconds_and_cost() -> None:
    """As the provider reports them."""
    upstream = LiveUpstream()
    async with live_session(upstream) as live:
        upstream.send(
            {"type": "session.usage.updated", "event_id": "event_2", "usage": {"seconds": 60.0, "usage_ratio": 0.1}}
        )
        await live.client.next_event()
        [entry] = (await ask(live.relay.internal_url + "/api/sessions")).json["sessions"]
        assert ("live", 60.0, 0.05, True) == (
            entry["api"],
            entry["billed_seconds"],
            entry["cost_usd"],
            entry["cost_is_complete"],
        )


async def test_closed_session_has_no_view() -> None:
    """Between its end and its removal from the registry."""
    async with simulated_relay() as relay:
        client = await open_raw(relay.app.public_port)
        await eventually(lambda: len(relay.app.sessions) == 1)
        session = next(iter(relay.app.sessions))
        assert session.view() is not None
        await client.close()
        await eventually(lambda: not len(relay.app.sessions))
        assert session.view() is None


@pytest.mark.parametrize("count", [30])
async def test_sessions_end_while_they_are_listed(count: int) -> None:
    """Every list is consistent: it shows open sessions only, and none twice."""
    async with simulated_relay() as relay:
        clients = [await open_raw(relay.app.public_port) for _ in range(count)]
        for client in clients:
            client.reset()
            body = (await ask(relay.internal_url + "/api/sessions?limit=200")).json
            ids = [entry["id"] for entry in body["sessions"]]
            assert len(ids) == len(set(ids)) <= body["matching"] <= count
        await eventually(lambda: not len(relay.app.sessions))
        await asyncio.gather(*(client.close() for client in clients))
