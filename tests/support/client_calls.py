"""Clients of a relay process: many sessions at a time, and what the process exposes to Prometheus meanwhile."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp

from tests.support.harness import DEFAULT_PATH, RawClient, open_raw

DRAINING_EVENT_PATH = f"{DEFAULT_PATH}&draining_event=true"


@dataclass
class CallRecord:
    """What a client received up to the end of its session."""

    events: list[str] = field(default_factory=list)
    code: str | None = None  # of the last error event
    close: tuple[int | None, str] | None = None
    at: float = 0.0  # loop time of the end


async def open_call(port: int, path: str = DEFAULT_PATH) -> RawClient:
    """Open a session and read its first event."""
    client = await open_raw(port, path)
    assert (await client.next_event())["type"] == "session.created"
    return client


async def open_calls(port: int, number: int, path: str = DEFAULT_PATH) -> list[RawClient]:
    """Open this number of sessions, 50 at a time."""
    clients: list[RawClient] = []
    while len(clients) < number:
        clients += await asyncio.gather(*(open_call(port, path) for _ in range(min(50, number - len(clients)))))
    return clients


async def exchange_events(client: RawClient) -> None:
    """Send one event and wait for its answer."""
    client.send_event(type="session.update", session={"type": "realtime"})
    while (await client.next_event())["type"] != "session.updated":
        pass


async def read_to_end(client: RawClient) -> CallRecord:
    """Read to the end of the session, and close the client."""
    record = CallRecord()
    while (event := await client.next_event()) is not None:
        record.events.append(event["type"])
        if event["type"] == "error":
            record.code = event["error"]["code"]
    record.close = await client.until_close()
    record.at = asyncio.get_running_loop().time()
    await client.close()
    return record


async def scrape(internal: str) -> str:
    """Scrape the metrics."""
    async with aiohttp.ClientSession() as http, http.get(f"{internal}/metrics") as response:
        assert 200 == response.status
        return await response.text()


def sample_value(text: str, series: str) -> float:
    """The value of a series in a scrape."""
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    assert found, series
    return float(found.group(1))


async def wait_for_scrape(internal: str, holds: Callable[[str], bool]) -> str:
    """Scrape until a condition holds; returns that scrape."""
    async with asyncio.timeout(60):
        while not holds(text := await scrape(internal)):
            pass
    return text
