"""The clients file is changed while a relay runs, over real sockets."""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from service.clients_file import load, watcher
from service.upstream import file_reader
from tests.clients_file.relays import TOKENS, connect, notes, refusal, relay_of, remove, table, write
from tests.support.harness import RawClient, Relay, simulated_relay
from tests.support.harness import eventually as eventually_within

REFUSED = "realtime_relay_clients_file_refused"
LOADS = "realtime_relay_clients_file_loads_total"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clients file that is read often."""
    monkeypatch.setattr(watcher, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(load, "CONFIRM_SECONDS", 0.01)
    return tmp_path / "clients.toml"


async def eventually(condition: Callable[[], object]) -> None:
    """Each change takes several turns of a thread."""
    await eventually_within(condition, 20)


def loads(relay: Relay, result: str = "loaded") -> float:
    """The number of new contents with this result."""
    return relay.metric(LOADS, result=result)


async def loaded(relay: Relay, number: int) -> None:
    """Wait until this number of contents has been loaded."""
    await eventually(lambda: loads(relay) == number)


def has_events(relay: Relay, name: str, number: int) -> bool:
    """Whether the log has this number of events with a name."""
    return len(relay.events(name)) == number


async def is_alive(client: RawClient) -> bool:
    """Whether a session answers."""
    client.send_event(type="conversation.item.retrieve", item_id="none")
    event = await client.next_event()
    while event is not None and event["type"] != "error":
        event = await client.next_event()
    return event is not None and event["error"]["type"] != "relay_error"


async def test_new_client_connects_without_a_restart(path: Path) -> None:
    """The log names what changed, and neither a token nor a hash."""
    async with relay_of(path, table("kiosk")) as relay:
        assert (401, "token_invalid") == await refusal(relay, "web")
        write(path, table("kiosk") + table("web"))
        await loaded(relay, 2)

        assert (101, None) == await refusal(relay, "web")
        (event,) = relay.events("clients.loaded")
        assert (2, ("web",), (), 0) == (event["clients"], event["added"], event["removed"], event["sessions_ended"])
        assert 0 < relay.metric("realtime_relay_clients_file_loaded_timestamp_seconds")


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("change", ["removed", "disabled", "token replaced", "token moved"])
async def test_withdrawn_credential_refuses_and_ends_if_asked(path: Path, change: str, *, ends: bool) -> None:
    """New connections are refused at once. Open ones end only with `end_sessions`, with event and close code."""
    line = f"end_sessions = {str(ends).lower()}"
    after = {
        "removed": "",
        "disabled": table("kiosk", f"{line}\nenabled = false"),
        "token replaced": table("kiosk", line, token="spare"),
        "token moved": table("kiosk", line, token="spare") + table("restricted", token="kiosk"),
    }[change]
    async with relay_of(path, table("kiosk", line) + table("web")) as relay:
        session, other = await connect(relay), await connect(relay, "web")
        for client in (session, other):
            assert (await client.next_event())["type"] == "session.created"
        write(path, after + table("web"))
        await loaded(relay, 2)

        expected = "client_disabled" if change == "disabled" else "token_invalid"
        assert ((101, None) if change == "token moved" else (401, expected)) == await refusal(relay)
        assert await is_alive(other)
        if ends:
            event = await session.next_event()
            assert ("client_disabled", "relay_error") == (event["error"]["code"], event["error"]["type"])
            assert 1008 == (await session.until_close() or (None,))[0]
            await session.answer_close()
            await eventually(lambda: relay.metric("realtime_relay_sessions_ended_total", reason="client_disabled") == 1)
        else:
            assert await is_alive(session)
        for client in (session, other):
            await client.close()


async def test_end_sessions_can_be_set_after_the_token_is_gone(path: Path) -> None:
    """What counts is what the file says now, as long as it still has the client."""
    async with relay_of(path, table("kiosk")) as relay:
        session = await connect(relay)
        write(path, table("kiosk", token="spare"))
        await loaded(relay, 2)
        assert (await session.next_event())["type"] == "session.created"
        write(path, table("kiosk", "end_sessions = true", token="spare"))

        assert (await session.next_event())["error"]["code"] == "client_disabled"
        await session.close()


async def test_credential_that_comes_back_is_accepted_again(path: Path) -> None:
    """Its open session is not ended later either."""
    async with relay_of(path, table("kiosk")) as relay:
        session = await connect(relay)
        for number, text in enumerate([table("web"), table("kiosk", "end_sessions = true")], 2):
            write(path, text)
            await loaded(relay, number)

        assert (101, None) == await refusal(relay)
        assert (await session.next_event())["type"] == "session.created"
        assert await is_alive(session)
        await session.close()


async def test_broken_file_changes_nothing_and_is_reported_once(path: Path) -> None:
    """Log, metric and detailed health name the mistakes; the next good file clears them."""
    async with relay_of(path, table("kiosk")) as relay:
        write(path, table("web") + "max_sesions = 1\n[clients.other]\n")
        await eventually(lambda: relay.metric(REFUSED) == 1)
        await asyncio.sleep(0.1)  # several polls

        assert (101, None) == await refusal(relay)
        assert (401, "token_invalid") == await refusal(relay, "web")
        (event,) = relay.events("clients.file_rejected")
        assert "has 2 mistakes. The last good one stays in use." in event["message"]
        assert "line 4: clients.web.max_sesions is unknown. Write max_sessions." in event["mistakes"][0]
        assert "line 5: clients.other has no credential" in await notes(relay)
        assert 1 == loads(relay, "rejected")
        write(path, table("web"))
        await eventually(lambda: relay.metric(REFUSED) == 0)

        assert (101, None) == await refusal(relay, "web")
        assert "RELAY_CLIENTS_FILE" not in await notes(relay)


async def test_vanished_file_keeps_the_last_good_one(path: Path) -> None:
    """It is reported, and read again when it is back, with what it then holds."""
    async with relay_of(path, table("kiosk", "end_sessions = true")) as relay:
        session = await connect(relay)
        remove(path)
        await eventually(lambda: relay.metric(REFUSED) == 1)

        assert (101, None) == await refusal(relay)
        assert "does not exist" in relay.events("clients.file_unreadable")[0]["mistakes"][0]
        assert "The last good one stays in use." in await notes(relay)
        assert 1 == loads(relay, "unreadable")
        write(path, table("kiosk") + table("web"))
        await eventually(lambda: relay.metric(REFUSED) == 0)

        assert (101, None) == await refusal(relay, "web")
        assert (await session.next_event())["type"] == "session.created"
        await session.close()


def mount_config_map(path: Path) -> None:
    """The folder `one` is mounted; `two` is another content."""
    for name, text in (("one", table("kiosk")), ("two", table("web"))):
        (path.parent / name).mkdir()
        (path.parent / name / "clients.toml").write_text(text)
    (path.parent / "..data").symlink_to("one")
    path.symlink_to("..data/clients.toml")


async def test_kubernetes_swap_of_links_is_noticed(path: Path) -> None:
    """A ConfigMap's file is a link to ..data/file, and ..data a link to a folder that is replaced."""
    folder = path.parent
    mount_config_map(path)
    async with simulated_relay(None, RELAY_CLIENTS_FILE=str(path)) as relay:
        (folder / "..new").symlink_to("two")
        (folder / "..new").replace(folder / "..data")
        await loaded(relay, 2)

        assert [(401, "token_invalid"), (101, None)] == [await refusal(relay, name) for name in ("kiosk", "web")]


