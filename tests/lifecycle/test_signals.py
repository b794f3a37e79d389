"""Signals to the real process: the ladder, the drain, the exit code (rows I1 to I7 of the fault plan)."""

import asyncio
import contextlib
import os
import pty
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service.failures import CATALOGUE
from service.relay.drain import FAST_CLOSE_SECONDS
from service.relay.session import CLIENT_CLOSE_SECONDS
from tests.support.calls import DRAINING, call, calls, listen, scrape, talk, until_scrape, value
from tests.support.harness import KEY_CANARY, eventually, open_raw
from tests.support.raw_websocket_server import CREATED, Wire, raw_upstream
from tests.support.relay_process import Process, environment, get, serving

SCRIPTED = "/v1/realtime?model=scripted"
GOODBYE = (1001, CATALOGUE["relay_draining"].close_text)


def finished(process: Process) -> Any:
    """The line that tells how the drain went."""
    return next(line for line in process.lines if line["event"] == "drain.finished")


@pytest.mark.timeout(90)
async def test_i2_a_drain_with_five_hundred_calls() -> None:
    """Calls go on while newcomers are refused; at the deadline the rest hear 1001, spread out; none is forgotten."""
    async with serving(RELAY_DRAIN_SECONDS="4", RELAY_CLOSE_SPREAD_SECONDS="2") as (process, port, internal):
        clients = await calls(port, 500)
        process.process.send_signal(signal.SIGTERM)
        assert 500 == (await process.event("drain.started"))["sessions"]
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/v1/realtime?model=m") as plain:
            assert 426 == plain.status  # not a WebSocket: told so, draining or not
        newcomer = await open_raw(port)
        await newcomer.close()
        assert (503, "relay_draining") == (newcomer.answer.status, newcomer.answer.error["code"])
        assert 1 <= int(newcomer.answer.headers["Retry-After"]) <= 5
        assert "close" == newcomer.answer.headers["Connection"]
        assert [503, 200] == [await get(f"{internal}/{path}") for path in ("readyz", "livez")]
        assert 1 == value(await scrape(internal), "realtime_relay_draining")
        await asyncio.gather(*(talk(client) for client in clients))
        for client in clients[:100]:
            await client.close()
        told = await asyncio.gather(*(listen(client) for client in clients[100:]))

        assert 0 == await process.rest()
        assert {("relay_draining", GOODBYE)} == {(one.code, one.close) for one in told}
        moments = sorted(one.at for one in told)
        assert 1 < moments[-1] - moments[0] < 3.5
        assert (100, 400, 0, False) == tuple(
            finished(process)[name] for name in ("finished", "closed", "aborted", "hurried")
        )
        assert {"client_lost": 100, "relay_draining": 400} == Counter(
            line["reason"] for line in process.lines if line["event"] == "session.ended"
        )


async def test_whoever_asks_is_told_of_the_drain() -> None:
    """`?draining_event=true` brings one event with the time that is left, between two messages; nobody else hears of it."""
    async with serving(RELAY_DRAIN_SECONDS="2") as (process, port, _):
        asking, other = await call(port, DRAINING), await call(port)
        process.process.send_signal(signal.SIGTERM)
        event = await asking.next_event()

        assert "relay.draining" == event["type"]
        assert 0 < event["closes_in_seconds"] <= 2
        assert CATALOGUE["relay_draining"].remedy == event["remedy"]
        await talk(asking)
        first, second = await asyncio.gather(listen(asking), listen(other))
        assert (["error"], ["error"], GOODBYE) == (first.events, second.events, first.close)
        assert 0 == await process.rest()


@pytest.mark.parametrize(
    ("setting", "wish", "hears"), [("true", "", True), ("true", "&draining_event=false", False), ("false", "", False)]
)
async def test_the_setting_holds_for_whoever_says_nothing(setting: str, wish: str, *, hears: bool) -> None:
    """RELAY_DRAINING_EVENT is the default; each client may choose otherwise, and the wish does not travel upstream."""
    async with serving(RELAY_DRAIN_SECONDS="1.2", RELAY_DRAINING_EVENT=setting) as (process, port, _):
        client = await call(port, f"/v1/realtime?model=gpt-realtime{wish}")
        process.process.send_signal(signal.SIGTERM)
        told = await listen(client)

        assert (["relay.draining", "error"] if hears else ["error"]) == told.events
        await process.rest()


