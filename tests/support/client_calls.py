"""Calls through a relay process: many, some of them busy, some of them stuck."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from tests.support.harness import DEFAULT_PATH, RawClient, open_raw

DRAINING_EVENT_PATH = f"{DEFAULT_PATH}&draining_event=true"


@dataclass
class CallRecord:
    """What a call's client heard to its end."""

    events: list[str] = field(default_factory=list)
    code: str | None = None  # of the error before the end
    close: tuple[int | None, str] | None = None
    at: float = 0.0  # by the loop's time


async def open_call(port: int, path: str = DEFAULT_PATH) -> RawClient:
    """A call that has been greeted."""
    client = await open_raw(port, path)
    assert (await client.next_event())["type"] == "session.created"
    return client


async def open_calls(port: int, number: int, path: str = DEFAULT_PATH) -> list[RawClient]:
    """So many of them, a few at a time."""
    found: list[RawClient] = []
    while len(found) < number:
        found += await asyncio.gather(*(open_call(port, path) for _ in range(min(50, number - len(found)))))
    return found


async def exchange_events(client: RawClient) -> None:
    """One event each way."""
    client.send_event(type="session.update", session={"type": "realtime"})
    while (await client.next_event())["type"] != "session.updated":
        pass


async def read_to_end(client: RawClient) -> CallRecord:
    """Hear everything to the end, and hang up."""
    told = CallRecord()
    while (event := await client.next_event()) is not None:
        told.events.append(event["type"])
        if event["type"] == "error":
            told.code = event["error"]["code"]
    told.close = await client.until_close()
    told.at = asyncio.get_running_loop().time()
    await client.close()
    return told


async def scrape(internal: str) -> str:
    """What Prometheus would get."""
    async with aiohttp.ClientSession() as http, http.get(f"{internal}/metrics") as reply:
        assert 200 == reply.status
        return await reply.text()


def sample_value(text: str, series: str) -> float:
    """The value of a series, as it stands in a scrape."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, series
    return float(found.group(1))


async def wait_for_scrape(internal: str, holds: Callable[[str], bool]) -> str:
    """Scrape until something holds; returns that scrape."""
    async with asyncio.timeout(15):
        while not holds(text := await scrape(internal)):
            pass
    return text
