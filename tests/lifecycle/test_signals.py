"""Signals to the real process: the order of signals, the drain, the exit code."""

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

from service import signals
from service.failures import CATALOGUE
from service.relay.closing_sides import CLIENT_CLOSE_SECONDS
from service.relay.drain import FAST_CLOSE_SECONDS
from tests.support.client_calls import (
    DRAINING_EVENT_PATH,
    exchange_events,
    open_call,
    open_calls,
    read_to_end,
    sample_value,
    scrape,
    wait_for_scrape,
)
from tests.support.harness import KEY_CANARY, eventually, open_raw
from tests.support.raw_websocket_server import CREATED, ServerConnection, raw_upstream
from tests.support.relay_process import Process, environment, get, serving

SCRIPTED = "/v1/realtime?model=scripted"
CLOSED = (1001, CATALOGUE["relay_draining"].close_text)


def drain_result(process: Process) -> Any:
    """The log event of the end of the drain."""
    return next(line for line in process.lines if line["event"] == "drain.finished")


@pytest.mark.timeout(180)
async def test_drain_with_five_hundred_sessions() -> None:
    """Open sessions continue while new ones are refused; at the deadline the others are closed with 1001, spread out."""
    async with serving(RELAY_DRAIN_SECONDS="4", RELAY_CLOSE_SPREAD_SECONDS="2") as (process, port, internal):
        clients = await open_calls(port, 500)
        process.process.send_signal(signal.SIGTERM)
        assert 500 == (await process.event("drain.started"))["sessions"]
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/v1/realtime?model=m") as plain:
            assert 426 == plain.status  # not a WebSocket, draining or not
        late = await open_raw(port)
        await late.close()
        assert (503, "relay_draining") == (late.answer.status, late.answer.error["code"])
        assert 1 <= int(late.answer.headers["Retry-After"]) <= 5
        assert "close" == late.answer.headers["Connection"]
        assert [503, 200] == [await get(f"{internal}/{path}") for path in ("readyz", "livez")]
        assert 1 == sample_value(await scrape(internal), "realtime_relay_draining")
        await asyncio.gather(*(exchange_events(client) for client in clients))
        for client in clients[:100]:
            await client.close()
        endings = await asyncio.gather(*(read_to_end(client) for client in clients[100:]))

        assert 0 == await process.rest()
        assert {("relay_draining", CLOSED)} == {(ending.code, ending.close) for ending in endings}
        moments = sorted(ending.at for ending in endings)
        assert 1 < moments[-1] - moments[0] < 20
        assert (100, 400, 0, False) == tuple(
            drain_result(process)[name] for name in ("finished", "closed", "aborted", "hurried")
        )
        assert {"client_lost": 100, "relay_draining": 400} == Counter(
            line["reason"] for line in process.lines if line["event"] == "session.ended"
        )


async def test_draining_event_reaches_only_clients_that_ask_for_it() -> None:
    """`?draining_event=true` yields one event, between two messages, with the time until the close; others get none."""
    async with serving(RELAY_DRAIN_SECONDS="2") as (process, port, _):
        asking, other = await open_call(port, DRAINING_EVENT_PATH), await open_call(port)
        process.process.send_signal(signal.SIGTERM)
        event = await asking.next_event()

        assert "relay.draining" == event["type"]
        assert 0 < event["closes_in_seconds"] <= 2
        assert CATALOGUE["relay_draining"].remedy == event["remedy"]
        await exchange_events(asking)
        first, second = await asyncio.gather(read_to_end(asking), read_to_end(other))
        assert (["error"], ["error"], CLOSED) == (first.events, second.events, first.close)
        assert 0 == await process.rest()


@pytest.mark.parametrize(
    ("setting", "query", "expected"),
    [("true", "", True), ("true", "&draining_event=false", False), ("false", "", False)],
)
async def test_draining_event_setting_is_the_default_of_the_query(setting: str, query: str, *, expected: bool) -> None:
    """RELAY_DRAINING_EVENT holds unless the client's query overrides it; the parameter is not sent upstream."""
    async with serving(RELAY_DRAIN_SECONDS="1.2", RELAY_DRAINING_EVENT=setting) as (process, port, _):
        client = await open_call(port, f"/v1/realtime?model=gpt-realtime{query}")
        process.process.send_signal(signal.SIGTERM)
        ending = await read_to_end(client)

        assert (["relay.draining", "error"] if expected else ["error"]) == ending.events
        await process.rest()


