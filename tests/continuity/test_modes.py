"""Which sessions outlive their upstream connections: what a client asks for, what the operator sets, what the 101 says."""

import json

import pytest

from service.failures import CATALOGUE
from service.relay.continuity.pool import ContinuityPool
from service.simulator import End
from tests.continuity.caller import calling
from tests.continuity.relays import stage
from tests.support.harness import eventually, open_raw

PLAIN = "/v1/realtime?model=gpt-realtime"


@pytest.mark.parametrize(
    ("mode", "query", "header"),
    [
        ("ask", "", None),
        ("ask", "&continuity=off", None),
        ("ask", "&continuity=renew", "renew"),
        ("ask", "&Continuity=renew", "renew"),
        ("renew", "", "renew"),
        ("renew", "&continuity=off", None),
        ("off", "&continuity=renew", "off"),
        ("off", "", None),
    ],
)
async def test_header_of_the_101_says_whether_the_session_has_continuity(
    mode: str, query: str, header: str | None
) -> None:
    """The loss of upstream shows that it is true; the parameter never goes upstream."""
    async with stage(RELAY_CONTINUITY=mode) as found, calling(found.relay, PLAIN + query) as caller:
        assert header == caller.client.answer.headers.get("Relay-Continuity")
        await found.simulator.drop_all(End.RESET)
        if header == "renew":
            await eventually(lambda: found.swaps("loss") == 1)
        else:
            assert await found.ended() == "upstream_lost"
        assert all("continuity" not in {name.lower() for name in record.query} for record in found.upstreams)


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        (f"{PLAIN}&continuity=resume", "Send continuity=renew"),
        (f"{PLAIN}&continuity=on", "Send continuity=renew"),
        (f"{PLAIN}&continuity=", "Send continuity=renew"),
        ("/v1/realtime/translations?model=gpt-realtime-translate&continuity=renew", "Remove continuity=renew"),
        ("/v1/live/sessions?continuity=renew", "Remove continuity=renew"),
    ],
)
async def test_mode_that_does_not_exist_is_refused(path: str, remedy: str) -> None:
    """With its reason and the remedy, as each bad request."""
    async with stage(RELAY_CONTINUITY="renew") as found:
        client = await open_raw(found.relay.app.public_port, path)
        assert client.answer.status == CATALOGUE["bad_request"].http_status
        error = json.loads(client.answer.body)["error"]
        assert error["code"] == "bad_request"
        assert error["remedy"].startswith(remedy) if "remedy" in error else remedy in json.dumps(error)
        await client.close()


async def test_translation_runs_without_continuity_where_all_sessions_have_it() -> None:
    """It does not ask for it, so that it is not refused."""
    async with stage(RELAY_CONTINUITY="renew") as found:
        path = "/v1/realtime/translations?model=gpt-realtime-translate"
        client = await open_raw(found.relay.app.public_port, path)
        assert (client.answer.status, client.answer.headers.get("Relay-Continuity")) == (101, None)
        await client.close()


async def test_session_beyond_the_memory_for_continuity_runs_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer says so to a client that then asks for it. What an open session has kept is freed."""
    async with stage() as found, calling(found.relay) as first:
        monkeypatch.setattr(ContinuityPool, "has_room", property(lambda _: False))
        async with calling(found.relay) as second:
            assert second.client.answer.headers["Relay-Continuity"] == "off"
            [line] = [line for line in found.relay.events("session.not_renewable") if line["reason"] == "no_room"]
            assert "RELAY_CONTINUITY_BYTES" in line["remedy"]
            assert found.relay.metric("realtime_relay_not_renewable_total", reason="no_room") == 1
        assert first.client.answer.headers["Relay-Continuity"] == "renew"
        await eventually(lambda: len(found.relay.events("session.not_renewable")) == 2)
        assert "RELAY_CONTINUITY_BYTES" in found.relay.events("session.not_renewable")[1]["remedy"]
        assert found.relay.metric("realtime_relay_not_renewable_total", reason="over_budget") == 1
        assert found.relay.metric("realtime_relay_continuity_bytes") == 0
        await found.simulator.drop_all(End.RESET)
        await first.until_over()
        assert first.of_type("error")[-1]["error"]["code"] == "upstream_lost"


async def test_sideband_joins_its_call_again() -> None:
    """What the client sends meanwhile arrives once, without any replay."""
    path = "/v1/realtime?call_id=rtc_known&continuity=renew"
    async with stage() as found:
        client = await open_raw(found.relay.app.public_port, path)
        try:
            assert (client.answer.status, client.answer.headers.get("Relay-Continuity")) == (101, "renew")
            await eventually(lambda: len(found.upstreams) == 1)
            await found.simulator.drop_all(End.RESET)
            await eventually(lambda: found.swaps("loss") == 1)
            client.send_event(type="session.update", session={"type": "realtime", "instructions": "x"})
            assert (await client.next_event())["type"] == "session.updated"
            assert len(found.upstreams) == 2
        finally:
            await client.close()


async def test_sideband_is_not_renewed() -> None:
    """Also where sessions that state no end are."""
    async with stage(RELAY_RENEW_AFTER_SECONDS="1") as found:
        client = await open_raw(found.relay.app.public_port, "/v1/realtime?call_id=rtc_known&continuity=renew")
        try:
            await eventually(lambda: len(found.upstreams) == 1)
            [session] = found.relay.app.sessions
            await eventually(lambda: (view := session.view()) is not None and view.age_seconds > 1.5)
            assert len(found.upstreams) == 1
            assert found.swaps("renewal") == found.swaps("forced") == 0
        finally:
            await client.close()