async def test_an_odd_wish_is_refused() -> None:
    """A mistyped value is a 400 before anything is dialled, not a silent no."""
    async with serving() as (process, port, _):
        client = await open_raw(port, "/v1/realtime?model=gpt-realtime&draining_event=yes")
        await client.close()
        assert (400, "bad_request") == (client.answer.status, client.answer.error["code"])
        refused = await process.event("admission.refused")
        assert "draining_event is neither true nor false" == refused["detail"]


async def test_i3_dials_in_flight() -> None:
    """Callers who are being connected when the drain begins are answered: with a session that is drained, or with why not."""
    waiting = asyncio.Event()

    async def slow(wire: Wire) -> None:
        await waiting.wait()
        wire.send(CREATED)
        close = await wire.until_close()
        wire.send_close(close[0] if close else None)

    async with (
        raw_upstream(slow) as upstream,
        serving(
            RELAY_UPSTREAM="openai",
            OPENAI_BASE_URL=upstream.url,
            OPENAI_API_KEY=KEY_CANARY,
            RELAY_DRAIN_SECONDS="2",
            RELAY_DIAL_TIMEOUT_SECONDS="8",
        ) as (process, port, internal),
    ):
        dialling = [asyncio.ensure_future(open_raw(port, SCRIPTED)) for _ in range(60)]
        await until_scrape(internal, lambda text: 60 == value(text, "realtime_relay_dials_active"))
        process.process.send_signal(signal.SIGTERM)
        assert 60 == (await process.event("drain.started"))["dials"]
        waiting.set()
        clients = await asyncio.gather(*dialling)
        assert {101} == {client.answer.status for client in clients}
        told = await asyncio.gather(*(listen(client) for client in clients))

        assert {GOODBYE} == {one.close for one in told}
        assert 0 == await process.rest()
        assert 60 == finished(process)["closed"]


@pytest.mark.parametrize("way", ["deadline", "hurry"])
async def test_i3_dials_that_outlast_the_drain(way: str) -> None:
    """Whoever is still being connected when the drain's time is over hears why, and that it may be tried elsewhere."""
    async with serving(RELAY_DRAIN_SECONDS="0.5" if way == "deadline" else "600", RELAY_DIAL_TIMEOUT_SECONDS="60") as (
        process,
        port,
        internal,
    ):
        hanging = "/v1/realtime?model=gpt-realtime&simulate=hang"
        dialling = [asyncio.ensure_future(open_raw(port, hanging)) for _ in range(10)]
        await until_scrape(internal, lambda text: 10 == value(text, "realtime_relay_dials_active"))
        process.process.send_signal(signal.SIGTERM)
        await process.event("drain.started")
        began = asyncio.get_running_loop().time()
        if way == "hurry":
            process.process.send_signal(signal.SIGTERM)
        answers = [client.answer for client in await asyncio.gather(*dialling)]

        assert {(503, "relay_draining")} == {(answer.status, answer.error["code"]) for answer in answers}
        assert all(1 <= int(answer.headers["Retry-After"]) <= 5 for answer in answers)
        assert 0 == await process.rest()
        assert asyncio.get_running_loop().time() - began < 2.5
        assert ["relay_draining"] * 10 == [
            line["reason"] for line in process.lines if line["event"] == "admission.refused"
        ]
        for client in dialling:
            await client.result().close()


async def test_i4_stuck_clients_are_cut_in_time() -> None:
    """A client that reads nothing cannot hold the process: it is cut in the end, and the exit code says so."""

    async def flood(wire: Wire) -> None:
        wire.send(CREATED)
        while not wire.writer.is_closing():
            wire.send(b'{"type":"response.output_audio.delta","delta":"' + b"A" * 60_000 + b'"}')
            await wire.writer.drain()
            await asyncio.sleep(0)  # uvloop writes between turns of the loop, and only then knows that it is full

    async with (
        raw_upstream(flood) as upstream,
        serving(
            RELAY_UPSTREAM="openai",
            OPENAI_BASE_URL=upstream.url,
            OPENAI_API_KEY=KEY_CANARY,
            RELAY_DRAIN_SECONDS="1",
            RELAY_CLOSE_SPREAD_SECONDS="0",
        ) as (process, port, internal),
    ):
        stuck = [await open_raw(port, SCRIPTED) for _ in range(5)]
        for client in stuck:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's and uvloop's have it
        held = 'realtime_relay_backpressure_seconds_total{direction="upstream_to_client"}'
        await until_scrape(internal, lambda text: value(text, held) > 1)
        began = asyncio.get_running_loop().time()
        process.process.send_signal(signal.SIGTERM)

        assert 3 == await process.rest()
        assert asyncio.get_running_loop().time() - began < 1 + CLIENT_CLOSE_SECONDS + 3
        assert 5 == finished(process)["aborted"]
        assert "warning" == finished(process)["level"]
        for client in stuck:
            client.reset()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_i5_a_second_signal_ends_it_within_a_second(first: signal.Signals) -> None:
    """The second signal ends the calls with 1001 and a reason at once, whatever the drain allows."""
    async with serving(RELAY_DRAIN_SECONDS="600", RELAY_CLOSE_SPREAD_SECONDS="600") as (process, port, _):
        clients = await calls(port, 20)
        process.process.send_signal(first)
        words = (await process.event("signal.received"))["message"]
        assert "20 session(s) may go on for 600 s" in words
        assert ("Ctrl-C again" if first is signal.SIGINT else "a second signal") in words
        await process.event("drain.started")
        began = asyncio.get_running_loop().time()
        process.process.send_signal(signal.SIGINT)
        told = await asyncio.gather(*(listen(client) for client in clients))

        assert {GOODBYE} == {one.close for one in told}
        assert 0 == await process.rest()
        assert asyncio.get_running_loop().time() - began < FAST_CLOSE_SECONDS + 1
        assert finished(process)["hurried"]


