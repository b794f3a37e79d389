"""What the machine does to the real process: it stalls, throttles, runs out (rows I11 to I17 of the fault plan)."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from tests.support.calls import call, calls, scrape, talk, until_scrape, value
from tests.support.relay_process import Process, get, serving

LAG: Final = "realtime_relay_event_loop_lag_seconds"


async def test_i12_a_stall_drops_no_call() -> None:
    """A process that stood still for seconds, as on a suspended machine, goes on with its calls and tells how late it was."""
    async with serving() as (process, port, internal):
        clients = await calls(port, 20)
        process.process.send_signal(signal.SIGSTOP)
        for client in clients:
            client.send_event(type="session.update", session={"type": "realtime"})
        await asyncio.sleep(2)  # the stall itself
        process.process.send_signal(signal.SIGCONT)
        for client in clients:
            assert "session.updated" == (await client.next_event())["type"]
        assert 200 == await get(f"{internal}/livez")

        await until_scrape(internal, lambda text: value(text, f"{LAG}_sum") > 1)
        for client in clients:
            await client.close()


@asynccontextmanager
async def throttled(process: Process) -> AsyncIterator[None]:
    """A tenth of a processor, as a quota of 100m gives it: 10 of every 100 milliseconds."""

    async def starve() -> None:
        while True:
            process.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(0.09)
            process.process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.01)

    starving = asyncio.ensure_future(starve())
    try:
        yield
    finally:
        starving.cancel()
        process.process.send_signal(signal.SIGCONT)


async def test_i15_probes_pass_on_a_tenth_of_a_processor() -> None:
    """Throttled to 100m, probes answer within their time-outs, calls go on, and the lag shows in its histogram."""
    async with serving() as (process, port, internal):
        clients = await calls(port, 10)
        async with throttled(process):
            for path in ("livez", "readyz", "livez"):
                async with asyncio.timeout(2):
                    assert 200 == await get(f"{internal}/{path}")
            async with asyncio.timeout(10):
                await asyncio.gather(*(talk(client) for client in clients))
            punctual = f'{LAG}_bucket{{le="0.005"}}'
            await until_scrape(internal, lambda text: value(text, f"{LAG}_count") > value(text, punctual))
        for client in clients:
            await client.close()


async def until_dropped(url: str, internal: str) -> None:
    """Ask in the wrong way, which is a line in the log each time, until lines are lost."""
    async with asyncio.timeout(50), aiohttp.ClientSession() as http:

        async def ask(times: int) -> None:
            for _ in range(times):
                async with http.get(url) as refused:
                    assert 426 == refused.status

        while not value(await scrape(internal), "realtime_relay_log_lines_dropped_total"):
            await asyncio.gather(*(ask(100) for _ in range(20)))


async def test_i16_a_log_that_nobody_reads() -> None:
    """When whoever reads the log stalls, calls go on and end, and the lines that were lost are counted."""
    async with serving() as (process, port, internal):
        pipe = process.process._transport.get_pipe_transport(2)  # type: ignore[attr-defined]  # asyncio's own way to it
        pipe.pause_reading()  # nobody reads from here on
        await until_dropped(f"http://127.0.0.1:{port}/v1/realtime", internal)
        client = await call(port)
        await talk(client)
        process.process.send_signal(signal.SIGTERM)
        assert 200 == await get(f"{internal}/livez")
        pipe.resume_reading()  # so that the test can end
        await client.close()


async def test_i17_many_scrapes_at_once() -> None:
    """A hundred scrapes in parallel, beside calls, cost the event loop less than 50 ms at a time, and all are answered."""
    async with serving() as (_, port, internal):
        clients = await calls(port, 50)
        before = await scrape(internal)
        texts = await asyncio.gather(*(scrape(internal) for _ in range(100)))
        assert all("realtime_relay_sessions_active 50.0" in text for text in texts)
        measured = value(before, f"{LAG}_count")
        after = await until_scrape(internal, lambda text: value(text, f"{LAG}_count") > measured + 1)
        within = f'{LAG}_bucket{{le="0.05"}}'
        assert value(after, f"{LAG}_count") - measured == value(after, within) - value(before, within)
        for client in clients:
            await client.close()