async def test_draining_event_of_unknown_value_is_refused() -> None:
    """A misspelt value is a 400 before the dial; it is not ignored."""
    async with serving() as (process, port, _):
        client = await open_raw(port, "/v1/realtime?model=gpt-realtime&draining_event=yes")
        await client.close()
        assert (400, "bad_request") == (client.answer.status, client.answer.error["code"])
        refused = await process.event("admission.refused")
        assert "draining_event is neither true nor false" == refused["detail"]


async def test_dial_in_flight_becomes_a_session_during_the_drain() -> None:
    """A dial that is in flight when the drain starts can still succeed; its session is then drained like the others."""
    answered = asyncio.Event()

    async def slow(connection: ServerConnection) -> None:
        await answered.wait()
        connection.send(CREATED)
        close = await connection.until_close()
        connection.send_close(close[0] if close else None)

    async with (
        raw_upstream(slow) as upstream,
        serving(
            RELAY_UPSTREAM="openai",
            OPENAI_BASE_URL=upstream.url,
            OPENAI_API_KEY=KEY_CANARY,
            RELAY_DRAIN_SECONDS="2",
            RELAY_DIAL_TIMEOUT_SECONDS="8",
            RELAY_MAX_DIALS="120",
        ) as (process, port, internal),
    ):
        dialling = [asyncio.ensure_future(open_raw(port, SCRIPTED)) for _ in range(60)]
        await wait_for_scrape(internal, lambda text: 60 == sample_value(text, "realtime_relay_dials_active"))
        process.process.send_signal(signal.SIGTERM)
        assert 60 == (await process.event("drain.started"))["dials"]
        answered.set()
        clients = await asyncio.gather(*dialling)
        assert {101} == {client.answer.status for client in clients}
        endings = await asyncio.gather(*(read_to_end(client) for client in clients))

        assert {CLOSED} == {ending.close for ending in endings}
        assert 0 == await process.rest()
        assert 60 == drain_result(process)["closed"]


@pytest.mark.parametrize("end", ["deadline", "hurry"])
async def test_dial_that_outlasts_the_drain_is_refused(end: str) -> None:
    """A dial in flight at the end of the drain is answered with relay_draining and Retry-After, before its own timeout."""
    async with serving(RELAY_DRAIN_SECONDS="0.5" if end == "deadline" else "600", RELAY_DIAL_TIMEOUT_SECONDS="60") as (
        process,
        port,
        internal,
    ):
        hanging = "/v1/realtime?model=gpt-realtime&simulate=hang"
        dialling = [asyncio.ensure_future(open_raw(port, hanging)) for _ in range(10)]
        await wait_for_scrape(internal, lambda text: 10 == sample_value(text, "realtime_relay_dials_active"))
        process.process.send_signal(signal.SIGTERM)
        await process.event("drain.started")
        began = asyncio.get_running_loop().time()
        if end == "hurry":
            process.process.send_signal(signal.SIGTERM)
        answers = [client.answer for client in await asyncio.gather(*dialling)]

        assert {(503, "relay_draining")} == {(answer.status, answer.error["code"]) for answer in answers}
        assert all(1 <= int(answer.headers["Retry-After"]) <= 5 for answer in answers)
        assert 0 == await process.rest()
        assert asyncio.get_running_loop().time() - began < 30  # not the timeout of the dial
        assert ["relay_draining"] * 10 == [
            line["reason"] for line in process.lines if line["event"] == "admission.refused"
        ]
        for client in dialling:
            await client.result().close()


