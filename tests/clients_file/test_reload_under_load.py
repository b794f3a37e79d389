"""Many sessions of a relay whose clients file is edited, broken and removed meanwhile; TEST_SESSIONS says how many."""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.clients_file import load, watcher
from tests.clients_file.relays import TOKENS, connect, notes, refusal, relay_of, remove, table, write
from tests.support.harness import RawClient, Relay, eventually

SESSIONS = int(os.environ.get("TEST_SESSIONS", "100"))
AT_ONCE = 50
REFUSED = "realtime_relay_clients_file_refused"
NAMES = ("kiosk", "web")
ENDING = table("web", "end_sessions = true")
HASH = "a" * 64
BROKEN = {
    "[clients\n": (1, "the file is not TOML", "Correct the line"),
    table("kiosk", "max_sesions = 2"): (3, "clients.kiosk.max_sesions is unknown", "Write max_sessions"),
    table("kiosk", "max_sessions = 0"): (3, "max_sessions is 0", "Write a whole number from 1"),
    table("kiosk", 'policy = "none"\nenabled = 1'): (4, "enabled is 1", "Write true or false"),
    f"{table('kiosk')}[clients.other]\n": (4, "clients.other has no credential", "Add token_sha256"),
    f'[clients.kiosk]\ntoken_sha256 = ["{TOKENS["kiosk"]}"]\n': (2, "not a SHA-256", "Write 64 hex digits"),
    f"{table('kiosk')}{table('web', token='kiosk')}": (
        5,
        "client kiosk has as well",
        "Give each client tokens of its own",
    ),
    table("kiosk", 'policy = "kios"'): (3, "which no table [policies.NAME] declares", "Add it, or correct the name"),
    table("kiosk", 'usd_per_day = "5"'): (3, "usd_per_day is a string", "Write an amount in USD"),
    f'{table("kiosk")}[jwt.app]\nalgorithms = ["none"]\n': (5, "which accepts tokens without a signature", "Write"),
}
"""Files with a mistake: its line, what the log says of it, and the remedy."""


async def answers(sessions: Sequence[RawClient]) -> None:
    """Let each session send an event, and read the provider's answer to it."""
    for session in sessions:
        session.send_event(type="input_audio_buffer.clear")
    for session in sessions:
        assert (await session.next_event())["type"] == "input_audio_buffer.cleared"


async def open_sessions(relay: Relay) -> dict[str, list[RawClient]]:
    """Half of them of each client."""
    opened: dict[str, list[RawClient]] = {name: [] for name in NAMES}
    for _ in range(0, SESSIONS, AT_ONCE):
        for name in NAMES:
            opened[name] += await asyncio.gather(*(connect(relay, name) for _ in range(AT_ONCE // 2)))
    for session in (*opened["kiosk"], *opened["web"]):
        assert (await session.next_event())["type"] == "session.created"
    return opened


async def break_and_correct(relay: Relay, path: Path, everyone: Sequence[RawClient]) -> None:
    """Write each broken file, and a good one behind it; at the end no file."""
    for number, (broken, (line, sentence, remedy)) in enumerate(BROKEN.items(), 1):
        write(path, broken)
        await asyncio.gather(answers(everyone), eventually(lambda: relay.metric(REFUSED) == 1, 20))
        found = await notes(relay)
        assert f"line {line}: " in found
        assert sentence in found
        assert remedy in found
        assert [(101, None)] * 2 == [await refusal(relay, name) for name in NAMES]
        write(path, table("kiosk", f"max_session_seconds = {1000 + number}") + ENDING)
        await eventually(lambda: relay.metric(REFUSED) == 0, 20)
    remove(path)
    await asyncio.gather(answers(everyone), eventually(lambda: relay.metric(REFUSED) == 1, 20))
    await eventually(lambda: relay.metric("realtime_relay_sessions_active") == len(everyone))


async def test_file_edited_under_load_leaves_sessions_unharmed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each session is answered after each edit. Only a credential that is removed with `end_sessions` ends its sessions."""
    monkeypatch.setattr(watcher, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(load, "CONFIRM_SECONDS", 0.01)
    path = tmp_path / "clients.toml"
    settings = {"RELAY_MAX_SESSIONS": str(2 * SESSIONS), "RELAY_MAX_SESSIONS_PER_CLIENT": str(SESSIONS)}
    async with relay_of(path, table("kiosk") + ENDING, **settings) as relay:
        opened = await open_sessions(relay)
        everyone = [session for sessions in opened.values() for session in sessions]
        try:
            await break_and_correct(relay, path, everyone)
            write(path, table("kiosk"))
            ended = await asyncio.gather(*(session.until_close() for session in opened["web"]))

            codes = [(end[0], end[1].partition(":")[0]) for end in ended if end is not None]
            assert [(1008, "client_disabled")] * (SESSIONS // 2) == codes
            await answers(opened["kiosk"])
            assert len(BROKEN) == len(relay.events("clients.file_rejected"))
            assert not relay.events("task.crashed")
        finally:
            await asyncio.gather(*(session.close() for session in everyone))
