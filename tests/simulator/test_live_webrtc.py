"""GPT-Live: sessions that REST creates, and connections that attach to them, also through a relay."""

from typing import Any

import aiohttp
import pytest

from service.simulator import Simulator
from tests.support.harness import running_relay
from tests.support.live_client import LiveClient, live, live_simulator
from tests.support.simulator_client import KEY

OFFER = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"
SESSION = {"model": "gpt-live-1", "instructions": "Be brief.", "idle_timeout_s": 30}


async def create(sim: Simulator, key: str = KEY, sdp: str = OFFER, **session: Any) -> tuple[int, Any]:
    """Create a session; return status and body."""
    body = {"session": {**SESSION, **session}, "transport": {"type": "webrtc", "sdp": sdp}}
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{sim.url}/live/sessions", json=body, headers=headers) as reply,
    ):
        return reply.status, await reply.json()


async def test_session_is_created_attached_to_and_closed() -> None:
    """Each attached connection is started at once, may command, and gets the end that one of them asked for."""
    async with live_simulator() as sim:
        status, created = await create(sim)
        session_id = created["session"]["id"]
        assert (201, "webrtc", True) == (
            status,
            created["transport"]["type"],
            created["transport"]["sdp"].startswith("v=0"),
        )
        path = f"/v1/live/sessions/{session_id}/attach"
        async with live(sim, path=path) as first, live(sim, path=path) as second:
            for client in (first, second):
                event = await client.next_event()
                assert ("session.started", session_id) == (event["type"], event["session"]["id"])
            for refused in ("session.start", "session.input_audio.append"):
                await second.send(refused, **({"audio": "AAAA"} if "audio" in refused else {"session": SESSION}))
                assert "error" == (await second.next_event())["type"]
            await first.send("session.close")
            ends = [await client.next_event() for client in (first, second)]
            assert ["session.closed"] * 2 == [end["type"] for end in ends]
            assert all(end["usage"]["seconds"] >= 15 for end in ends)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
            async with live(sim, path=path):
                pass


async def test_connection_that_leaves_does_not_end_the_session() -> None:
    """Another one attaches later. Another key does not find it."""
    async with live_simulator() as sim:
        _, created = await create(sim)
        path = f"/v1/live/sessions/{created['session']['id']}/attach"
        for _ in range(2):
            async with live(sim, path=path) as client:
                assert "session.started" == (await client.next_event())["type"]
        with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
            async with live(sim, path=path, key=f"{KEY}x"):
                pass


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"sdp": "hello"}, 400, "invalid_offer"),
        ({"audio": {"output": {"voice": "fable"}}}, 403, "forbidden"),
        ({"model": "gpt-realtime"}, 400, "invalid_model"),
        ({"colour": "red"}, 400, "unknown_parameter"),
        ({"key": "sk-sim-quota-exhausted"}, 400, "credit_balance_exhausted"),
    ],
)
async def test_create_is_refused(fields: dict[str, Any], status: int, code: str) -> None:
    """Nothing is kept."""
    async with live_simulator() as sim:
        found, body = await create(sim, **fields)
        assert (status, code) == (found, body["error"]["code"])
        assert not sim._rest_api.live_sessions._sessions


async def test_relay_attaches_to_a_session_that_its_key_created() -> None:
    """The sideband is forwarded in both directions; the session ends for it in its own words."""
    async with live_simulator() as sim:
        _, created = await create(sim)
        async with running_relay(
            simulator=None, intervals=None, adjust=None, OPENAI_BASE_URL=sim.url, OPENAI_API_KEY=KEY
        ) as relay:
            path = f"/v1/live/sessions/{created['session']['id']}/attach"
            base = f"http://127.0.0.1:{relay.app.public_port}"
            async with live(base, path=path, key=None) as client:
                await observe(client, created["session"]["id"])


async def observe(client: LiveClient, session_id: str) -> None:
    """Attach, command, close."""
    assert session_id == (await client.next_event())["session"]["id"]
    await client.send("session.input_audio.mute", event_id="m1")
    muted = await client.next_event()
    assert ("session.input_audio.muted", "m1") == (muted["type"], muted["client_event_id"])
    await client.send("session.close")
    assert "close_requested" == (await client.next_event())["reason"]