async def test_client_that_reads_nothing_is_aborted_in_time() -> None:
    """Such a client cannot delay the end of the process: its session is aborted, and the exit code is 3."""

    async def flood(connection: ServerConnection) -> None:
        connection.send(CREATED)
        while not connection.writer.is_closing():
            connection.send(b'{"type":"response.output_audio.delta","delta":"' + b"A" * 60_000 + b'"}')
            await connection.writer.drain()
            await asyncio.sleep(0)  # uvloop writes between event loop iterations, and only then sees a full socket

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
        await wait_for_scrape(internal, lambda text: sample_value(text, held) > 1)
        began = asyncio.get_running_loop().time()
        process.process.send_signal(signal.SIGTERM)

        assert 3 == await process.rest()
        assert asyncio.get_running_loop().time() - began < 1 + CLIENT_CLOSE_SECONDS + 15
        assert 5 == drain_result(process)["aborted"]
        assert "warning" == drain_result(process)["level"]
        for client in stuck:
            client.reset()


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
async def test_second_signal_closes_sessions_within_a_second(first: signal.Signals) -> None:
    """The second signal closes the sessions with 1001 and a reason immediately, whatever time the drain has left."""
    async with serving(RELAY_DRAIN_SECONDS="600", RELAY_CLOSE_SPREAD_SECONDS="600") as (process, port, _):
        clients = await open_calls(port, 20)
        process.process.send_signal(first)
        message = (await process.event("signal.received"))["message"]
        assert "20 open session(s) can continue for 600 s" in message
        assert ("Press Ctrl-C again" if first is signal.SIGINT else "Send a second signal") in message
        await process.event("drain.started")
        began = asyncio.get_running_loop().time()
        process.process.send_signal(signal.SIGINT)
        endings = await asyncio.gather(*(read_to_end(client) for client in clients))

        assert {CLOSED} == {ending.close for ending in endings}
        assert 0 == await process.rest()
        assert asyncio.get_running_loop().time() - began < FAST_CLOSE_SECONDS + 15  # not the 600 s of the drain
        assert drain_result(process)["hurried"]


@pytest.mark.parametrize("numbers", [[signal.SIGQUIT], [signal.SIGTERM] * 3])
async def test_sigquit_or_third_signal_aborts_sessions(numbers: list[signal.Signals]) -> None:
    """No close frame is waited for; the exit code is 3 if a session was aborted."""
    async with serving(RELAY_DRAIN_SECONDS="600") as (process, port, _):
        mute = await open_call(port)
        for number in numbers:
            process.process.send_signal(number)
            await process.event("signal.received")

        code = await process.rest()
        assert (3 if drain_result(process)["aborted"] else 0) == code
        assert drain_result(process)["seconds"] < FAST_CLOSE_SECONDS
        await mute.close()


async def test_restart_on_the_same_port_after_sigkill() -> None:
    """SIGKILL closes the clients' connections, and a new process on the same port serves again at once."""
    async with serving() as (process, port, _):
        client = await open_call(port)
        process.process.kill()
        assert await client.until_close() is None
        await client.close()
        await process.rest()
        began = asyncio.get_running_loop().time()
        async with serving(RELAY_PORT=str(port)) as (_, again, _):
            await (await open_call(again)).close()
            assert asyncio.get_running_loop().time() - began < 15  # TIME_WAIT would take a minute


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("milliseconds", [0, 50, 100, 200, 300])
async def test_signal_during_the_start_exits_with_0(milliseconds: int, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C at any moment of the start, from the program's first lines on: exit code 0 and no traceback."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "serve",
        env=environment(RELAY_UPSTREAM="simulator"), cwd="/", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await eventually(lambda: is_caught(child.pid, signal.SIGTERM))  # the handler that is installed last
    await asyncio.sleep(milliseconds / 1000)  # not a wait for a state: the moment of the signal is the case
    child.send_signal(number)
    _, text = await asyncio.wait_for(child.communicate(), 60)

    assert 0 == child.returncode, text
    assert b"Traceback" not in text


def is_caught(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal; without one, the signal ends the process."""
    caught = re.findall(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(encoding="ascii"), re.MULTILINE)
    return bool(int(caught[0], 16) >> (number - 1) & 1)


async def test_sighup_ends_no_session() -> None:
    """SIGHUP, which process managers send to reload, closes nothing; the log states what is read again."""
    async with serving() as (process, port, _):
        client = await open_call(port)
        process.process.send_signal(signal.SIGHUP)
        assert "Nothing was reloaded" in (await process.event("signal.received"))["message"]
        await exchange_events(client)
        await client.close()


async def test_sighup_from_a_terminal_stops_the_process() -> None:
    """Closing the terminal in which the relay runs ends the relay."""
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
        assert 0 == await asyncio.wait_for(child.wait(), 60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        os.close(ours)


async def test_sigquit_ends_a_process_whose_stop_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last resort: a timer outside the event loop, which a stop that ends in time outruns."""
    monkeypatch.setattr(signals, "QUIT_SECONDS", 0.05)
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    handler = signals.Signals(30, lambda: 0, dict)
    handler._on_quit()

    assert handler.stop.is_set()
    await eventually(lambda: exits == [signals.QUIT_EXIT_CODE])