async def test_new_token_in_a_token_file_is_noticed(path: Path) -> None:
    """The clients file itself is the same."""
    token_file = path.parent / "kiosk.token"
    token_file.write_text(TOKENS["kiosk"])
    async with relay_of(path, '[clients.kiosk]\ntoken_file = "kiosk.token"\n') as relay:
        assert (101, None) == await refusal(relay)
        token_file.write_text(TOKENS["spare"])
        await loaded(relay, 2)

        assert [(401, "token_invalid"), (101, None)] == [await refusal(relay, name) for name in ("kiosk", "spare")]
        assert relay.app.redactor.redact(f"{TOKENS['kiosk']} {TOKENS['spare']}") == "[redacted] [redacted]"


async def test_half_written_file_is_not_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that pauses at the end of a line has written a valid file that lacks a client."""
    monkeypatch.setattr(watcher, "POLL_SECONDS", 600.0)
    reads = iter([table("kiosk"), table("kiosk") + table("web"), table("kiosk") + table("web")])
    async with relay_of(path, table("kiosk") + table("web")) as relay:
        reader = relay.app._clients_file
        assert reader is not None
        state = load.ClientsFileReader._state

        def changing(self: load.ClientsFileReader) -> list[bytes]:
            path.write_text(next(reads, table("kiosk") + table("web")))
            return state(self)

        monkeypatch.setattr(load.ClientsFileReader, "_state", changing)
        await reader.check()
        await reader.check()

        assert 1 == loads(relay)
        assert (101, None) == await refusal(relay, "web")


async def test_sighup_reads_the_file_and_logs_the_result(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it is unchanged, or as broken as before."""
    monkeypatch.setattr(watcher, "POLL_SECONDS", 600.0)
    async with relay_of(path, table("kiosk")) as relay:
        await asyncio.sleep(0)
        relay.app._signals._on_reload()
        await eventually(lambda: relay.events("clients.unchanged"))
        assert "Reading the clients file again" in relay.events("signal.received")[0]["message"]
        write(path, "broken")
        for count in (1, 2):
            relay.app._signals._on_reload()
            await eventually(partial(has_events, relay, "clients.file_rejected", count))
        write(path, table("web"))
        relay.app._signals._on_reload()
        await loaded(relay, 2)


async def test_read_that_hangs_is_reported_and_blocks_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount whose server does not answer. The relay serves its clients, and reads again when it can."""
    monkeypatch.setattr(file_reader, "READ_SECONDS", 0.05)
    answers = threading.Event()
    async with relay_of(path, table("kiosk")) as relay:
        state = load.ClientsFileReader._state

        def hanging(self: load.ClientsFileReader) -> list[bytes]:
            answers.wait(20)
            return state(self)

        monkeypatch.setattr(load.ClientsFileReader, "_state", hanging)
        await eventually(lambda: relay.metric(REFUSED) == 1)
        assert (101, None) == await refusal(relay)
        assert "did not return within" in await notes(relay)
        answers.set()
        await eventually(lambda: relay.metric(REFUSED) == 0)


async def test_credential_withdrawn_during_the_dial_ends_the_session(path: Path) -> None:
    """Between admission and the session nothing else would end it."""
    async with relay_of(path, table("kiosk", "end_sessions = true")) as relay:
        dial = relay.app.connector.dial

        async def slow(*args: object, **options: object) -> object:
            connected = await dial(*args, **options)  # type: ignore[arg-type]
            write(path, table("web"))
            await loaded(relay, 2)
            return connected

        relay.app.connector.dial = slow  # type: ignore[assignment, method-assign]
        session = await connect(relay)
        events = [await session.next_event() for _ in range(2)]

        assert "client_disabled" in str(events)
        await session.close()