@pytest.mark.parametrize("ladder", [[signal.SIGQUIT], [signal.SIGTERM] * 3])
async def test_the_last_rung_cuts(ladder: list[signal.Signals]) -> None:
    """SIGQUIT, or a third signal, waits for nobody; the exit code tells that sessions were cut."""
    async with serving(RELAY_DRAIN_SECONDS="600") as (process, port, _):
        mute = await call(port)
        began = asyncio.get_running_loop().time()
        for number in ladder:
            process.process.send_signal(number)
            await process.event("signal.received")

        code = await process.rest()
        assert (3 if finished(process)["aborted"] else 0) == code
        assert asyncio.get_running_loop().time() - began < FAST_CLOSE_SECONDS
        assert finished(process)["seconds"] < FAST_CLOSE_SECONDS
        await mute.close()


async def test_i6_a_kill_and_a_restart() -> None:
    """After SIGKILL clients see their connection end, and a successor on the same port serves within two seconds."""
    async with serving() as (process, port, _):
        client = await call(port)
        process.process.kill()
        assert await client.until_close() is None
        await client.close()
        await process.rest()
        began = asyncio.get_running_loop().time()
        async with serving(RELAY_PORT=str(port)) as (_, again, _):
            await (await call(again)).close()
            assert asyncio.get_running_loop().time() - began < 2 + 2  # two more for a machine that is busy with tests


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("milliseconds", [0, 50, 100, 200, 300])
async def test_i7_a_signal_during_the_start(milliseconds: int, number: signal.Signals) -> None:
    """Whenever SIGTERM or Ctrl-C comes, from the program's first lines on, the process ends well, and leaves no traceback."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "serve",
        env=environment(RELAY_UPSTREAM="simulator"), cwd="/", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await eventually(lambda: is_caught(child.pid, signal.SIGTERM))  # the last of them
    await asyncio.sleep(milliseconds / 1000)  # a moment of the start is what is tested
    child.send_signal(number)
    _, text = await asyncio.wait_for(child.communicate(), 10)

    assert 0 == child.returncode, text
    assert b"Traceback" not in text


def is_caught(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal; before that the system ends it, as it ends every process."""
    caught = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.MULTILINE)
    return bool(int(caught[0], 16) >> (number - 1) & 1)


async def test_sighup_ends_nothing() -> None:
    """A reload, as process managers send it, drops no call, and says what is read again and what is not."""
    async with serving() as (process, port, _):
        client = await call(port)
        process.process.send_signal(signal.SIGHUP)
        assert "Nothing to read again" in (await process.event("signal.received"))["message"]
        await talk(client)
        await client.close()


async def test_a_closed_terminal_is_a_signal_to_stop() -> None:
    """Who closes the terminal in which the relay runs leaves no relay behind."""
    ours, theirs = pty.openpty()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "serve",
        env=environment(RELAY_UPSTREAM="simulator", RELAY_LOG_FORMAT="json"), cwd="/", stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    text = b""
    while b"service.started" not in text:
        text += await asyncio.to_thread(os.read, ours, 65_536)
    child.send_signal(signal.SIGHUP)
    try:
        assert 0 == await asyncio.wait_for(child.wait(), 5)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        os.close(ours)
