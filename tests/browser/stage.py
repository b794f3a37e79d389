"""A relay on its simulator, with real sessions, driven by lines of JSON on standard input. For the browser tests.

Each line is a command, `{"do": NAME, ...}`; each answer is one line. The relay is a process of its own, so that it can be
killed and started again on the same ports. The clients live here. All of it ends with standard input.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from service.realtime.closing import parse_close
from service.realtime.frames import Opcode
from service.realtime.scanner_items import ControlFrame
from tests.support.harness import RawClient, open_raw, payload_of
from tests.support.relay_process import Process, serving_in

_SESSION: Final = "/v1/realtime?model=gpt-realtime"
_ANY: Final = {"RELAY_PORT": "0", "RELAY_INTERNAL_PORT": "0"}


class Client:
    """A connected client. It answers pings, and keeps the events that it receives."""

    def __init__(self, raw: RawClient) -> None:
        self.raw = raw
        self.events: asyncio.Queue[Any] = asyncio.Queue()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while (item := await self.raw.next_item_or_ping()) is not None:
            if isinstance(item, bytes):
                self.events.put_nowait(json.loads(payload_of(item)))
            elif isinstance(item, ControlFrame) and item.opcode is Opcode.PING:
                self.raw.send_frame(Opcode.PONG, item.payload)
            elif isinstance(item, ControlFrame) and item.opcode is Opcode.CLOSE:
                self.events.put_nowait({"type": "close", "code": parse_close(item.payload)[0]})

    def leave(self) -> None:
        """Disconnect."""
        self._reading.cancel()
        self.raw.reset()


class Stage:
    """The relay that runs, and the clients that are connected to it."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._process: Process | None = None
        self._clients: list[Client] = []
        self._ports = _ANY
        self._public = 0

    async def start(self, settings: dict[str, str] | None = None) -> dict[str, Any]:
        """Start a relay, on the ports of the one before, unless a connection of another program has taken one of them."""
        await self.stop()
        given = {"RELAY_UPSTREAM": "simulator", "RELAY_DRAIN_SECONDS": "0"}
        try:
            found = await self._stack.enter_async_context(
                serving_in(Path("/"), **given | self._ports | (settings or {}))
            )
        except AssertionError:
            found = await self._stack.enter_async_context(serving_in(Path("/"), **given | _ANY | (settings or {})))
        process, self._public, url = found
        self._process = process
        self._ports = {"RELAY_PORT": str(self._public), "RELAY_INTERNAL_PORT": str(urlsplit(url).port)}
        self._reader = asyncio.create_task(_drop_log(process))
        return {"public": f"http://127.0.0.1:{self._public}", "internal": url}

    async def stop(self) -> dict[str, Any]:
        """Kill the relay, if one runs, and drop the clients."""
        await self.leave()
        if self._process is not None:
            if self._process.process.returncode is None:
                self._process.process.kill()
            await self._reader
            self._process = None
        await self._stack.aclose()
        return {}

    async def pause(self) -> dict[str, Any]:
        """Suspend the relay: it accepts connections, and answers nothing."""
        os.kill(self._pid(), signal.SIGSTOP)
        return {}

    async def resume(self) -> dict[str, Any]:
        """Let the relay go on."""
        os.kill(self._pid(), signal.SIGCONT)
        return {}

    async def drain(self) -> dict[str, Any]:
        """Ask the relay to shut down."""
        os.kill(self._pid(), signal.SIGTERM)
        return {}

    async def open(
        self,
        count: int = 1,
        model: str = "gpt-realtime",
        token: str = "",
        path: str = "",
        headers: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Open sessions, or try to; returns the HTTP statuses."""
        path = path or f"/v1/realtime?model={quote(model, safe='')}"
        sent = ({"Authorization": f"Bearer {token}"} if token else {}) | (headers or {})
        statuses = []
        for _ in range(count):
            client = await open_raw(self._public, path, sent)
            statuses.append(client.answer.status)
            if client.answer.status == 101:
                self._clients.append(Client(client))
                await self._clients[-1].events.get()
            else:
                await client.close()
        return {"statuses": statuses}

    async def speak(self, count: int = 1) -> dict[str, Any]:
        """Let the last clients ask for an answer each, and read it."""
        for client in self._clients[-count:]:
            client.raw.send_event(type="response.create")
            while (await client.events.get())["type"] not in {"response.done", "close"}:
                pass
        return {}

    async def ends(self) -> dict[str, Any]:
        """The reason of the error event and the close code that a client gets."""
        waiting = {asyncio.create_task(self._end_of(client)) for client in self._clients}
        done, rest = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in rest:
            task.cancel()
        return done.pop().result()

    async def _end_of(self, client: Client) -> dict[str, Any]:
        reason = None
        while (event := await client.events.get())["type"] != "close":
            if event["type"] == "error":
                reason = event["error"]["code"]
        return {"reason": reason, "close": event["code"]}

    async def leave(self) -> dict[str, Any]:
        """Disconnect all clients."""
        for client in self._clients:
            client.leave()
        self._clients = []
        return {}

    def _pid(self) -> int:
        assert self._process is not None
        return self._process.process.pid


async def _drop_log(process: Process) -> None:
    assert process.process.stderr is not None
    while await process.process.stderr.read(1 << 16):
        pass


async def main() -> None:
    """Carry out the commands in turn."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    stage = Stage()
    try:
        while line := await reader.readline():
            command = json.loads(line)
            action = getattr(stage, command.pop("do"))
            try:
                answer = await asyncio.wait_for(action(**command), 90)
            except Exception as exc:  # noqa: BLE001 - the test that asked shows it
                answer = {"error": f"{type(exc).__name__}: {exc}"}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
    finally:
        await stage.stop()


if __name__ == "__main__":
    asyncio.run(main())
