"""The check `store` and what a relay refuses while its store fails, on a real Redis."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.settings import SettingsRejected, load_settings, rules
from service.store.shared import SharedStore
from tests.support.harness import Relay, eventually, open_raw, simulated_relay
from tests.support.redis_server import RedisServer, running_redis

PASSWORD = "CANARY6store"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server with a password."""
    with running_redis(tmp_path, "--appendonly", "yes", "--requirepass", PASSWORD) as server:
        yield server


@pytest.fixture(autouse=True)
def quick_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check follows the heartbeats, which are five seconds apart."""
    assert SharedStore.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(SharedStore.__init__.__kwdefaults__, "heartbeat_seconds", 0.5)


def settings(server: RedisServer, mode: str) -> dict[str, str]:
    """The settings of a relay with this store."""
    return {"RELAY_STORE_URL": server.url.replace("//", f"//:{PASSWORD}@"), "RELAY_STORE_FAILURE": mode}


async def get(relay: Relay, path: str) -> tuple[int, str]:
    """The answer of the internal port."""
    async with aiohttp.ClientSession() as session, session.get(relay.internal_url + path) as response:
        return response.status, await response.text()


async def status_of_a_client(relay: Relay) -> int:
    """The HTTP status that a client receives."""
    client = await open_raw(relay.app.public_port)
    await client.close()
    return client.answer.status


@pytest.mark.parametrize("mode", ["open", "closed"])
async def test_failing_store_closes_the_relay_only_if_it_is_set_to(server: RedisServer, mode: str) -> None:
    """With closed: 503 store_unavailable and /readyz 503, until the store answers again. The password is nowhere."""
    async with simulated_relay(None, **settings(server, mode)) as relay:
        await eventually(lambda: relay.app.monitor.ready, 20)
        texts = [(await get(relay, "/healthz?verbose"))[1]]
        (check,) = json.loads(texts[0])["checks"]["relay:store"]
        assert check["status"] == "pass"
        assert await status_of_a_client(relay) == 101

        server.stop()
        await eventually(lambda: not relay.app.store.is_up and relay.events("store.failed"), 20)

        assert await status_of_a_client(relay) == (503 if mode == "closed" else 101)
        assert (await get(relay, "/readyz"))[0] == (503 if mode == "closed" else 200)
        status, text = await get(relay, "/healthz?verbose")
        check = json.loads(text)["checks"]["relay:store"][0]
        assert (status, check["status"], check["reason"]) == (
            503 if mode == "closed" else 200,
            "fail",
            "store_unavailable",
        )
        texts += [text, (await get(relay, "/readyz?verbose"))[1], relay.used_series()]
        server.start()
        await eventually(lambda: relay.app.store.is_up, 20)
        assert await status_of_a_client(relay) == 101
        assert (await get(relay, "/readyz"))[0] == 200
        texts.append(str(relay.logs))
    assert "store_unavailable" in texts[2] or mode == "open"
    assert not [text for text in texts if PASSWORD in text]


async def test_relay_starts_while_its_store_is_down(server: RedisServer) -> None:
    """It joins when the store comes."""
    server.stop()
    async with simulated_relay(None, **settings(server, "closed")) as relay:
        assert await status_of_a_client(relay) == 503
        server.start()
        await eventually(lambda: relay.app.store.refusal() is None, 20)
        assert await status_of_a_client(relay) == 101


async def test_memory_has_no_check() -> None:
    """The default cannot fail."""
    async with simulated_relay(None) as relay:
        assert "relay:store" not in json.loads((await get(relay, "/healthz?verbose"))[1])["checks"]
        assert relay.metric("realtime_relay_store_up") == 1


def test_missing_library_stops_the_start_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The setting's value, which can hold a password, is hidden."""

    def find_spec(_name: str) -> Any:
        return None

    monkeypatch.setattr(rules, "find_spec", find_spec)
    with pytest.raises(SettingsRejected) as rejected:
        load_settings({"RELAY_STORE_URL": f"redis://:{PASSWORD}@127.0.0.1"})
    assert "pip install 'realtime-relay[redis]'" in str(rejected.value)
    assert PASSWORD not in str(rejected.value)


@pytest.mark.parametrize(
    "url",
    [
        f"http://:{PASSWORD}@host",
        f"redis://:{PASSWORD}@",
        f"redis://:{PASSWORD}@host:0",
        f"redis://:{PASSWORD}@host/zero",
        f"redis://:{PASSWORD}@host?db=1",
        f"redis://:{PASSWORD}/x@host",
        f"redis://:{PASSWORD}@ho st",
        "memory:x",
        "memory",
    ],
)
def test_malformed_url_is_refused_without_its_password(url: str) -> None:
    """The message states what is accepted."""
    with pytest.raises(SettingsRejected) as rejected:
        load_settings({"RELAY_STORE_URL": url})
    assert "expected memory:, or a URL redis[s]://" in str(rejected.value)
    assert PASSWORD not in str(rejected.value)
