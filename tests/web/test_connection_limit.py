"""service/web/connection_limit.py, in a real process with a real limit on open files."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from urllib.parse import urlsplit

from tests.support.harness import open_raw, within
from tests.support.relay_process import environment, get

FILES = 220


async def test_silent_connections_leave_descriptors_for_probes_and_sessions() -> None:
    """Connections above the limit are aborted and logged once; a probe and an open session are still served."""
    child = await asyncio.create_subprocess_exec(
        "sh", "-c", f'ulimit -n {FILES} && exec "$0" -m service serve', sys.executable,
        env=environment(RELAY_UPSTREAM="simulator"), cwd="/", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stderr is not None

    async def event(name: str) -> dict[str, str]:
        while True:
            line = json.loads(await within(child.stderr.readline(), 60))  # type: ignore[union-attr]  # it is piped
            if line["event"] == name:
                return dict(line)

    try:
        started = await event("service.started")
        port, health = urlsplit(started["url"]).port or 0, urlsplit(started["health"])
        async with AsyncExitStack() as stack:
            client = await open_raw(port)
            stack.push_async_callback(client.close)
            await client.next_event()
            silent = []
            for _ in range(FILES):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                stack.callback(writer.close)
                silent.append(reader)
            warning = await event("connections.turned_away")

            assert 1 <= int(warning["connections"])
            assert "ulimit -n" in warning["remedy"]
            assert b"" == await read_end(silent[-1])
            assert 200 == await get(f"http://{health.netloc}/livez")
            assert b" 200 " in await livez_from("127.0.0.2", port)  # another address has its own share
            client.send_event(type="session.update", session={"type": "realtime", "instructions": "x"})
            assert "session.updated" == (await client.next_event())["type"]
    finally:
        child.terminate()
        await child.communicate()
    assert 0 == child.returncode


async def livez_from(address: str, port: int) -> bytes:
    """The head of the answer to a probe from an address of this machine."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    head = await within(reader.readuntil(b"\r\n\r\n"), 10)
    writer.close()
    return head


async def read_end(reader: asyncio.StreamReader) -> bytes:
    """Return what an aborted connection has received."""
    try:
        return await within(reader.read(), 5)
    except ConnectionResetError:
        return b""
