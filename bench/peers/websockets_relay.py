"""An idiomatic relay on the `websockets` library: uvloop, no compression, two tasks per session.

It lacks everything that a production service needs: no dial before the answer, no metrics, no limits, no reasons.
"""

import asyncio
import importlib
import os
import signal
import sys
from contextlib import suppress

from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

Side = ServerConnection | ClientConnection


async def _forward(source: Side, sink: Side) -> None:
    # decode=False forwards text as bytes, which saves decoding and encoding it.
    with suppress(ConnectionClosed):
        while True:
            await sink.send(await source.recv(decode=False), text=True)
    await sink.close(source.close_code if source.close_code in (1000, 1001) else 1011)


async def _session(client: ServerConnection, upstream: str) -> None:
    assert client.request is not None  # noqa: S101 - an accepted connection has a request
    key = os.environ["OPENAI_API_KEY"]
    async with (
        connect(
            upstream + client.request.path,
            additional_headers={"Authorization": f"Bearer {key}"},
            compression=None,
            max_size=None,
        ) as provider,
        asyncio.TaskGroup() as group,
    ):
        group.create_task(_forward(client, provider))
        group.create_task(_forward(provider, client))


async def _main(port: int, upstream: str) -> None:
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with serve(lambda client: _session(client, upstream), "127.0.0.1", port, compression=None, max_size=None):
        await stopped.wait()


if __name__ == "__main__":
    importlib.import_module("uvloop").run(_main(int(sys.argv[1]), sys.argv[2]))
