"""A session whose upstream connection is replaced: nothing is lost, doubled or counted twice, and it ends once."""

import asyncio
import json

from service.realtime.frames import Opcode
from service.upstream.dial import DialProgress
from service.upstream.target import DialRequest
from tests.support import scripted_upstream
from tests.support.harness import eventually, within
from tests.support.raw_websocket_server import CREATED, ServerConnection

REQUEST = DialRequest((("model", "scripted"),))


class Upstreams:
    """Serves every connection: sends the first event, then what the test says; keeps what it receives."""

    def __init__(self) -> None:
        self.connections: list[ServerConnection] = []
        self.received: list[list[bytes]] = []
        self.closed = 0

    async def serve(self, connection: ServerConnection) -> None:
        """Serve one connection to its end."""
        received: list[bytes] = []
        self.connections.append(connection)
        self.received.append(received)
        connection.send(CREATED)
        async for payload in connection.messages():
            received.append(payload)  # noqa: PERF401 - seen while it grows
        self.closed += 1


async def test_session_goes_on_with_another_upstream_and_counts_both() -> None:
    """Messages of both directions go to and come from the second one; the first is closed by its new owner."""
    upstreams = Upstreams()
    async with scripted_upstream.session(upstreams.serve) as found:
        client, session = found.client, found.session
        client.send_event(type="input_audio_buffer.append", audio="A" * 200, n=1)
        await eventually(lambda: upstreams.received[0])
        connected = await found.relay.app.connector.dial(REQUEST, DialProgress(), "client")
        connected.items.clear()

        former = session.replace_upstream(connected)
        await former.close()
        client.send_event(type="input_audio_buffer.append", audio="A" * 200, n=2)
        await eventually(lambda: upstreams.received[1])
        upstreams.connections[1].send(b'{"type":"response.created","n":3}')

        assert 3 == (await within(client.next_event(), 3))["n"]
        assert [[1], [2]] == [[json.loads(event)["n"] for event in received] for received in upstreams.received]
        view = session.view()
        assert view is not None
        assert (2, 2) == (view.to_upstream.messages, view.to_client.messages)
        await client.close()
        await found.ended()
        await eventually(lambda: upstreams.closed == len(upstreams.connections))
        assert 1 == len(found.relay.events("session.ended"))


async def test_backpressure_moves_with_the_upstream_leg() -> None:
    """A client that is held for a full upstream is read again once another, empty one takes its place."""
    upstreams = Upstreams()
    async with scripted_upstream.session(upstreams.serve) as found:
        client, session = found.client, found.session
        stuck = upstreams.connections[0]
        stuck.writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport that can read
        message = json.dumps({"type": "input_audio_buffer.append", "audio": "A" * 60_000}).encode()
        while not session._to_upstream.is_held_back:
            client.send_frame(Opcode.TEXT, message)
            await asyncio.sleep(0)
        connected = await found.relay.app.connector.dial(REQUEST, DialProgress(), "client")
        connected.items.clear()

        former = session.replace_upstream(connected)
        former.abort()

        assert not session._to_upstream.is_held_back
        client.send_event(type="input_audio_buffer.commit")
        await eventually(lambda: upstreams.received[1] and b"commit" in upstreams.received[1][-1])
        stuck.writer.transport.resume_reading()
