"""The sessions of GPT-Live that the benchmark drives."""

import json
from collections.abc import AsyncIterator

import pytest

from bench.apis import LIVE
from bench.contenders import ClientTarget, Contender
from bench.load import SessionGroup, Upstream
from bench.messages import Outgoing
from bench.wire import FrameReader
from service.realtime import live

_SESSIONS = 3


class _Reader(FrameReader):
    payload = b""

    def message(self, payload: bytes) -> None:
        self.payload = payload


@pytest.fixture
async def group() -> AsyncIterator[SessionGroup]:
    """Open sessions on a direct connection."""
    upstream = Upstream(LIVE)
    await upstream.start(None)
    sessions = SessionGroup(Contender("direct", ClientTarget(upstream.port)), upstream)
    await sessions.open(_SESSIONS)
    yield sessions
    await sessions.close()
    upstream.stop()


def test_events_are_those_of_the_api() -> None:
    """Each is JSON of a type of its direction, with the stamp in it."""
    reader, types = _Reader(), []
    outgoing = Outgoing(LIVE.down, 1, key=b"", forwards_verbatim=True)
    for kind in (LIVE.down, *LIVE.further):
        outgoing.use(kind)
        reader.feed(outgoing.next(0))
        types.append(json.loads(reader.payload)["type"])

    assert set(types) == {live.OUTPUT_AUDIO, live.INPUT_TRANSCRIPT, live.OUTPUT_TRANSCRIPT, live.USAGE_UPDATED}
    assert json.loads(LIVE.start)["type"] == live.SESSION_START
    assert json.loads(LIVE.first_event)["type"] == live.SESSION_STARTED


async def test_sessions_carry_audio_and_further_events_in_order(group: SessionGroup) -> None:
    """Every event counts, and the chains of both ends agree."""
    for client, upstream in group.pairs():
        assert upstream is not None
        for _ in LIVE.further:
            client.send()
            upstream.send()
            upstream.send_further()
    await group.drain(30)

    assert group.verdict().is_clean
    assert group.received == _SESSIONS * (2 + 3 * len(LIVE.further))


async def test_changed_further_event_is_found(group: SessionGroup) -> None:
    """The chain of the receiver differs from then on."""
    client, upstream = group.pairs()[0]
    assert upstream is not None
    assert upstream.outgoing is not None
    upstream.outgoing.use(LIVE.further[0])
    frame = upstream.next_frame()
    upstream.write(frame.replace(b" hello", b" hallo"))
    await group.drain(30)

    assert client.incoming is not None
    assert client.incoming.received == 2
    assert group.verdict().changed == 1


async def test_upstream_answers_the_close_of_a_session(group: SessionGroup) -> None:
    """With the last usage and a close frame, after which the connection ends."""
    client, upstream = group.pairs()[0]
    assert upstream is not None
    upstream.message(LIVE.close)
    await client.closed

    assert client.incoming is not None
    assert client.incoming.foreign == 1
